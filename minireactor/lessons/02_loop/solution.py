"""The fault repaired: a client that has gone is readable, for ever, until the loop forgets it."""

import selectors
import socket
import sys

selector = selectors.DefaultSelector()


def accept(listener):
    connection, _ = listener.accept()
    connection.setblocking(False)
    selector.register(connection, selectors.EVENT_READ, answer)


def answer(connection):
    request = connection.recv(1024)
    if request:
        connection.sendall(request.upper())
    else:
        selector.unregister(connection)
        connection.close()


def turn(longest):
    """One turn of the loop, of so many seconds at most. How many sockets had something to say."""
    ready = selector.select(longest)
    for key, _ in ready:
        key.data(key.fileobj)
    return len(ready)


# ---- The check: the fault is above this line ----

WAKEUPS = 100


def ask(client, request):
    client.sendall(request)
    turn(5)
    try:
        return client.recv(1024)
    except socket.timeout:
        return b""


with socket.create_server(("127.0.0.1", 0)) as listener:
    selector.register(listener, selectors.EVENT_READ, accept)
    with socket.create_connection(listener.getsockname(), timeout=2) as client:
        turn(5)  # accepts
        (connection,) = {key.fileobj for key in selector.get_map().values()} - {listener}
        for request in (b"hello", b"hello again"):
            answer = ask(client, request)
            if answer != request.upper():
                sys.exit(f"fault: the client has sent {request!r}, and its answer is {answer!r}")
    wakeups = 0
    while wakeups < WAKEUPS and turn(0.1):
        wakeups += 1
if wakeups == WAKEUPS:
    sys.exit(f"fault: the loop woke up {wakeups:,} times for a client that has gone")
if len(selector.get_map()) != 1:
    sys.exit("fault: the loop still has the socket of the client that has gone in its list")
if connection.fileno() != -1:
    sys.exit("fault: the loop has forgotten the client's socket, but nobody has closed it")
print(f"right: a client that has gone wakes the loop {wakeups} time, and no more")
