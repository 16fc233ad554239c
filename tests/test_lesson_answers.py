"""Natural wrong answers to the exercises: each is refused with a message that names the cause."""

from __future__ import annotations

import re

import pytest

from minireactor.lessons import child
from minireactor.lessons.catalogue import CHECK_LINE, LANGUAGES, lessons, read
from minireactor.lessons.check import is_right
from minireactor.lessons.page import columns

LESSONS = {lesson.name: lesson for lesson in lessons()}

# The lesson, what somebody does, what the exercise or else the solution reads there, what it reads
# then, and what the check says. Several edits are tuples.
WRONG = [
    (
        "blocking",
        "receive twice",
        "line = connection.recv(1024)",
        "line = connection.recv(1024) + connection.recv(1024)",
        "b'a line that is whole.n' has been sent in 1, and there is no answer",
    ),
    (
        "blocking",
        "wait a little before receiving",
        "line = connection.recv(1024)",
        "import time; time.sleep(2); line = connection.recv(1024)",
        "half a line has been sent, and is answered b'HELLO, '",
    ),
    (
        "blocking",
        "read to the end of the stream",
        'while not line.endswith(b"\\n"):',
        "while True:",
        "b'hello, world.n' has been sent in 2, and there is no answer",
    ),
    (
        "blocking",
        "count the bytes of the line that was seen",
        'while not line.endswith(b"\\n"):',
        "while len(line) < 13:",
        "half a line has been sent, and is answered b'ONE, TWO, THREE'",
    ),
    (
        "blocking",
        "forget that the client can leave",
        "            if not data:\n"
        "                break  # the client has gone in the middle of its line\n",
        "",
        "the client left within its line, and the server waits for more",
    ),
    (
        "loop",
        "only skip the answer",
        "    connection.sendall(",
        "    if request:\n        connection.sendall(",
        "the loop woke up 100 times",
    ),
    ("loop", "do not close", "        connection.close()\n", "", "nobody has closed it"),
    (
        "loop",
        "do not forget",
        "        selector.unregister(connection)\n",
        "",
        "still has the socket of the client",
    ),
    (
        "loop",
        "close after each answer",
        "    connection.sendall(request.upper())",
        "    connection.sendall(request.upper())\n"
        "    selector.unregister(connection)\n    connection.close()",
        "the client has sent b'hello again', and its answer is b''",
    ),
    (
        "loop",
        "sleep a little",
        "    connection.sendall(",
        "    import time; time.sleep(0.01)\n    connection.sendall(",
        "the loop woke up 100 times",
    ),
    (
        "buffer",
        "write everything before returning",
        "        sent = self.send(data)\n        self.pending += data[sent:]",
        "        self.pending += data\n        while self.pending:\n            self.flush()",
        "1,000 times in a row there was no room: write.. must not wait",
    ),
    (
        "buffer",
        "let it block",
        "sock.setblocking(False)",
        "sock.setblocking(True)",
        "a socket that blocks makes the whole loop wait",
    ),
    (
        "buffer",
        "leave it to sendall()",
        "sent = self.send(data)",
        "sent = len(data); self.sock.sendall(data)",
        "sendall.. either waits, or fails",
    ),
    (
        "buffer",
        "drop what comes while something is pending",
        "        sent = self.send(data)\n",
        "        if self.pending:\n            return\n        sent = self.send(data)\n",
        "16,777,223 bytes were written, and 16,777,216 arrived",
    ),
    (
        "buffer",
        "forget what was not taken",
        "self.pending += data[sent:]",
        "self.pending = data[sent:]",
        "bytes were written, and [0-9,]+ arrived",
    ),
    (
        "stall",
        "send no more, and keep what is there",
        "            self.transport.loseConnection()\n",
        "",
        "dismissed, and [0-9,]+ bytes are still held",
    ),
    (
        "stall",
        "end only the own stream",
        "loseConnection",
        "loseWriteConnection",
        "dismissed, and [0-9,]+ bytes are still held",
    ),
    (
        "stall",
        "raise the limit",
        "LIMIT = 1024 * 1024",
        "LIMIT = 1024 * 1024 * 1024",
        "a client that does not read is served on",
    ),
    (
        "stall",
        "dismiss everybody",
        "if self.transport.pending > LIMIT:",
        "if self.transport.pending:",
        "a client that has read everything was dismissed",
    ),
    (
        "by_hand",
        "resume whenever little is pending",
        "if len(self.pending) <= LOW and self.paused:\n            self.paused = False",
        "if len(self.pending) <= LOW:\n            self.paused = False",
        "resumeProducing.. was called, and the producer was not paused",
    ),
    (
        "by_hand",
        "one mark",
        "if len(self.pending) <= LOW and self.paused:\n            self.paused = False",
        "if len(self.pending) <= HIGH and self.paused:\n            self.paused = False",
        "resumed while 16,385 bytes are pending; the low mark is 16,384",
    ),
    (
        "by_hand",
        "wait until everything has gone",
        "if len(self.pending) <= LOW and self.paused:\n            self.paused = False",
        "if not self.pending and self.paused:\n            self.paused = False",
        "16,384 bytes are pending, the low mark, and nobody says resume",
    ),
    (
        "by_hand",
        "never resume",
        "            self.paused = False\n            self.producer.resumeProducing()\n",
        "            self.paused = False\n",
        "16,384 bytes are pending, the low mark, and nobody says resume",
    ),
    (
        "marks",
        "leave the page when paused",
        "                self.transport.write(LINE % number)\n",
        "                self.transport.write(LINE % number)\n"
        "                if self.paused:\n                    break\n",
        "on page [0-9]+, line [0-9,]+ was to come, and line 0 came",
    ),
    (
        "marks",
        "begin the page again",
        "                self.transport.write(LINE % number)\n",
        "                self.transport.write(LINE % number)\n"
        "                if self.paused:\n                    return\n",
        "on page 1, line [0-9,]+ was to come, and line 0 came",
    ),
    (
        "marks",
        "raise the mark",
        "        self.transport.registerProducer(self, True)\n",
        "        self.transport.setWriteBufferLimits(2 * 1024 * 1024)\n"
        "        self.transport.registerProducer(self, True)\n",
        "the high mark is 65,536, and [0-9,]+ bytes were pending",
    ),
    (
        "marks",
        "smaller pages",
        "while self.page < PAGES and not self.paused:\n            for number in range(LINES):",
        "while self.page < PAGES and not self.paused:\n            for number in range(1024):",
        "line 1,024 was to come, and line 0 came",
    ),
    (
        "marks",
        "forget the end",
        "        if self.line == PAGES * LINES:\n            self.transport.unregisterProducer()\n"
        "            self.transport.loseConnection()\n",
        "",
        "all lines have arrived, but not the end",
    ),
    (
        "pull",
        "ask oneself again",
        "            self.transport.write(block)\n",
        "            self.transport.write(block)\n"
        "        else:\n            self.resumeProducing()\n",
        "raises RecursionError after [0-9]+ of 200 blocks",
    ),
    (
        "pull",
        "write something empty",
        "            self.transport.write(block)\n",
        "            self.transport.write(block)\n"
        '        else:\n            self.transport.write(b"")\n',
        "2 of 200 blocks have come, and for a second now nothing more",
    ),
    (
        "pull",
        "write something else",
        "            self.transport.write(block)\n",
        "            self.transport.write(block)\n"
        '        else:\n            self.transport.write(b"\\n")\n',
        "and they are not the errors of the log",
    ),
    (
        "pull",
        "become a push producer",
        "registerProducer(self, False)",
        "registerProducer(self, True)",
        "[0-9]+ of 200 blocks have come, and for a second|has been",
    ),
    (
        "pull",
        "write all at once",
        "                return\n",
        "",
        "a block has [0-9,]+ bytes, and [0-9,]+ were pending at once",
    ),
    (
        "pull",
        "forget to unregister",
        "        self.transport.unregisterProducer()\n        self.transport.lose",
        "        self.transport.lose",
        "all blocks have come, but not the end",
    ),
    (
        "connecting",
        "sleep between the attempts",
        "        connector.connect()",
        "        time.sleep(0.3)\n        connector.connect()",
        "between two attempts nobody else was served, once for",
    ),
    (
        "connecting",
        "leave it to the loop, without a delay",
        "        connector.connect()",
        "        reactor.callLater(0, connector.connect)",
        "60 attempts to connect in [0-9.]+ s, and none waits",
    ),
    (
        "connecting",
        "give up",
        "        connector.connect()",
        "        pass",
        "the server is back, and nobody tries again",
    ),
    (
        "connecting",
        "try once more",
        "        connector.connect()",
        "        if not hasattr(self, 'again'):\n            self.again = True\n"
        "            reactor.callLater(0.1, connector.connect)",
        "the server has been back for 2 s, and is not connected to",
    ),
    (
        "proxy",
        "join one direction",
        "        self.join()\n",
        "",
        "while its (client|server) did not read",
    ),
    (
        "proxy",
        "join the other direction",
        "        self.other.join()\n",
        "",
        "while its (client|server) did not read",
    ),
    (
        "proxy",
        "join by pull",
        "registerProducer(self.other.transport, True)",
        "registerProducer(self.other.transport, False)",
        "fault: ",
    ),
    (
        "proxy",
        "end at once",
        "            self.other.transport.loseConnection()",
        "            self.other.transport.abortConnection()",
        "[0-9,]+ bytes came through to the (client|server), of 33,554,432",
    ),
    (
        "proxy",
        "leave the producer registered",
        (
            "registerProducer(self.transport,",
            "            self.other.transport.unregisterProducer()\n",
        ),
        ("registerProducer(self.other.transport,", ""),
        "all bytes came through to the (client|server), but not the end",
    ),
    (
        "closing",
        "abort",
        "loseConnection",
        "abortConnection",
        "[0-9,]+ bytes arrived of 8,388,608, and then a reset",
    ),
    (
        "closing",
        "do without registering",
        "        self.transport.registerProducer(self, True)\n",
        "",
        "bytes were pending: nobody told the producer to pause",
    ),
    (
        "closing",
        "close as soon as paused",
        "        self.paused = True",
        "        self.paused = True\n        self.transport.unregisterProducer()\n"
        "        self.transport.loseConnection()",
        "[0-9,]+ bytes arrived of 8,388,608, and then the end",
    ),
    (
        "closing",
        "abort a little later",
        "            self.transport.loseConnection()",
        "            from functools import partial\n"
        "            reactor.callLater(0.5, partial(self.transport.abortConnection))",
        "fault: ",
    ),
    (
        "waker",
        "do the work at once",
        "reactor.callInThread(self.work, data)",
        "self.work(data)",
        "shout.. kept the loop, and a second client waited [0-9,]+ ms",
    ),
    (
        "waker",
        "do the work in the loop, a little later",
        "reactor.callInThread(self.work, data)",
        "reactor.callFromThread(self.work, data)",
        "shout.. kept the loop, and a second client waited",
    ),
    (
        "waker",
        "replace the work by a timer",
        "reactor.callInThread(self.work, data)",
        "reactor.callLater(0.1, self.transport.write, data.upper())",
        "nobody has called shout",
    ),
    (
        "waker",
        "call, and pass the result",
        "self.transport.write(shout(data))",
        "reactor.callFromThread(self.transport.write(shout(data)))",
        "a thread called write|the loop sleeps on it",
    ),
    (
        "waker",
        "wake the loop after writing",
        "self.transport.write(shout(data))",
        "self.transport.write(shout(data)); reactor.callFromThread(lambda: None)",
        "a thread called write.., which has no lock",
    ),
    (
        "kernel",
        "a smaller buffer still",
        "64 * 1024)",
        "4 * 1024)",
        "the kernel has [0-9,]+ bytes, the server [0-9,]+, for one client",
    ),
    (
        "kernel",
        "lower the marks, without a producer",
        "        while self.made",
        "        self.transport.setWriteBufferLimits(32 * 1024)\n        while self.made",
        "the kernel has [0-9,]+ bytes, the server [0-9,]+, for one client",
    ),
    (
        "kernel",
        "dismiss the client",
        "        self.transport.loseConnection()\n",
        "        self.transport.abortConnection()\n",
        "[0-9,]+ bytes have arrived of 16,777,216",
    ),
    (
        "kernel",
        "pause, and never resume",
        "        self.paused = False\n",
        "        if self.made:\n            return\n        self.paused = False\n",
        "[0-9,]+ bytes have arrived of 16,777,216",
    ),
    (
        "stuck",
        "look at the send queue only",
        "    if pending:",
        "    if send_queue:",
        "the diagnosis is 'nobody', and 'server' is right",
    ),
    (
        "stuck",
        "no connection has two faults",
        '    if pending:\n        return "client"',
        '    if pending or send_queue:\n        return "client"\n'
        '    if receive_queue:\n        return "server"',
        "the diagnosis is 'client', and 'both' is right",
    ),
    (
        "stuck",
        "what has arrived first",
        '    if pending:\n        return "client"',
        '    if receive_queue:\n        return "server"\n'
        '    if pending or send_queue:\n        return "client"',
        "the diagnosis is 'server', and 'both' is right",
    ),
    (
        "log",
        "a queue with a limit, which waits",
        "            self.lines.append(line)\n",
        "            self.changed.wait_for(lambda: len(self.lines) < 1024)\n"
        "            self.lines.append(line)\n",
        "put.. waits for a slow reader",
    ),
    (
        "log",
        "write at once",
        "            self.lines.append(line)\n",
        "            os.write(self.descriptor, line)\n",
        "put.. waits for a slow reader",
    ),
    (
        "log",
        "a deque that forgets",
        "deque()",
        "deque(maxlen=1024)",
        "[0-9,]+ lines are lost, and the log does not say so",
    ),
    (
        "log",
        "throw it all away",
        "            self.lines.append(line)\n",
        "            self.lines.append(line)\n"
        "            if len(self.lines) > 1000:\n                self.lines.clear()\n",
        "lines are lost|lines have come",
    ),
    (
        "ladder",
        "ask for room at each write",
        "        self.pending += data\n",
        "        self.pending += data\n        self.ask_for(READ | WRITE)\n",
        "changes of interest for 100 small answers",
    ),
    (
        "ladder",
        "ask for room, and go on asking",
        "        self.ask_for(READ | WRITE if self.pending else READ)\n",
        "        if self.pending:\n            self.ask_for(READ | WRITE)\n",
        "everything is sent, and the loop woke up [0-9]+ times for nothing",
    ),
    (
        "ladder",
        "send until nothing is left",
        "        self.pending = self.pending[sent:]\n",
        "        self.pending = self.pending[sent:]\n"
        "        if self.pending:\n            self.flush()\n",
        "300 times in a row there was no room",
    ),
    (
        "ladder",
        "block",
        "sock.setblocking(False)",
        "sock.setblocking(True)",
        "a socket that blocks makes the whole loop wait",
    ),
    (
        "elsewhere",
        "drain now and then",
        "        writer.write(CHUNK)\n",
        "        writer.write(CHUNK)\n"
        "        if _ % 100 == 99:\n            await writer.drain()\n",
        "the server held [0-9,]+ bytes for a client that did not read",
    ),
    (
        "elsewhere",
        "let others run",
        "        writer.write(CHUNK)\n",
        "        writer.write(CHUNK)\n        await asyncio.sleep(0)\n",
        "the server held [0-9,]+ bytes for a client that did not read",
    ),
    (
        "elsewhere",
        "forget to wait",
        "        writer.write(CHUNK)\n",
        "        writer.write(CHUNK)\n        writer.drain()\n",
        "the server held [0-9,]+ bytes for a client that did not read",
    ),
    (
        "elsewhere",
        "forget to close",
        "        await writer.drain()\n    writer.close()\n",
        "        await writer.drain()\n",
        "all bytes have arrived, but not the end",
    ),
    (
        "without",
        "write all the same",
        "        if not self.paused:\n            self.transport",
        "        if True:\n            self.transport",
        "bytes were held for a subscriber that did not read",
    ),
    (
        "without",
        "keep what was left out",
        "        if not self.paused:\n            self.transport.write(price)\n",
        "        self.__dict__.setdefault('kept', []).append(price)\n"
        "        while self.kept and not self.paused:\n"
        "            self.transport.write(self.kept.pop(0))\n",
        "the subscriber shows [0-9,]+ for good",
    ),
    (
        "without",
        "keep what was left out, and send it",
        ("        self.transport.write(self.newest)", "        self.newest = price\n"),
        (
            "        while self.kept and not self.paused:\n"
            "            self.transport.write(self.kept.pop(0))",
            "        self.__dict__.setdefault('kept', []).append(price)\n",
        ),
        "[0-9,]+ old prices came after the pause: who had kept them",
    ),
    (
        "without",
        "forget that it goes on",
        "        self.paused = False\n",
        "        self.transport.write(b'')\n",
        "3 s later the subscription is still paused",
    ),
    (
        "without",
        "dismiss it",
        "        self.paused = True\n",
        "        self.paused = True\n        self.transport.abortConnection()\n",
        "still paused, or has been cut",
    ),
    (
        "coroutines",
        "do not look again after waking up",
        "while self.paused:",
        "if self.paused:",
        "bytes are pending: one more wrote while paused",
    ),
    (
        "coroutines",
        "wake only the first",
        "for future in waiting:",
        "for future in waiting[:1]:",
        "has written [0-9]+ of 500, and nobody wakes it",
    ),
    (
        "coroutines",
        "wake before changing the state",
        "        self.paused = False\n        waiting, self.waiting = self.waiting, []\n"
        "        for future in waiting:\n            future.wake()\n",
        "        waiting, self.waiting = self.waiting, []\n"
        "        for future in waiting:\n            future.wake()\n"
        "        self.paused = False\n",
        "has written [0-9]+ of 500, and nobody wakes it",
    ),
    (
        "coroutines",
        "await nothing",
        "yield self  #",
        "yield  #",
        "a task cannot wait for NoneType",
    ),
    (
        "tls",
        "keep only the last bytes",
        "self.waiting += data",
        "self.waiting = data",
        "in another order, or changed",
    ),
    (
        "tls",
        "close without close_notify",
        "self.tls.unwrap()  # sends close_notify",
        "pass",
        "no close_notify: were these all",
    ),
    (
        "tls",
        "close at once",
        "        self.closing = True\n        self.go_on()\n",
        "        self.closing = True\n        self.transport.loseConnection()\n",
        "0 bytes arrived of 6,000",
    ),
    (
        "tls",
        "never close",
        "            self.transport.loseConnection()\n",
        "            pass\n",
        "was never closed",
    ),
    (
        "records",
        "stop, and forget what has come already",
        "        self.transport.resumeProducing()\n        self.deliver()\n",
        "        self.transport.resumeProducing()\n",
        "[0-9,]+ bytes of 1,280,000 were delivered, and then no more",
    ),
    (
        "records",
        "deliver at the resume, without stopping",
        "        self.transport.resumeProducing()\n",
        "        self.transport.resumeProducing()\n        self.deliver()\n",
        "4,000 bytes were delivered to a protocol that has paused",
    ),
    (
        "records",
        "look once, before the first record",
        (
            "        with contextlib.suppress(ssl.SSLWantReadError):\n",
            "        self.transport.resumeProducing()\n",
        ),
        (
            "        if self.paused:\n            return\n"
            "        with contextlib.suppress(ssl.SSLWantReadError):\n",
            "        self.transport.resumeProducing()\n        self.deliver()\n",
        ),
        "4,000 bytes were delivered to a protocol that has paused",
    ),
    (
        "records",
        "throw away what comes in a pause",
        "                self.protocol.dataReceived(data)\n",
        "                if not self.paused:\n"
        "                    self.protocol.dataReceived(data)\n",
        "80,000 bytes of 1,280,000 were delivered, and then no more",
    ),
    (
        "records",
        "deliver first, and end the pause then",
        "        self.paused = False\n"
        "        self.transport.resumeProducing()\n        self.deliver()\n",
        "        self.deliver()\n"
        "        self.paused = False\n        self.transport.resumeProducing()\n",
        "[0-9,]+ bytes of 1,280,000 were delivered, and then no more",
    ),
    (
        "records",
        "stop the delivery alone",
        ("while not self.paused and", "        self.transport.pauseProducing()\n"),
        ("while not self.paused and", ""),
        "the protocol has paused, and the transport goes on reading",
    ),
    (
        "records",
        "keep a list, and take the newest first",
        (
            "                self.protocol.dataReceived(data)\n",
            "        self.transport.resumeProducing()\n",
        ),
        (
            "                if self.paused:\n"
            "                    vars(self).setdefault('kept', []).append(data)\n"
            "                else:\n                    self.protocol.dataReceived(data)\n",
            "        self.transport.resumeProducing()\n"
            "        if getattr(self, 'kept', []):\n"
            "            self.protocol.dataReceived(self.kept.pop())\n",
        ),
        "all bytes were delivered, but not in their order",
    ),
]


def answer(lesson, old, new):
    """Return the exercise with `old` replaced, or the solution if the exercise has no `old`."""
    edits = [(old, new)] if isinstance(old, str) else list(zip(old, new))
    for path in (lesson.exercise, lesson.solution):
        own, line, check = read(path).partition(CHECK_LINE)
        if all(own.count(before) == 1 for before, _ in edits):
            for before, after in edits:
                own = own.replace(before, after)
            return own + line + check
    raise AssertionError(f"neither program of {lesson.name!r} has each of {old!r} once")


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize(
    "name, what, old, new, said", WRONG, ids=[f"{w[0]}: {w[1]}" for w in WRONG]
)
def test_a_wrong_answer_is_refused_with_what_was_seen(name, what, old, new, said, tmp_path):
    lesson = LESSONS[name]
    path = tmp_path / "mine.py"
    path.write_text(answer(lesson, old, new), encoding="utf-8")

    ran = child.run(path)

    assert not is_right(ran)
    assert ran.status == 1, ran
    assert ran.lines[-1].startswith("fault: ")
    assert re.search(said, ran.lines[-1]), ran.lines
    shown = [lesson.translated(ran.lines[-1], language) for language in LANGUAGES]
    assert shown[0] != shown[1]
    assert max(map(columns, shown)) <= 80


def test_each_exercise_has_three_wrong_answers_and_more():
    for name in LESSONS:
        assert sum(wrong[0] == name for wrong in WRONG) >= 3, name
