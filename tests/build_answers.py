"""Natural wrong answers to the steps of `learn build`: patches of the step's solution.

(step, name, replacements, rule, part of what is seen). A replacement is (old, new), and old occurs
once in the solution."""

ANSWERS = [
    # 1. A blocking server
    (
        1,
        "one-client",
        [("while True:\n            self.port", "if True:\n            self.port")],
        "E8",
        "run() has returned",
    ),
    (
        1,
        "one-read",
        [("while data := self.socket.recv(READ_SIZE):", "if data := self.socket.recv(READ_SIZE):")],
        "",
        "b'second', and got 0 bytes",
    ),
    (
        1,
        "no-lost",
        [("        self.protocol.connectionLost(reason)\n", "")],
        "E8",
        "calls: made, data",
    ),
    (
        1,
        "empty-data",
        [
            (
                "        while data := self.socket.recv(READ_SIZE):\n"
                "            self.protocol.dataReceived(data)\n",
                "        data = b'-'\n        while data:\n"
                "            data = self.socket.recv(READ_SIZE)\n"
                "            self.protocol.dataReceived(data)\n",
            )
        ],
        "E8",
        "data of 0 bytes",
    ),
    (1, "no-close", [("        self.socket.close()\n", "")], "", "sees no end"),
    (
        1,
        "no-connection-made",
        [("        self.protocol.makeConnection(self)\n", "")],
        "",
        "no makeConnection(transport)",
    ),
    (
        1,
        "lost-twice",
        [
            (
                "connectionLost(reason)\n",
                "connectionLost(reason)\n        self.protocol.connectionLost(reason)\n",
            )
        ],
        "E8",
        "made, data, lost, lost",
    ),
    # 2. Many clients
    (
        2,
        "serves-in-start",
        [
            (
                "        self.reactor.watch(self, READ)\n        self.protocol.makeConnection(self)\n",
                "        self.reactor.watch(self, READ)\n        self.protocol.makeConnection(self)\n"
                "        while data := self.socket.recv(READ_SIZE):\n"
                "            self.protocol.dataReceived(data)\n"
                "        self.connectionLost(Failure(error.ConnectionDone()))\n",
            )
        ],
        "",
        "no makeConnection(transport)",
    ),
    (
        2,
        "reads-until-gone",
        [
            (
                "        data = self.socket.recv(READ_SIZE)\n        if not data:\n"
                "            self.connectionLost(Failure(error.ConnectionDone()))\n"
                "        else:\n            self.protocol.dataReceived(data)\n",
                "        while data := self.socket.recv(READ_SIZE):\n"
                "            self.protocol.dataReceived(data)\n"
                "        self.connectionLost(Failure(error.ConnectionDone()))\n",
            )
        ],
        "",
        "got 0 bytes; nothing more came",
    ),
    (
        2,
        "not-unregistered",
        [("        self.reactor.watch(self, 0)\n", "")],
        "E8",
        "run() raised",
    ),
    (
        2,
        "end-ignored",
        [
            (
                "        if not data:\n            self.connectionLost(Failure(error.ConnectionDone()))\n",
                "        if not data:\n            return\n",
            )
        ],
        "E8",
        "calls: made, data",
    ),
    (2, "never-sleeps", [("self.iterate(None)", "self.iterate(0)")], "", "the loop woke up"),
    (
        2,
        "no-fileno",
        [
            (
                "    def getPeer(self):\n        return from_sockaddr(self._peer)\n\n"
                "    def fileno(self):\n        return self.socket.fileno()\n",
                "    def getPeer(self):\n        return from_sockaddr(self._peer)\n",
            )
        ],
        "",
        "run() raised ValueError",
    ),
    (
        2,
        "one-iteration",
        [("        while True:\n            self.iterate(None)\n", "        self.iterate(None)\n")],
        "",
        "run() has returned",
    ),
    # 3. The write buffer
    (
        3,
        "still-sendall",
        [
            (
                "        self._buffer += data\n",
                "        self.socket.setblocking(True)\n        self.socket.sendall(data)\n",
            )
        ],
        "B2",
        "before write() returned",
    ),
    (
        3,
        "rest-dropped",
        [("        del self._buffer[:sent]\n", "        self._buffer.clear()\n")],
        "",
        "bytes came",
    ),
    (3, "nothing-deleted", [("        del self._buffer[:sent]\n", "")], "", "the client got"),
    (
        3,
        "sends-at-once",
        [
            (
                "        self._buffer += data\n",
                "        self._buffer += data\n        self.doWrite()\n",
            )
        ],
        "B2",
        "before write() returned",
    ),
    (
        3,
        "encodes-text",
        [
            (
                "        self._buffer += data\n",
                "        self._buffer += data.encode() if isinstance(data, str) else data\n",
            )
        ],
        "B1",
        "write('text') raised nothing",
    ),
    (
        3,
        "keeps-references",
        [
            (
                "        self._buffer = bytearray()\n",
                "        self._chunks = []\n        self._buffer = bytearray()\n",
            ),
            (
                "        return len(self._buffer)\n",
                "        return len(self._buffer) + sum(map(len, self._chunks))\n",
            ),
            (
                "        self._buffer += data\n",
                "        if isinstance(data, str):\n            raise TypeError\n        self._chunks.append(data)\n",
            ),
            (
                "        if not self._buffer:\n",
                "        self._buffer += b''.join(self._chunks)\n        self._chunks.clear()\n        if not self._buffer:\n",
            ),
        ],
        "B1",
        "a bytearray was changed",
    ),
    (
        3,
        "pending-is-a-method",
        [("    @property\n", "")],
        "B2",
        "pending is <bound method",
    ),
    # 4. Write interest
    (
        4,
        "always",
        [
            ("READ | (WRITE if self._buffer else 0)", "READ | WRITE"),
            (
                "        try:\n            sent",
                "        if not self._buffer:\n            return\n        try:\n            sent",
            ),
        ],
        "",
        "while a client says nothing, the loop woke up",
    ),
    (
        4,
        "never-off",
        [
            (
                "        del self._buffer[:sent]\n        self._update()\n",
                "        del self._buffer[:sent]\n",
            )
        ],
        "",
        "after all was sent, the loop woke up",
    ),
    (
        4,
        "off-too-early",
        [
            (
                "        del self._buffer[:sent]\n        self._update()\n",
                "        del self._buffer[:sent]\n        self.reactor.watch(self, READ)\n",
            )
        ],
        "",
        "bytes came",
    ),
    (
        4,
        "write-instead-of-read",
        [("READ | (WRITE if self._buffer else 0)", "WRITE if self._buffer else READ")],
        "",
        "no dataReceived",
    ),
    (
        4,
        "not-in-write",
        [
            (
                "        self._buffer += data\n        self._update()\n",
                "        self._buffer += data\n",
            ),
            (
                "            self.protocol.dataReceived(data)\n",
                "            self.protocol.dataReceived(data)\n            self._update()\n",
            ),
        ],
        "B2",
        "0 of 10 bytes came",
    ),
    (
        4,
        "register-again",
        [("        if not before and events:\n", "        if events:\n")],
        "",
        "is already registered",
    ),
    # 5. Timers
    (
        5,
        "unsorted",
        [
            (
                "heapq.heappush(self._calls, (self.seconds() + delay, next(self._numbers), call))",
                "self._calls.append((self.seconds() + delay, next(self._numbers), call))",
            ),
            ("heapq.heappop(self._calls)[2]", "self._calls.pop(0)[2]"),
        ],
        "",
        "the order was c, a1, b, a2",
    ),
    (
        5,
        "no-number",
        [
            (
                "(self.seconds() + delay, next(self._numbers), call)",
                "(self.seconds() + delay, call)",
            ),
            ("heapq.heappop(self._calls)[2]", "heapq.heappop(self._calls)[1]"),
        ],
        "",
        "TypeError: '<' not supported",
    ),
    (
        5,
        "sleeps-too-long",
        [
            (
                "            delay = until_due if delay is None else min(delay, until_due)\n",
                "            del until_due\n",
            )
        ],
        "",
        "f was not called",
    ),
    (
        5,
        "never-sleeps",
        [("self._selector.select(delay)", "self._selector.select(0)")],
        "",
        "the loop woke up",
    ),
    (
        5,
        "calls-first",
        [
            (
                "        if self._calls:\n            until_due",
                "        while self._calls and self._calls[0][0] <= self.seconds():\n"
                "            heapq.heappop(self._calls)[2].run()\n"
                "        if self._calls:\n            until_due",
            ),
            (
                "        due = []\n        while self._calls and self._calls[0][0] <= now:\n            due.append(heapq.heappop(self._calls)[2])\n        for call in due:\n            call.run()\n",
                "",
            ),
        ],
        "T1",
        "came before the input",
    ),
    (
        5,
        "starves",
        [
            (
                "            due.append(heapq.heappop(self._calls)[2])\n",
                "            heapq.heappop(self._calls)[2].run()\n            now = self.seconds()\n",
            )
        ],
        "",
        "the loop served no other client",
    ),
    (
        5,
        "cancel-ignored",
        [
            (
                "    def cancel(self):\n        self._function = None\n",
                "    def cancel(self):\n        pass\n",
            )
        ],
        "",
        "active() before and after cancel(): [True, True]",
    ),
    (5, "no-arguments", [("DelayedCall(lambda: f(*a, **k))", "DelayedCall(f)")], "", "f got ()"),
    (
        5,
        "no-stop",
        [
            (
                "    def stop(self):\n        self.running = False\n",
                "    def stop(self):\n        pass\n",
            )
        ],
        "",
        "run() goes on",
    ),
    # 6. Endings
    (
        6,
        "reset-while-reading",
        [
            (
                "        except OSError as reason:\n            self.connectionLost(Failure(error.ConnectionLost(reason)))\n            return\n        if not data",
                "        if not data",
            ),
            ("self.guard(target, target.doRead)", "target.doRead()"),
        ],
        "E8",
        "run() raised ConnectionResetError",
    ),
    (
        6,
        "twice",
        [
            (
                '        if self.state == "closed":\n            return\n        self.state = "closed"\n',
                '        self.state = "closed"\n',
            ),
            (
                "            self.reactor.guard(self, self.protocol.connectionLost, reason)\n",
                "            self.reactor.guard(self, self.protocol.connectionLost, reason)\n            self.reactor.callLater(0, self.protocol.connectionLost, reason)\n",
            ),
        ],
        "E8",
        "lost, lost",
    ),
    (
        6,
        "not-guarded",
        [("self.guard(target, target.doRead)", "target.doRead()")],
        "B3",
        "run() raised",
    ),
    (
        6,
        "only-exception",
        [("        except BaseException:\n", "        except Exception:\n")],
        "B3",
        "Boom: boom",
    ),
    (6, "not-closed", [("            target.failed(failure)\n", "")], "B3", "no connectionLost"),
    (
        6,
        "not-logged",
        [('            log.err(failure, f"in a callback of {target!r}")\n', "")],
        "B3",
        "nothing was logged",
    ),
    (
        6,
        "another-reason",
        [
            (
                "            target.failed(failure)\n",
                "            target.failed(Failure(error.ConnectionLost()))\n",
            )
        ],
        "B3",
        "the reason is",
    ),
    (6, "timers-not-guarded", [("self.guard(call, call.run)", "call.run()")], "B3", "run() raised"),
    (
        6,
        "not-ended-at-stop",
        [("            self.close()\n", "            pass\n")],
        "E8",
        "after stop(), a protocol's calls: made",
    ),
    # 7. Closing
    (
        7,
        "at-once",
        [
            (
                "            self._update()\n            self._finish_soon()\n",
                "            self._update()\n            self._buffer.clear()\n            self._finish_soon()\n",
            )
        ],
        "E5",
        "0 came, then the end",
    ),
    (
        7,
        "only-in-write",
        [
            (
                "            self._update()\n            self._finish_soon()\n",
                "            self._update()\n",
            )
        ],
        "E5",
        "sees no end",
    ),
    (
        7,
        "not-in-write",
        [("        self._update()\n        self._finish()\n", "        self._update()\n")],
        "E5",
        "nothing more came",
    ),
    (
        7,
        "keeps-reading",
        [
            (
                '        reads = self.state == "open"\n',
                '        reads = self.state in ("open", "closing")\n',
            )
        ],
        "R3",
        "after loseConnection()",
    ),
    (
        7,
        "abort-waits",
        [
            (
                "        self.failed(Failure(error.ConnectionAborted()))\n",
                "        self.loseConnection()\n",
            )
        ],
        "E6",
        "no connectionLost",
    ),
    (
        7,
        "no-reset",
        [("        if reason.check(error.ConnectionAborted):\n", "        if reason is None:\n")],
        "E6",
        "the client saw",
    ),
    (
        7,
        "abort-is-done",
        [("Failure(error.ConnectionAborted())", "Failure(error.ConnectionDone())")],
        "E6",
        "the reason is ConnectionDone",
    ),
    # 8. Closing loses nothing
    (
        8,
        "plain-close",
        [
            (
                "            self._linger = self.reactor.callLater(LINGER_SECONDS, self.connectionLost, done)\n",
                "            self.connectionLost(done)\n            return\n",
            )
        ],
        "C1",
        "a client had sent bytes that nobody read",
    ),
    (
        8,
        "no-limit",
        [
            (
                "            self._linger = self.reactor.callLater(LINGER_SECONDS, self.connectionLost, done)\n",
                "            self._linger = self.reactor.callLater(LINGER_SECONDS, list, [done])\n",
            )
        ],
        "C1",
        "an hour after loseConnection()",
    ),
    (
        8,
        "blocking-wait",
        [
            (
                "            self.socket.shutdown(socket.SHUT_WR)\n",
                "            self.socket.shutdown(socket.SHUT_WR)\n            self.socket.setblocking(True)\n            while self.socket.recv(READ_SIZE):\n                pass\n",
            )
        ],
        "C1",
        "got 0 bytes",
    ),
    (
        8,
        "shut-too-early",
        [
            (
                "        if self._buffer or not self._ends_writing:\n",
                "        if not self._ends_writing:\n",
            )
        ],
        "E5",
        "came",
    ),
    (
        8,
        "delivers-what-it-drops",
        [
            (
                '        elif self.state == "open":\n            self.protocol',
                "        else:\n            self.protocol",
            )
        ],
        "R3",
        "after loseConnection()",
    ),
    (
        8,
        "no-shutdown",
        [("            self.socket.shutdown(socket.SHUT_WR)\n", "")],
        "E5",
        "nothing more came",
    ),
    # 9. Reading
    (
        9,
        "drops-while-paused",
        [
            (
                '        reads = (self.reading or self.state == "closing") and not self.read_ended\n',
                '        reads = self.state in ("open", "closing") and not self.read_ended\n',
            ),
            (
                '        elif self.state == "open":\n',
                '        elif self.state == "open" and self.reading:\n',
            ),
        ],
        "R1",
        "after resumeProducing(): b''",
    ),
    (
        9,
        "no-update",
        [
            (
                "        self.reading = False\n        self._update()\n",
                "        self.reading = False\n",
            )
        ],
        "E8",
        "no makeConnection",
    ),
    (
        9,
        "flag-only",
        [
            (
                '        reads = (self.reading or self.state == "closing") and not self.read_ended\n',
                '        reads = self.state in ("open", "closing") and not self.read_ended\n',
            ),
            (
                "        try:\n            data = self.socket.recv",
                '        if self.state == "open" and not self.reading:\n            return\n        try:\n            data = self.socket.recv',
            ),
        ],
        "R1",
        "with input waiting, the loop woke up",
    ),
    (
        9,
        "no-event",
        [
            (
                "        elif before and not events:\n            self._selector.unregister(target)\n",
                "",
            )
        ],
        "E8",
        "no makeConnection",
    ),
    (
        9,
        "stops-writing",
        [
            (
                "        self.reading = False\n        self._update()\n",
                "        self.reading = False\n        self.reactor.watch(self, 0)\n",
            )
        ],
        "E5",
        "0 came",
    ),
    (
        9,
        "keeps-in-memory",
        [
            (
                '        reads = (self.reading or self.state == "closing") and not self.read_ended\n',
                '        reads = self.state in ("open", "closing") and not self.read_ended\n',
            ),
            (
                '        elif self.state == "open":\n            self.protocol.dataReceived(data)\n',
                '        elif self.state == "open" and not self.reading:\n            self.held = getattr(self, "held", b"") + data\n        elif self.state == "open":\n            self.protocol.dataReceived(data)\n',
            ),
            (
                '        self.reading = self.state == "open"\n',
                '        self.reading = self.state == "open"\n        if getattr(self, "held", b""):\n            held, self.held = self.held, b""\n            self.protocol.dataReceived(held)\n',
            ),
        ],
        "R1",
        "a paused transport has taken",
    ),
    (
        9,
        "reads-after-close",
        [
            (
                '        self.reading = self.state == "open"\n',
                '        self.reading = self.state != "closed"\n',
            ),
            ('        elif self.state == "open":\n', "        elif self.reading:\n"),
        ],
        "R3",
        "after loseConnection()",
    ),
    (
        9,
        "resumes-after-the-end",
        [('        self.reading = self.state == "open"\n', "        self.reading = True\n")],
        "R1",
        "raised ValueError",
    ),
    # 10. Pull producers
    (
        10,
        "not-at-once",
        [
            (
                "        if not streaming:\n            self.reactor.guard(self, producer.resumeProducing)\n",
                "        if not streaming:\n            self.reactor.callLater(0, producer.resumeProducing)\n",
            )
        ],
        "U1",
        "was called 0 times inside registerProducer()",
    ),
    (
        10,
        "only-once",
        [("        self._resume_if_empty()\n", "")],
        "U1",
        "65,536 came",
    ),
    (
        10,
        "asks-above",
        [
            (
                "        if self.producer is not None and not self._buffer:\n",
                "        if self.producer is not None:\n",
            )
        ],
        "U1",
        "bytes pending",
    ),
    (
        10,
        "polls",
        [
            (
                "            self.guard(call, call.run)\n",
                "            self.guard(call, call.run)\n        for target in list(self._watched):\n            if isinstance(target, Connection):\n                target._resume_if_empty()\n",
            )
        ],
        "U2",
        "was asked",
    ),
    (
        10,
        "second-taken",
        [
            (
                "        if self.producer is not None:\n            raise",
                "        if self.producer is None and producer is None:\n            raise",
            )
        ],
        "E1",
        "raised nothing",
    ),
    (
        10,
        "names-one",
        [
            (
                "{self.producer!r} is registered; cannot register {producer!r}",
                "{self.producer!r} is registered",
            )
        ],
        "E1",
        "the RuntimeError says",
    ),
    (
        10,
        "not-stopped",
        [
            (
                "        if producer is not None:\n            self.reactor.guard(self, producer.stopProducing)\n",
                "",
            )
        ],
        "E3",
        "made, resume, lost",
    ),
    (
        10,
        "lost-not-noticed",
        [
            (
                "        if self.write_ended:\n            self.reactor.guard(self, producer.stopProducing)\n            return\n",
                "",
            )
        ],
        "E2",
        "the producer's calls: resume",
    ),
    (
        10,
        "close-does-not-wait",
        [
            (
                "self._buffer or self.producer is not None or not self._ends_writing",
                "self._buffer or not self._ends_writing",
            )
        ],
        "E5",
        "the client saw the end",
    ),
    (
        10,
        "never-closes",
        [
            (
                "        self.producer = None\n        self._finish_soon()\n",
                "        self.producer = None\n",
            )
        ],
        "E5",
        "nothing pending: no end",
    ),
    # 11. Push producers
    (
        11,
        "at-the-mark",
        [("self.pending > self.high", "self.pending >= self.high")],
        "M2",
        "until 65,536 bytes were pending",
    ),
    (
        11,
        "each-write",
        [("self.streaming and not self.paused", "self.streaming")],
        "P2",
        "was called 16 times",
    ),
    (
        11,
        "pauses-later",
        [
            (
                "            self._pause_if_above_high()\n",
                "            self.reactor.callLater(0, self._pause_if_above_high)\n",
            )
        ],
        "M2",
        "until 1,048,576 bytes were pending",
    ),
    (
        11,
        "state-last",
        [
            (
                "            self.paused = False\n            self.reactor.guard(self, self.producer.resumeProducing)\n",
                "            self.reactor.guard(self, self.producer.resumeProducing)\n            self.paused = False\n",
            )
        ],
        "P4",
        "in resumeProducing(), writes of 16,384 bytes",
    ),
    (
        11,
        "starts-it",
        [
            (
                "        if not streaming:\n            self.reactor.guard(self, producer.resumeProducing)\n",
                "        self.reactor.guard(self, producer.resumeProducing)\n",
            )
        ],
        "P1",
        "the producer's calls: resume",
    ),
    (
        11,
        "inherits-the-pause",
        [
            (
                "self.producer, self.streaming, self.paused = producer, streaming, False",
                "self.producer, self.streaming = producer, streaming",
            )
        ],
        "P1",
        "the next one wrote above the mark",
    ),
    (
        11,
        "never-resumes",
        [("(self.paused or not self.streaming)", "(not self.streaming)")],
        "P3",
        "resumeProducing() was not called",
    ),
    (
        11,
        "resumes-at-each-flush",
        [("        if waiting and not self._buffer:\n", "        if waiting:\n")],
        "P3",
        "pause, resume",
    ),
    # 12. Two marks
    (
        12,
        "at-empty",
        [("waiting and self.pending <= self.low", "waiting and not self.pending")],
        "M2",
        "each time with 0 bytes pending",
    ),
    (
        12,
        "at-high",
        [("waiting and self.pending <= self.low", "waiting and self.pending <= self.high")],
        "M2",
        "bytes pending",
    ),
    (
        12,
        "below-low",
        [("waiting and self.pending <= self.low", "waiting and self.pending < self.low")],
        "M1",
        "nothing more came",
    ),
    (
        12,
        "no-check",
        [("        if not 0 <= low < high:\n", "        if low is None:\n")],
        "M1",
        "(10, 10) raised nothing",
    ),
    (
        12,
        "names-no-values",
        [('f"high={high!r} and low={low!r} will not do: 0 <= low < high"', '"bad marks"')],
        "M1",
        "the error says 'bad marks'",
    ),
    (
        12,
        "low-stays",
        [
            (
                "        low = high // 4 if low is None else low\n",
                "        low = LOW if low is None else low\n",
            )
        ],
        "M1",
        "setWriteBufferLimits(262144): resumed with",
    ),
    (
        12,
        "zero-is-none",
        [("        low = high // 4 if low is None else low\n", "        low = low or high // 4\n")],
        "M1",
        "marks 32,768 and 0",
    ),
    (
        12,
        "later",
        [
            (
                "        self.high, self.low = high, low\n        self._pause_if_above_high()\n",
                "        self.high, self.low = high, low\n",
            )
        ],
        "M3",
        "high becomes 10,000",
    ),
    (
        12,
        "for-all",
        [
            (
                "        self.high, self.low = high, low\n",
                "        Connection.high, Connection.low = high, low\n",
            ),
            ("        self.high, self.low = HIGH, LOW\n", ""),
            (
                "    def __init__(self, reactor, sock):\n        sock.set",
                "    high, low = HIGH, LOW\n\n    def __init__(self, reactor, sock):\n        sock.set",
            ),
        ],
        "M1",
        "another one was paused at 33,792",
    ),
]
