"""A scripted kernel: the test decides what its sockets take, deliver and raise."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import time

from minireactor import Reactor
from minireactor.address import IPv4Address
from minireactor.core import waker
from minireactor.core.poller import HANGUP, READ, WRITE
from minireactor.transports import sockets as endpoint
from minireactor.transports.connection import Connection

PEER = IPv4Address("TCP", "192.0.2.1", 4321)


class ScriptedSocket:
    """A socket that does what the test says.

    - `room`: how many bytes send() takes before it would block.
    - `inbox`: the chunks that recv() returns; b"" is the end of the stream.
    - `error`: an errno that send() and recv() raise from then on.
    - `taken`: the bytes that send() has taken."""

    numbers = itertools.count(1_000_000)

    def __init__(self, room=0):
        self.number = next(self.numbers)
        self.room = room
        self.inbox = []
        self.error = 0
        self.taken = bytearray()
        self.sends = 0
        self.shut = False
        self.closed = False
        self.was_reset = False

    def fileno(self):
        return -1 if self.closed else self.number

    def _check(self):
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def send(self, data):
        return self.sendmsg([data])

    def sendmsg(self, chunks):
        self._check()
        assert not self.shut, "sent after the write side was shut"
        self.sends += 1
        data = b"".join(chunks)[: self.room]
        if not data:
            raise BlockingIOError(errno.EAGAIN, "no room")
        self.room -= len(data)
        self.taken += data
        return len(data)

    def recv(self, size):
        if not self.inbox:
            self._check()
            raise BlockingIOError(errno.EAGAIN, "nothing there")
        chunk = self.inbox[0][:size]
        rest = self.inbox[0][size:]
        if rest:
            self.inbox[0] = rest
        elif chunk:
            del self.inbox[0]
        return chunk

    def getsockopt(self, level, name):
        return self.error

    def setsockopt(self, level, name, value):
        if name == socket.SO_LINGER:
            self.was_reset = True

    def getsockname(self):
        return ("192.0.2.2", 1234)

    def shutdown(self, how):
        self._check()
        self.shut = True

    def close(self):
        self.closed = True

    def ready(self):
        hung_up = HANGUP if self.error else 0
        return (READ if self.inbox else 0) | (WRITE if self.room else 0) | hung_up


class ScriptedPoller:
    """A level-triggered poller, like epoll: reports a socket for as long as it is ready."""

    def __init__(self):
        self.masks = {}
        self.sockets = {}
        self.polls = 0

    def watch(self, fd, events, before):
        assert (fd in self.masks) == (before is not None), "`before` is not what is registered"
        self.masks[fd] = events

    def forget(self, fd, before):
        del self.masks[fd]

    def poll(self, timeout, most):
        self.polls += 1
        ready = []
        for fd, mask in list(self.masks.items()):
            sock = self.sockets.get(fd)
            events = sock.ready() & (mask | HANGUP) if sock else 0
            if events:
                ready.append((fd, events))
        return ready

    def close(self):
        pass


class Wire:
    """A reactor on a ScriptedPoller, with connections on ScriptedSockets."""

    def __init__(self, monkeypatch, seconds=time.monotonic):
        self.poller = ScriptedPoller()
        self.reactor = Reactor(self.poller, seconds=seconds)
        monkeypatch.setattr(endpoint.Lingering, "take_over", lambda reactor, sock: None)
        monkeypatch.setattr(waker, "_forked", False)  # as if no other test had forked

    def connect(self, protocol, room=0):
        """Return (transport, scripted socket) of a new connection with this protocol."""
        sock = ScriptedSocket(room)
        self.poller.sockets[sock.number] = sock
        transport = Connection(self.reactor, sock, PEER)
        transport.start(protocol)
        return transport, sock

    def run(self, iterations=4):
        """Run a few iterations: enough for an event and its consequences."""
        for _ in range(iterations):
            self.reactor.iterate()
