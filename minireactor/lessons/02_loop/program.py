"""One thread, many clients: the kernel is asked which sockets have something to say."""

import selectors
import socket

CLIENTS = 50


class Loop:
    """Sleeps until a socket is readable, then calls whoever listens to it."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.turns = 0

    def when_readable(self, sock, call):
        sock.setblocking(False)
        self.selector.register(sock, selectors.EVENT_READ, call)

    def forget(self, sock):
        self.selector.unregister(sock)
        sock.close()

    def run_until(self, done):
        while not done():
            self.turns += 1
            for key, _ in self.selector.select():
                key.data(key.fileobj)


class Server:
    """Answers each request with the same in capitals."""

    def __init__(self, loop, listener):
        self.loop = loop
        self.connections = self.answers = 0
        loop.when_readable(listener, self.accept)

    def accept(self, listener):
        connection, _ = listener.accept()
        self.loop.when_readable(connection, self.answer)
        self.connections += 1

    def answer(self, connection):
        request = connection.recv(1024)
        if request:
            connection.send(request.upper())
            self.answers += 1
        else:  # readable, but nothing to read: the client has gone
            self.loop.forget(connection)
            self.connections -= 1


loop = Loop()
listener = socket.create_server(("127.0.0.1", 0), backlog=CLIENTS)
server = Server(loop, listener)

clients = [socket.create_connection(listener.getsockname()) for _ in range(CLIENTS)]
silent, *others = clients
for number, client in enumerate(others, start=1):
    client.sendall(b"hello from client %d" % number)

loop.run_until(lambda: server.answers == len(others))
print(f"{server.connections} clients are connected, and one of them says nothing")
print(f"{server.answers} requests are answered, in {loop.turns} turns of the loop, by 1 thread")

for number, client in enumerate(others, start=1):
    assert client.recv(1024) == b"HELLO FROM CLIENT %d" % number
print("each client has its own answer")

silent.sendall(b"at last")
loop.run_until(lambda: server.answers == CLIENTS)
print(f"the silent one speaks, and gets {silent.recv(1024).decode()!r}")

for client in clients:
    client.close()
loop.run_until(lambda: server.connections == 0)
print(f"all have gone: {server.connections} connections are left")
loop.forget(listener)
loop.selector.close()
