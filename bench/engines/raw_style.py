"""The servers as bare loops over epoll: the same system calls without any abstraction.

No engine in Python can do much better. There is no protocol, no buffer that grows and no error
handling. A timer queue exists only for the workload that measures timers. Nobody should write a
server in this manner.
"""

from __future__ import annotations

import select
import socket
import time
from heapq import heappop, heappush

from bench.engines import serving

READ, WRITE = 1, 4  # EPOLLIN and EPOLLOUT
SMALL = 4 * 1024  # bytes of one read, where messages are small
LARGE = 256 * 1024  # bytes of one read elsewhere


def opened():
    listener = socket.socket()
    listener.bind((serving.HOST, 0))
    listener.listen(serving.BACKLOG)
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
    epoll = select.epoll()
    epoll.register(listener, READ)
    return listener, listener.fileno(), epoll


def accept(listener, epoll, sockets):
    try:
        while True:
            sock, _ = listener.accept()
            sock.setblocking(False)
            sockets[sock.fileno()] = sock
            epoll.register(sock.fileno(), READ)
            yield sock
    except BlockingIOError:
        pass


def integers(line=None, greeting=serving.GREETING, length=0, timed=False):
    """Serve lines: of `length` and numbered, or always `line`, or random integers.

    If `timed`, note the lateness of a timer."""
    import random

    randint = random.randint
    listener, accepting, epoll = opened()
    sockets, pending, left = {}, {}, {}

    def fill(buffer, count):
        if length:
            while count and len(buffer) <= serving.HIGH:
                buffer += b"%0*d\r\n" % (length - 2, count)
                count -= 1
        elif line is None:
            while count and len(buffer) <= serving.HIGH:
                buffer += b"%d\r\n" % randint(0, 10000)
                count -= 1
        else:
            while count and len(buffer) <= serving.HIGH:
                buffer += line
                count -= 1
        return count

    lateness = serving.Lateness() if timed else None
    wait = -1  # PyPy takes no None
    serving.ready(listener.getsockname()[1])
    while True:
        if lateness is not None:
            wait = lateness.due - time.monotonic()
            if wait <= 0:
                lateness.fired()
                continue
        for fd, _ in epoll.poll(wait):
            if fd == accepting:
                for sock in accept(listener, epoll, sockets):
                    if greeting:
                        sock.send(greeting)
                continue
            sock = sockets[fd]
            if fd not in pending:
                data = sock.recv(SMALL)
                if not data:
                    sockets.pop(fd).close()
                    continue
                pending[fd] = buffer = bytearray()
                left[fd] = fill(buffer, int(data))
                epoll.modify(fd, WRITE)
            buffer = pending[fd]
            try:
                del buffer[: sock.send(buffer)]
            except BlockingIOError:
                pass
            if len(buffer) <= serving.LOW:
                left[fd] = fill(buffer, left[fd])
            if not buffer and not left[fd]:
                del pending[fd], left[fd]
                sockets.pop(fd).close()


def lines():
    integers(serving.LINE)


def greedy():
    integers(timed=True)


def numbered(length):
    integers(None, b"", length)


def echo():
    listener, accepting, epoll = opened()
    sockets = {}
    poll = epoll.poll
    serving.ready(listener.getsockname()[1])
    while True:
        for fd, _ in poll():
            if fd == accepting:
                for _ in accept(listener, epoll, sockets):
                    pass
                continue
            sock = sockets[fd]
            data = sock.recv(SMALL)
            if data:
                sock.send(data)
            else:
                sockets.pop(fd).close()


def push():
    """Send two chunks at a time: as many as fit under the mark."""
    chunk = memoryview(serving.CHUNK)
    size = len(chunk)
    listener, accepting, epoll = opened()
    sockets, left = {}, {}
    serving.ready(listener.getsockname()[1])
    while True:
        for fd, _ in epoll.poll():
            if fd == accepting:
                for _ in accept(listener, epoll, sockets):
                    pass
                continue
            sock = sockets[fd]
            if fd not in left:
                left[fd] = int(sock.recv(SMALL)) * size
                epoll.modify(fd, WRITE)
            rest = left[fd]
            first = (rest - 1) % size + 1
            left[fd] = rest = rest - sock.sendmsg(
                [chunk[size - first :], chunk] if rest > first else [chunk[size - first :]]
            )
            if not rest:
                del left[fd]
                sockets.pop(fd).close()


def pull():
    """Send one chunk at a time, and the next when it has gone."""
    chunk = memoryview(serving.CHUNK)
    size = len(chunk)
    listener, accepting, epoll = opened()
    sockets, left = {}, {}
    serving.ready(listener.getsockname()[1])
    while True:
        for fd, _ in epoll.poll():
            if fd == accepting:
                for _ in accept(listener, epoll, sockets):
                    pass
                continue
            sock = sockets[fd]
            if fd not in left:
                left[fd] = int(sock.recv(SMALL)) * size
                epoll.modify(fd, WRITE)
            first = (left[fd] - 1) % size + 1
            left[fd] -= sock.send(chunk[size - first :])
            if not left[fd]:
                del left[fd]
                sockets.pop(fd).close()


def sink(unit):
    listener, accepting, epoll = opened()
    sockets, left = {}, {}
    serving.ready(listener.getsockname()[1])
    while True:
        for fd, _ in epoll.poll():
            if fd == accepting:
                for sock in accept(listener, epoll, sockets):
                    left[sock.fileno()] = unit
                continue
            sock = sockets[fd]
            # Nothing keeps the bytes: the next read finds their memory free, and in the cache.
            got = len(sock.recv(LARGE))
            if not got:
                sockets.pop(fd).close()
                continue
            left[fd] -= got
            while left[fd] <= 0:
                left[fd] += unit
                sock.send(b"+")


def back(firings=0):
    """Send back what comes in. With `firings`, note the lateness of a timer."""
    listener, accepting, epoll = opened()
    sockets, unsent, lateness = {}, {}, []
    due = None
    serving.ready(listener.getsockname()[1])
    while True:
        ready = epoll.poll() if due is None else epoll.poll(max(0.0, due - time.monotonic()))
        if due is not None:
            now = time.monotonic()
            if now >= due:
                lateness.append(now - due)
                due = now + serving.PERIOD
                if len(lateness) == serving.SKIPPED + firings:
                    serving.result(*lateness[serving.SKIPPED :])
        for fd, events in ready:
            if fd == accepting:
                for _ in accept(listener, epoll, sockets):
                    if firings and due is None:
                        due = time.monotonic() + serving.PERIOD
                continue
            sock = sockets[fd]
            if events & WRITE:
                data = unsent.pop(fd)
            else:
                data = sock.recv(LARGE)
                if not data:
                    sockets.pop(fd).close()
                    continue
            try:
                sent = sock.send(data)
            except BlockingIOError:
                sent = 0
            if sent < len(data):
                unsent[fd] = memoryview(data)[sent:]
                if not events & WRITE:
                    epoll.modify(fd, WRITE)
            elif events & WRITE:
                epoll.modify(fd, READ)
            del data  # so that the next read finds its memory free, and warm


def timers(count):
    listener, _, epoll = opened()
    serving.ready(listener.getsockname()[1])

    def once(amount):
        since = time.process_time()
        fired = 0
        heap = []
        entries = []
        for delay in serving.delays(amount):
            entry = [time.monotonic() + delay, len(entries), True]
            heappush(heap, entry)
            entries.append(entry)
        for entry in entries[1::2]:
            entry[2] = False
        while heap:
            now = time.monotonic()
            while heap and (heap[0][0] <= now or not heap[0][2]):
                fired += heappop(heap)[2]
            if heap:
                epoll.poll(max(0.0, heap[0][0] - now))
        return time.process_time() - since, fired

    once(count // 10)
    serving.result(*once(count))
    time.sleep(3600)


def main():
    name, numbers = serving.arguments()
    apps = {
        f.__name__: f
        for f in (integers, lines, greedy, echo, push, numbered, pull, sink, back, timers)
    }
    apps["timer"] = back
    apps[name](**numbers)
