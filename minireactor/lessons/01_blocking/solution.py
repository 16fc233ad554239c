"""The fault repaired: recv() gives what has come so far, and that need not be a line."""

import socket
import sys
import threading


def serve(listener):
    connection, _ = listener.accept()
    with connection:
        line = b""
        while not line.endswith(b"\n"):
            data = connection.recv(1024)
            if not data:
                break  # the client has gone in the middle of its line
            line += data
        connection.sendall(line.upper())


# ---- The check: the fault is above this line ----


def receive(client, seconds):
    """What comes within that time; nothing if nothing comes."""
    client.settimeout(seconds)
    try:
        return client.recv(1024)
    except socket.timeout:
        return b""


with socket.create_server(("127.0.0.1", 0)) as listener:
    threading.Thread(target=serve, args=[listener], daemon=True).start()
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(b"hello, ")
        early = receive(client, 0.2)
        if early:
            sys.exit(f"fault: the client has sent half a line, and is answered {early!r} already")
        client.sendall(b"world\n")
        answer = receive(client, 5)
if answer != b"HELLO, WORLD\n":
    sys.exit(f"fault: the whole line has been sent, and the answer is {answer!r}")
print("right: a line that comes in two parts has one answer")
