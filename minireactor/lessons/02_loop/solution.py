"""The fault repaired: a client that has gone is readable, for ever, until the loop forgets it."""

import selectors
import socket
import sys

selector = selectors.DefaultSelector()


def accept(listener):
    connection, _ = listener.accept()
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

with socket.create_server(("127.0.0.1", 0)) as listener:
    selector.register(listener, selectors.EVENT_READ, accept)
    with socket.create_connection(listener.getsockname(), timeout=5) as client:
        turn(5)  # accepts
        client.sendall(b"hello")
        turn(5)  # answers
        if client.recv(1024) != b"HELLO":
            sys.exit("fault: the client has not got its answer")
    wakeups = 0
    while wakeups < 1000 and turn(0.1):
        wakeups += 1
if wakeups == 1000:
    sys.exit(f"fault: the loop woke up {wakeups:,} times for a client that has gone")
if len(selector.get_map()) > 1:
    sys.exit("fault: the loop still knows the client that has gone")
print(f"right: a client that has gone wakes the loop {wakeups} time, and no more")
