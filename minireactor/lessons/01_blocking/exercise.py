"""Find the fault: this server answers a line in capitals, but to some clients only half of it."""

import socket
import sys
import threading


def serve(listener):
    connection, _ = listener.accept()
    with connection:
        line = connection.recv(1024)
        connection.sendall(line.upper())


# ---- The check: the fault is above this line ----

import time  # noqa: E402

time.sleep = lambda seconds: None  # waiting does not help: a line may take any time


def receive(client, seconds):
    """Return what comes within that time, or nothing."""
    client.settimeout(seconds)
    try:
        return client.recv(1024)
    except socket.timeout:
        return b""


def talk(pieces, leaves=False):
    """Send the pieces one after the other, and hold every answer against them."""
    thread = threading.Thread(target=serve, args=[listener], daemon=True)
    thread.start()
    with socket.create_connection(listener.getsockname()) as client:
        for piece in pieces[:-1]:
            client.sendall(piece)
            early = receive(client, 0.15)
            if early:
                sys.exit(f"fault: half a line has been sent, and is answered {early!r} already")
        if leaves:
            client.close()
            thread.join(2)
            if thread.is_alive():
                sys.exit("fault: the client left within its line, and the server waits for more")
            return
        client.sendall(pieces[-1])
        line, answer = b"".join(pieces), receive(client, 2)
    if not answer:
        sys.exit(f"fault: {line!r} has been sent in {len(pieces)}, and there is no answer")
    if answer != line.upper():
        sys.exit(f"fault: {line!r} has been sent in {len(pieces)}, and the answer is {answer!r}")


with socket.create_server(("127.0.0.1", 0)) as listener:
    talk([b"hello, ", b"world\n"])
    talk([b"a line that is whole\n"])
    talk([b"one, ", b"two, ", b"three", b"\n"])
    talk([b"good", b""], leaves=True)
print("right: a line has one answer, in however many parts it comes")
