"""Pieces to put between any producer and any consumer: slow down, transform, share, buffer.

    pack = zlib.compressobj()
    way = pipe(Transform(pack.compress, pack.flush), RateLimiter(50_000), transport)
    FileSender().beginFileTransfer(file, way)

A piece is a consumer for what is above it, and a push producer for what is below: a transport,
another piece, or any IConsumer. It keeps the contract of `interfaces` both ways:

    from above                what the piece does                            calls below
    registerProducer(p, s)    P1: pauses a push producer if it is full;
                              U1: asks a pull producer, and once more
                              after each of its writes, when it has room
    write(data)               passes it on, or holds it                      write(chunk)
    unregisterProducer()      that was all: passes on what it holds, then    unregisterProducer()
                                                                             and on_finish()
    loseConnection()          E5: the same once no producer is registered    and loseConnection()
    abortConnection()         drops what it holds, stops its producer        abortConnection()

    from below                what the piece does                            calls above
    pauseProducing()          holds what comes; full at once, a Buffer       pauseProducing()
                              only when it holds too much
    resumeProducing()         passes on what it holds, and has room          resumeProducing()
    stopProducing()           the consumer is lost: drops what it holds      stopProducing()

The end. To unregister from a piece is to end the stream, which goes down as what is held goes.
What is to happen then is said with `pipe(..., transport, on_finish=transport.loseConnection)`. What
is written after the end is dropped, and a producer that registers is stopped at once. Who writes
without being registered says `loseConnection()`, which closes the consumer too.

A loss goes up. A break goes both ways: what a producer, a consumer or a transform raises is logged
once, and never comes out of a `write()`; the producer is stopped, and the consumer aborted, lest it
take half a stream for the whole.

Until it has a consumer, a piece behaves as if that had paused it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable, Union

from minireactor import log
from minireactor.core import flow
from minireactor.core.buffer import LARGE, WriteBuffer, as_bytes
from minireactor.failure import safe_repr

if TYPE_CHECKING:
    from minireactor.core.timers import DelayedCall
    from minireactor.interfaces import IReactorTime

# Bytes that a piece passes on in one go while it holds more: as many as a connection reads in one
# pass. A consumer that never pauses would otherwise keep the loop for as long as there is more.
LARGEST_TURN = 256 * 1024
# Bytes that a Buffer passes on at a time: by no more can it overfill its consumer.
LARGEST_PASS = 16 * 1024
# Seconds. A delay that is lost in the rounding of the clock would come round again and again.
SHORTEST_WAIT = 1e-6

# What a Tee does with a consumer that is paused when the next chunk comes.
WAIT, DROP, DISCONNECT = "wait", "drop", "disconnect"

Output = Union[bytes, bytearray, memoryview, Iterable[Union[bytes, bytearray, memoryview]], None]

_END = object()


def pipe(*stages: Any, on_finish: Callable[[], object] | None = None) -> Any:
    """Have each of the pieces feed the next stage, the last of which is any consumer; the first.

    `on_finish()` is called once the last piece has passed on all and has unregistered. ValueError
    if there is no piece; RuntimeError if one of the stages is taken."""
    if len(stages) < 2:
        raise ValueError(
            f"pipe{safe_repr(stages)} will not do: it joins a piece, or several, to a consumer"
        )
    consumer = stages[-1]
    for piece in reversed(stages[:-1]):
        piece.feed(consumer, on_finish)
        consumer, on_finish = piece, None
    return consumer


class Piece:
    """What all pieces share, and by itself a piece that changes nothing.

    `reactor`: for `callLater` and `seconds`; the default reactor unless given. `held`: how
    many bytes it holds. `over`: whether it has passed on the end of the stream, or has lost it.
    """

    over = False

    def __init__(self, reactor: IReactorTime | None = None) -> None:
        self._reactor = reactor
        # Marks of 0 and 0: it is full while it holds anything, or may not pass anything on.
        self._flow = flow.FlowControl(0, 0)
        self._consumers: list[Any] = []
        self._on_finish: Callable[[], object] | None = None
        self._chunks: deque[Any] = deque()
        self._size = 0  # of these
        self._paused = True  # by its consumer, or for want of one
        self._writing = 0  # how many calls of write() are under way
        self._passing = False  # whether a chunk is on its way into the consumer
        self._answered = False  # a pull producer has written since it was last asked
        self._closing = False  # loseConnection() was called
        self._call: DelayedCall | None = None

    @property
    def held(self) -> int:
        """Bytes that were written and have not been passed on."""
        return self._size

    def feed(self, consumer: Any, on_finish: Callable[[], object] | None = None) -> None:
        """Pass everything on to `consumer`. RuntimeError if this piece or that one is taken.

        `on_finish()` is called after the end of the stream was passed on, and not at a loss."""
        self._check_not_over(consumer)
        if self._consumers:
            raise RuntimeError(
                f"{safe_repr(self)} feeds {safe_repr(self._consumers[0])}; put a Tee there to feed "
                f"{safe_repr(consumer)} too"
            )
        self._consumers.append(consumer)
        self._on_finish = on_finish
        self._paused = False
        try:
            consumer.registerProducer(self, True)
        except BaseException:
            self._consumers = []
            self._paused = True
            raise
        self._go_on()

    def _check_not_over(self, consumer: Any) -> None:
        if self.over:
            raise RuntimeError(
                f"{safe_repr(self)} has no more for {safe_repr(consumer)}: make another"
            )

    # The consumer, for what is above.

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let `producer` supply the bytes: pushing if `streaming`, else pulled. RuntimeError if
        there is one already. Once the stream has ended, it gets stopProducing() at once."""
        call = self._flow.register(producer, streaming)
        self._answered = False
        if call is not None:
            self._guard(call)

    def unregisterProducer(self) -> None:
        """The registered producer has no more: the end of the stream. Else nothing happens."""
        if self._flow.producer is not None:
            self._flow.fire(flow.UNREGISTERED)
            self._take_no_more()

    def write(self, data: Any) -> None:
        """Pass bytes, bytearray or memoryview on, or hold them. TypeError.

        Calls pauseProducing() of a registered push producer if this has made the piece full."""
        data = as_bytes(data)
        if not data or self._flow.state is flow.CLOSED:
            return
        self._answered = True
        self._writing += 1
        try:
            self._take(data)
            self._go_on()
        finally:
            self._writing -= 1

    def writeSequence(self, iovec: Any) -> None:
        """Write all of an iterable of bytes or, on a TypeError, none of it."""
        self.write(b"".join(map(as_bytes, iovec)))

    def loseConnection(self) -> None:
        """End the stream, once no producer is registered, then close the consumer likewise."""
        if self._closing:
            return
        self._closing = True
        if self.over:
            self._tell_consumers("loseConnection")
        elif self._flow.producer is None:
            self._take_no_more()

    def abortConnection(self) -> None:
        """Break the stream off: stop the producer, drop what is held, abort the consumer."""
        consumers, self._consumers = self._consumers, []
        stop = self._shut()
        for consumer in consumers:
            self._guard(getattr(consumer, "abortConnection", consumer.unregisterProducer))
        if stop is not None:
            self._guard(stop)

    # The push producer, for what is below.

    def pauseProducing(self) -> None:
        self._paused = True
        self._cancel()
        self._review()

    def resumeProducing(self) -> None:
        self._paused = False
        self._go_on()

    def stopProducing(self) -> None:
        self._consumers = []
        stop = self._shut()
        if stop is not None:
            self._guard(stop)

    # What differs from piece to piece.

    def _take(self, data: bytes) -> None:
        """Hold `data`, which is not empty."""
        self._chunks.append(data)
        self._size += len(data)

    def _next(self) -> bytes | None:
        """What is to be passed on next; None if there is nothing, or nothing now."""
        if not self._chunks:
            return None
        chunk: bytes = self._chunks.popleft()
        self._size -= len(chunk)
        return chunk

    def _unfinished(self) -> bool:
        """Whether anything is to be passed on before the stream may end."""
        return self._size > 0

    def _load(self) -> int:
        """What is held against the marks: above high it is full, at or under low it has room."""
        return self.held + self._paused

    def _drop(self) -> None:
        """Forget what is held."""
        self._chunks.clear()
        self._size = 0

    # Passing on. State first, calls last: any of these calls may lead back into this piece.

    def _go_on(self) -> None:
        """Pass on what may pass, then see what follows from it."""
        if not self._passing:
            self._cancel()
            self._passing = True
            try:
                self._pass_on()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                self._fail(error)
            finally:
                self._passing = False
        self._review()

    def _pass_on(self) -> None:
        turn = LARGEST_TURN
        while not (self._paused or self.over):
            if turn <= 0 and self._unfinished():
                self._wake_in(0)
                return
            chunk = self._next()
            if chunk is None:
                return
            if chunk:
                turn -= len(chunk)
                for consumer in tuple(self._consumers):
                    consumer.write(chunk)

    def _review(self) -> None:
        state = self._flow.state
        if state is flow.CLOSED:
            if self._consumers and not (self.over or self._passing or self._unfinished()):
                self._finish()
            return
        load = self._load()
        if load > self._flow.high:
            self._tell(flow.ABOVE)
        elif load <= self._flow.low and not self._passing and self._is_due(state):
            if self._writing:
                self._wake_in(0)  # no producer is called for more from inside its own write()
            else:
                self._answered = False
                self._tell(flow.BELOW)

    def _is_due(self, state: str) -> bool:
        """Whether the producer has to hear of room. U2: one that has not answered is not polled."""
        return state is flow.PAUSED or (state is flow.PULL and self._answered)

    def _tell(self, event: str) -> None:
        call = self._flow.fire(event)
        if call is not None:
            self._guard(call)

    # Time: one call at most, and none while there is nothing to wait for.

    def _time(self) -> IReactorTime:
        if self._reactor is None:
            from minireactor import reactor  # made at its first use: not every piece needs it

            self._reactor = reactor
        return self._reactor

    def _wake_in(self, delay: float) -> None:
        if self._call is None or not self._call.active():  # a program may have cancelled the call
            time = self._time()
            # Hidden if the reactor can: whoever cancels all calls that it shows, as test runners
            # do, would stop this stream for good.
            call_later = getattr(time, "call_later_hidden", time.callLater)
            self._call = call_later(delay, self._wake)

    def _wake(self) -> None:
        self._call = None
        self._go_on()

    def _cancel(self) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    # Endings.

    def _take_no_more(self) -> None:
        self._flow.fire(flow.ENDED)
        self._go_on()

    def _finish(self) -> None:
        self.over = True
        self._tell_consumers("unregisterProducer")
        if self._closing:
            self._tell_consumers("loseConnection")
        on_finish, self._on_finish = self._on_finish, None
        if on_finish is not None:
            self._guard(on_finish)

    def _tell_consumers(self, name: str) -> None:
        for consumer in tuple(self._consumers):
            call = getattr(consumer, name, None)  # not every consumer is a transport
            if call is not None:
                self._guard(call)

    def _shut(self) -> Callable[[], Any] | None:
        """The end by a loss or a break; the call to make on the producer, if it has one."""
        self.over = True
        self._on_finish = None
        self._cancel()
        self._drop()
        return self._flow.fire(flow.ENDED)

    def _guard(self, call: Callable[[], object]) -> None:
        try:
            call()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        log.err(error, f"in a callback of {safe_repr(self)}")
        self.abortConnection()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, {self.held} bytes held{', over' if self.over else ''}>"


class PushFromPull(Piece):
    """Makes a push producer of a pull producer, and changes nothing else.

        FileSender().beginFileTransfer(file, pipe(PushFromPull(), consumer))

    As every piece does that, it is only needed where there is no other. The producer is asked when
    it registers, when the consumer resumes, and otherwise from the reactor's `callLater(0)`: once
    in a pass of the loop, as a connection would ask it, so that it neither recurses nor keeps the
    others from their turn, however much it has. It is not asked while the consumer has paused,
    nor, by U2, before it has answered. A pause from below goes up to a push producer as it is, and
    so do a resume, the end and a loss.
    """


class Buffer(Piece):
    """Lets its producer run ahead of its consumer, by `high` bytes.

    0 <= low < high; low is high // 4 unless given; ValueError. A pause from below stays here until
    more than `high` bytes are held; then it goes up. A resume passes on what is held until the
    next pause, and goes up once `low` bytes or fewer are left. At the end, unregisterProducer()
    goes down after the last byte. At a loss, what is held is dropped.
    """

    def __init__(
        self, high: int = flow.HIGH, low: int | None = None, reactor: IReactorTime | None = None
    ) -> None:
        super().__init__(reactor)
        self._flow.high, self._flow.low = flow.checked_marks(high, low)
        self._buffer = WriteBuffer()

    @property
    def held(self) -> int:
        return len(self._buffer)

    def _take(self, data: bytes) -> None:
        if len(data) < LARGE:
            self._buffer.tail += data
        else:
            self._buffer.append(data)

    def _next(self) -> bytes | None:
        chunk = b"".join(self._buffer.peek(LARGEST_PASS))
        self._buffer.advance(len(chunk))
        return chunk or None

    def _unfinished(self) -> bool:
        return len(self._buffer) > 0

    def _load(self) -> int:
        return len(self._buffer)

    def _drop(self) -> None:
        self._buffer.clear()


class RateLimiter(Piece):
    """Passes on `rate` bytes a second, and up to `burst` bytes at once after a rest.

    `rate`: any number above 0. `burst`: a whole number of bytes, 1 or more, unless given those of a
    tenth of a second. ValueError. In no second pass more than `rate + burst` bytes; and as long as
    there is something to pass, `rate` of them do, if the loop is never late by the time that half
    of `burst` takes.

    It holds what may not pass yet, and sends a pause up with the first byte that it has to hold:
    that is the rest of one chunk. Resume goes up when the last byte held has passed. A pause from
    below goes up at once; meanwhile the right to pass on grows no further than to `burst`. At the
    end, what is held goes on at its rate, then unregisterProducer(); at a loss it is dropped.
    """

    def __init__(
        self, rate: float, burst: int | None = None, reactor: IReactorTime | None = None
    ) -> None:
        super().__init__(reactor)
        if not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
            raise ValueError(f"rate={rate!r} will not do: it is bytes a second, more than 0")
        if burst is None:
            burst = max(1, int(rate / 10))
        if not isinstance(burst, int) or burst < 1:
            raise ValueError(f"burst={burst!r} will not do: it is a number of bytes, 1 or more")
        self._rate = rate
        self._burst = burst
        # Not by single bytes, nor by all that may pass at once: what is earned while a wake-up is
        # late must still find room.
        self._portion = (burst + 1) // 2
        # The bucket is counted from a moment at which it was full, so that the roundings of many
        # small steps do not add up.
        self._full_at = -math.inf
        self._spent = 0  # bytes since

    def _next(self) -> bytes | None:
        if not self._chunks:
            return None
        now = self._time().seconds()
        allowed = self._allowed(now)
        wanted = min(self._size, self._portion)
        if allowed < wanted:
            due = self._full_at + (self._spent + wanted - self._burst) / self._rate
            self._wake_in(max(due - now, SHORTEST_WAIT))
            return None
        chunk = self._chunks.popleft()
        if len(chunk) > allowed:
            # To copy the rest for every portion would be quadratic: a view is not.
            view = memoryview(chunk)
            self._chunks.appendleft(view[allowed:])
            chunk = view[:allowed]
        self._size -= len(chunk)
        self._spent += len(chunk)
        return bytes(chunk)

    def _allowed(self, now: float) -> int:
        earned = (now - self._full_at) * self._rate
        if earned >= self._spent:
            self._full_at, self._spent = now, 0
            return self._burst
        return self._burst + int(earned) - self._spent


class Transform(Piece):
    """Passes on what `function` makes of the bytes: `function(data)` for each chunk that comes, and
    at the end `flush()`, if there is one.

        pack, unpack = zlib.compressobj(), zlib.decompressobj()
        Transform(pack.compress, pack.flush)
        Transform(unpack.decompress)

    Both return bytes, a bytearray or a memoryview, which may be empty; None; or an iterable of
    them, a generator say. That is asked for its next chunk only while the consumer takes it, so
    what makes much of little needs little memory, whatever the peer sends:

        def unpacked(data, most=16 * 1024):
            chunk = None
            while data or chunk:  # zlib may have taken all of data, and still have more to give
                chunk = unpack.decompress(data, most)
                data = unpack.unconsumed_tail
                yield chunk

        def check():
            if not unpack.eof:
                raise EOFError("the compressed data breaks off")

        Transform(unpacked, check)

    A pause goes up at once, and with the first chunk that has to wait; a resume goes up when the
    last has been transformed and passed on. U2: a pull producer whose chunk was swallowed is asked
    for the next one. The end goes down after what `flush` gives. What one of the two raises breaks
    the stream off, both ways; at a loss neither is called any more.
    """

    def __init__(
        self,
        function: Callable[[bytes], Output],
        flush: Callable[[], Output] | None = None,
        reactor: IReactorTime | None = None,
    ) -> None:
        super().__init__(reactor)
        self._function = function
        self._flush = flush
        self._output: Iterator[Any] | None = None
        self._in_work = 0  # bytes of the input that `_output` is made of

    @property
    def held(self) -> int:
        """Bytes that were written and are not yet transformed to the end."""
        return self._size + self._in_work

    def _next(self) -> bytes | None:
        while True:
            if self._output is None:
                self._output = self._begin()
                if self._output is None:
                    return None
            chunk = next(self._output, _END)
            if chunk is not _END:
                return as_bytes(chunk)
            self._output = None
            self._in_work = 0

    def _begin(self) -> Iterator[Any] | None:
        """What comes of the next input or, after the last, of the flush."""
        data = super()._next()
        if data is not None:
            self._in_work = len(data)
            return _chunks_of(self._function(data))
        flush = self._flush
        if flush is None or self._flow.state is not flow.CLOSED:
            return None
        self._flush = None
        return _chunks_of(flush())

    def _unfinished(self) -> bool:
        unflushed = self._flush is not None and self._flow.state is flow.CLOSED
        return unflushed or self._output is not None or self._size > 0

    def _drop(self) -> None:
        super()._drop()
        self._output = self._flush = None
        self._in_work = 0


def _chunks_of(output: Output) -> Iterator[Any]:
    if output is None:
        return iter(())
    return iter((output,) if isinstance(output, (bytes, bytearray, memoryview)) else output)


class Tee(Piece):
    """Passes everything on to several consumers, which may come and go.

    `add(consumer, slow)` says what is done about one that is paused when the next chunk comes:

        "wait"        nobody gets the next chunk before it has resumed: the slowest decides
        "drop"        it goes without that chunk, which is counted; the others do not notice
        "disconnect"  it is aborted, and gone

    A pause goes up when one that is waited for pauses, a resume when none of them is paused any
    more. The end goes down to all. A loss stays here until the last consumer is lost: then it goes
    up, unless the Tee is `lasting`: that one waits for the next consumer, as it did for the first.
    """

    def __init__(self, reactor: IReactorTime | None = None, lasting: bool = False) -> None:
        super().__init__(reactor)
        self._lasting = lasting

    def feed(self, consumer: Any, on_finish: Callable[[], object] | None = None) -> None:
        """`add(consumer, "wait", on_finish)`."""
        self.add(consumer, WAIT, on_finish)

    def add(
        self, consumer: Any, slow: str = WAIT, on_finish: Callable[[], object] | None = None
    ) -> Branch:
        """Pass on to `consumer` as well, from the next chunk on. ValueError, RuntimeError."""
        self._check_not_over(consumer)
        if slow not in (WAIT, DROP, DISCONNECT):
            raise ValueError(f"slow={slow!r} will not do: {WAIT!r}, {DROP!r} or {DISCONNECT!r}")
        branch = Branch(self, slow, self._reactor)
        branch.feed(consumer, on_finish)
        self._consumers.append(branch)
        branch.registerProducer(_Joint(self, branch), True)
        self._weigh()
        return branch

    def _weigh(self) -> None:
        """A branch has come, gone, paused or resumed."""
        branches = self._consumers
        if not branches or any(branch.keeps_others_waiting() for branch in branches):
            self.pauseProducing()
        elif self._paused:
            self.resumeProducing()

    def _let_go(self, branch: Branch) -> None:
        if branch in self._consumers:
            self._consumers.remove(branch)
            self._weigh()

    def _lost(self, branch: Branch) -> None:
        if self._consumers == [branch] and not self._lasting:
            self.stopProducing()
        else:
            self._let_go(branch)


class Branch(Piece):
    """The way from a Tee to one of its consumers; made by `Tee.add`.

    `dropped`, `dropped_bytes`: how many chunks, and bytes, it had to go without.
    """

    dropped = 0
    dropped_bytes = 0

    def __init__(self, tee: Tee, slow: str, reactor: IReactorTime | None) -> None:
        super().__init__(reactor)
        self._tee = tee
        self._slow = slow

    def leave(self) -> None:
        """Let this consumer go: for it, this is the end of the stream. The others go on; if there
        is none, the Tee waits for one."""
        self._tee._let_go(self)
        self.unregisterProducer()

    def write(self, data: Any) -> None:
        if self.over or not self._paused or self._slow == WAIT:
            super().write(data)
        elif self._slow == DROP:
            self.dropped += 1
            self.dropped_bytes += len(data)
        else:
            self.abortConnection()

    def keeps_others_waiting(self) -> bool:
        return self._slow == WAIT and self._flow.state is flow.PAUSED


class _Joint:
    """What a branch knows as its producer, so that the Tee knows which of them calls."""

    def __init__(self, tee: Tee, branch: Branch) -> None:
        self._tee = tee
        self._branch = branch

    def pauseProducing(self) -> None:
        self._tee._weigh()

    def resumeProducing(self) -> None:
        self._tee._weigh()

    def stopProducing(self) -> None:
        self._tee._lost(self._branch)
