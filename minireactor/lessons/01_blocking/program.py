"""A server with blocking sockets: it waits for one client at a time, so everybody waits."""

import socket
import threading

CHUNK = bytes(65536)
WATCH = 0.2  # seconds that Bob gives the server


class Server:
    """A request is a number of bytes in decimal digits; the answer is that many bytes."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.taken = 0  # bytes of all answers that the kernel has taken off our hands

    def serve(self, clients):
        for _ in range(clients):
            connection, _ = self.listener.accept()  # waits for somebody to come
            with connection:
                wanted = int(connection.recv(100))  # waits for this one to speak
                while wanted:
                    sent = connection.send(CHUNK[:wanted])  # waits for it to read
                    wanted -= sent
                    self.taken += sent


def two_clients(server):
    """Alice first, then Bob."""
    return socket.create_connection(server.address), socket.create_connection(server.address)


def ask(client, count):
    client.sendall(b"%d" % count)


def receive(client):
    """How many bytes come until the end of the stream."""
    with client:
        client.settimeout(None)
        count = 0
        while data := client.recv(65536):
            count += len(data)
        return count


def is_answered(client):
    client.settimeout(WATCH)
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except socket.timeout:
        return False


server = Server()
thread = threading.Thread(target=server.serve, args=[4], daemon=True)
thread.start()

alice, bob = two_clients(server)
print("Alice has connected, and says nothing. Bob asks for 10 bytes.")
ask(bob, 10)
bob_waits = not is_answered(bob)
print(f"  After {WATCH * 1000:.0f} ms, Bob has an answer: {'no' if bob_waits else 'yes'}")
ask(alice, 10)
print(f"  Alice speaks. She gets {receive(alice)} bytes, and Bob gets {receive(bob)}.")
assert bob_waits

alice, bob = two_clients(server)
print("Alice asks for 20,000,000 bytes, and does not read. Bob asks for 10.")
ask(alice, 20_000_000)
ask(bob, 10)
bob_waits = not is_answered(bob)
print(f"  After {WATCH * 1000:.0f} ms, Bob has an answer: {'no' if bob_waits else 'yes'}")
print(f"  The kernel has taken {server.taken - 20:,} bytes for Alice, and send() waits.")
print(f"  Alice reads. She gets {receive(alice):,} bytes, and Bob gets {receive(bob)}.")
assert bob_waits

thread.join()
server.listener.close()
