"""The base class of all stages, and `pipe()`, which chains stages in front of a consumer.

    pack = zlib.compressobj()
    first = pipe(Transform(pack.compress, pack.flush), RateLimiter(50_000), transport)
    FileSender().beginFileTransfer(file, first)

A stage is a consumer for the producer above it. It is a push producer for the consumer below it:
a transport, another stage, or any other IConsumer. It keeps the contract of `interfaces` on both
sides:

    call from above           what the stage does                            call below
    registerProducer(p, s)    P1: pauses a push producer if full
                              U1: asks a pull producer now, and again
                              after each of its writes once there is room
    write(data)               passes the data on, or buffers it              write(chunk)
    unregisterProducer()      the stream ends: passes on the buffered        unregisterProducer()
                              bytes, then the end                            and on_finish()
    loseConnection()          E5: does the same, once no producer is         and loseConnection()
                              registered
    abortConnection()         drops the buffered bytes, stops the producer   abortConnection()

    call from below           what the stage does                            call above
    pauseProducing()          buffers what comes; is full at once (a         pauseProducing()
                              Buffer: above its high mark)
    resumeProducing()         passes on the buffered bytes; has room then    resumeProducing()
    stopProducing()           the consumer is lost: drops the buffered       stopProducing()
                              bytes

The end. A producer ends the stream by unregistering. The end is passed on after the last buffered
byte. `pipe(..., transport, on_finish=transport.loseConnection)` says what to do at that moment.
Data written after the end is dropped, and a producer that registers then is stopped at once. A
program that writes without a registered producer ends the stream with `loseConnection()`, which
closes the consumer too.

Errors. A lost consumer is reported to the producer. An exception of a producer, a consumer or a
transform is logged once, and `write()` never raises it. The producer is then stopped, and the
consumer is aborted: if it were closed in order, its peer would take half a stream for the whole.

A stage without a consumer behaves as if a consumer had paused it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from minireactor import log
from minireactor.core import flow
from minireactor.core.buffer import as_bytes
from minireactor.core.timers import cancel_if_active
from minireactor.failure import safe_repr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from minireactor.core.timers import DelayedCall
    from minireactor.interfaces import Buffer, IConsumer, IProducer, IReactorTime

# Bytes that a stage passes on in one turn. A connection reads as many in one loop iteration.
# Without this limit, a stage with a consumer that never pauses would block the loop.
LARGEST_TURN = 256 * 1024


def pipe(*stages: Any, on_finish: Callable[[], object] | None = None) -> Stage:
    """Connect each stage to the next one, and the last stage to a consumer; return the first stage.

    stages: one or more stages, then any consumer.
    on_finish: called when the last stage has passed on everything and has unregistered.

    Raises ValueError if there is no stage, and RuntimeError if a stage or the consumer is already
    connected."""
    if len(stages) < 2:
        raise ValueError(
            f"pipe{safe_repr(stages)} is not valid: give one stage or more, then a consumer"
        )
    first: Stage = stages[0]
    consumer = stages[-1]
    for stage in reversed(stages[:-1]):
        stage.feed(consumer, on_finish)
        consumer, on_finish = stage, None
    return first


class Stage:
    """Pass all bytes on unchanged; the base class of all stages.

        FileSender().beginFileTransfer(file, pipe(Stage(), consumer))

    A stage makes a push producer of a pull producer. So any producer can feed a consumer that only
    knows push producers. The stage asks a pull producer for data at its registration and when the
    consumer resumes. Otherwise the stage asks once in each loop iteration, through the reactor's
    `callLater(0)`. So the calls never recurse, and never delay others, however much data there is.
    While the consumer is paused, the producer is not asked. U2: the producer is not asked again
    before it has written.

    reactor: has `callLater` and `seconds`; the default reactor unless given.
    buffered: number of bytes that were written and not yet passed on.
    over: true once the end of the stream was passed on, or the stream was aborted.
    """

    over = False

    def __init__(self, reactor: IReactorTime | None = None) -> None:
        self._reactor = reactor
        # Both watermarks are 0: a stage is full while it is paused, or has buffered bytes.
        self._flow = flow.FlowControl(0, 0)
        self._consumers: list[IConsumer] = []
        self._on_finish: Callable[[], object] | None = None
        self._chunks: deque[Any] = deque()
        self._size = 0  # bytes in _chunks
        self._paused = True  # the consumer has paused this stage, or there is no consumer
        self._writing = 0  # number of nested calls of write()
        self._passing = False  # a chunk is being written to the consumer
        self._answered = False  # the pull producer has written since it was asked last
        self._closing = False  # loseConnection() was called
        self._call: DelayedCall | None = None

    @property
    def buffered(self) -> int:
        """The number of bytes that were written and not yet passed on."""
        return self._size

    def feed(self, consumer: IConsumer, on_finish: Callable[[], object] | None = None) -> None:
        """Connect this stage to `consumer`, and begin to pass on.

        on_finish: called after the end of the stream was passed on. Not called after a loss.

        Raises RuntimeError if the stage has a consumer, the consumer has a producer, or the stream
        is over."""
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
        self._continue()

    def _check_not_over(self, consumer: IConsumer) -> None:
        if self.over:
            raise RuntimeError(
                f"{safe_repr(self)} has no more for {safe_repr(consumer)}: make another stage"
            )

    # The consumer's methods, called from above.

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Register a push producer if `streaming` is true, else a pull producer.

        A producer that registers after the end of the stream gets stopProducing() at once.
        Raises RuntimeError if another producer is registered."""
        call = self._flow.register(producer, streaming)
        self._answered = False
        self._call_producer(call)

    def unregisterProducer(self) -> None:
        """End the stream. Does nothing if no producer is registered."""
        if self._flow.producer is not None:
            self._flow.fire(flow.UNREGISTERED)
            self._end_input()

    def write(self, data: Buffer) -> None:
        """Pass bytes, bytearray or memoryview on, or buffer them.

        Calls pauseProducing() of a registered push producer if the data makes the stage full.
        Raises TypeError for any other type."""
        data = as_bytes(data)
        if not data or self._flow.state is flow.CLOSED:
            return
        self._answered = True
        self._writing += 1
        try:
            self._store(data)
            self._continue()
        finally:
            self._writing -= 1

    def writeSequence(self, iovec: Iterable[Buffer]) -> None:
        """Write all chunks of an iterable.

        Raises TypeError, and writes none of them, if one is not bytes, bytearray or memoryview."""
        self.write(b"".join(map(as_bytes, iovec)))

    def loseConnection(self) -> None:
        """End the stream once no producer is registered, and close the consumer likewise."""
        if self._closing:
            return
        self._closing = True
        if self.over:
            self._call_consumers("loseConnection")
        elif self._flow.producer is None:
            self._end_input()

    def abortConnection(self) -> None:
        """Stop the producer, drop the buffered bytes, and abort the consumer."""
        consumers, self._consumers = self._consumers, []
        stop = self._break_off()
        for consumer in consumers:
            self._guard(getattr(consumer, "abortConnection", consumer.unregisterProducer))
        self._call_producer(stop)

    # The push producer's methods, called from below.

    def pauseProducing(self) -> None:
        self._paused = True
        self._cancel()
        self._update_producer()

    def resumeProducing(self) -> None:
        self._paused = False
        self._continue()

    def stopProducing(self) -> None:
        self._consumers = []
        self._call_producer(self._break_off())

    # What subclasses override.

    def _store(self, data: bytes) -> None:
        """Buffer `data`, which is not empty."""
        self._chunks.append(data)
        self._size += len(data)

    def _next(self) -> bytes | None:
        """Return the next chunk to pass on, or None if no chunk is ready now."""
        if not self._chunks:
            return None
        chunk: bytes = self._chunks.popleft()
        self._size -= len(chunk)
        return chunk

    def _unfinished(self) -> bool:
        """Return whether anything must be passed on before the stream may end."""
        return self._size > 0

    def _level(self) -> int:
        """Return the number that is compared with the watermarks.

        The stage is full above the high mark, and has room at or below the low mark."""
        return self.buffered + self._paused

    def _drop(self) -> None:
        """Drop all buffered bytes."""
        self._chunks.clear()
        self._size = 0

    # Passing on. State first, calls last: each of these calls may call this stage again.

    def _continue(self) -> None:
        """Pass on what may pass, then pause, resume or finish as needed."""
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
        self._update_producer()

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

    def _update_producer(self) -> None:
        state = self._flow.state
        if state is flow.CLOSED:
            if self._consumers and not (self.over or self._passing or self._unfinished()):
                self._finish()
            return
        load = self._level()
        if load > self._flow.high:
            self._notify_producer(flow.ABOVE)
        elif load <= self._flow.low and not self._passing and self._wants_resume(state):
            if self._writing:
                self._wake_in(0)  # never resume a producer inside its own write()
            else:
                self._answered = False
                self._notify_producer(flow.BELOW)

    def _wants_resume(self, state: str) -> bool:
        """Return whether the producer must be resumed when there is room.

        U2: a pull producer that has not written since it was asked is not asked again."""
        return state is flow.PAUSED or (state is flow.PULL and self._answered)

    def _notify_producer(self, event: str) -> None:
        self._call_producer(self._flow.fire(event))

    def _call_producer(self, call: flow.ProducerCall) -> None:
        if call is not None:
            self._guard(flow.call, *call)

    # Time: at most one delayed call, and none while there is nothing to wait for.

    def _time(self) -> IReactorTime:
        if self._reactor is None:
            from minireactor import reactor  # made at first use: not every stage needs time

            self._reactor = reactor
        return self._reactor

    def _wake_in(self, delay: float) -> None:
        if self._call is None or not self._call.active():  # a program may cancel calls
            time = self._time()
            # An internal call, if the reactor has such calls. Test runners cancel all calls that
            # getDelayedCalls() lists, which would stop this stream for good.
            call_later = getattr(time, "call_later_internal", time.callLater)
            self._call = call_later(delay, self._wake)

    def _wake(self) -> None:
        self._call = None
        self._continue()

    def _cancel(self) -> None:
        call, self._call = self._call, None
        cancel_if_active(call)

    # Endings.

    def _end_input(self) -> None:
        self._flow.fire(flow.ENDED)
        self._continue()

    def _finish(self) -> None:
        self.over = True
        self._call_consumers("unregisterProducer")
        if self._closing:
            self._call_consumers("loseConnection")
        on_finish, self._on_finish = self._on_finish, None
        if on_finish is not None:
            self._guard(on_finish)

    def _call_consumers(self, name: str) -> None:
        for consumer in tuple(self._consumers):
            call = getattr(consumer, name, None)  # only transports have loseConnection()
            if call is not None:
                self._guard(call)

    def _break_off(self) -> flow.ProducerCall:
        """End the stream at once; return the call to make on the producer, or None."""
        self.over = True
        self._on_finish = None
        self._cancel()
        self._drop()
        return self._flow.fire(flow.ENDED)

    def _guard(self, call: Callable[..., object], *args: object) -> None:
        try:
            call(*args)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        log.err(error, f"in a callback of {safe_repr(self)}")
        self.abortConnection()

    def __repr__(self) -> str:
        over = ", over" if self.over else ""
        return f"<{type(self).__name__}, {self.buffered} bytes buffered{over}>"


# The name for a program that only needs a push producer made of a pull producer.
PushFromPull = Stage
