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

from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from minireactor import log
from minireactor.core import flow
from minireactor.core.buffer import as_bytes
from minireactor.failure import safe_repr

if TYPE_CHECKING:
    from minireactor.core.timers import DelayedCall
    from minireactor.interfaces import IReactorTime

# Bytes that a piece passes on in one go while it holds more: as many as a connection reads in one
# pass. A consumer that never pauses would otherwise keep the loop for as long as there is more.
LARGEST_TURN = 256 * 1024


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
