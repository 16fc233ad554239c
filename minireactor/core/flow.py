"""Flow control: when a producer is paused, resumed and stopped. All of it is in one table.

A consumer counts *pending*: the bytes that it has received and has not passed on yet. Pending is
compared with two thresholds, the high and the low watermark ("marks"). Above the high mark the
consumer has too much. At or below the low mark it wants more. The distance between the marks keeps
the consumer from pausing and resuming the producer for every few bytes.

This module neither reads nor writes. Its caller fires the events. An event may lead to a call of
one of the producer's methods. The caller makes this call with `call()`, and makes it last: the
producer may fire the next event within the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minireactor.failure import safe_repr

if TYPE_CHECKING:
    from typing import Optional, Protocol

    class Producer(Protocol):
        """Any producer. All have resumeProducing() too, and push producers pauseProducing().

        See `interfaces`."""

        def stopProducing(self) -> object:
            """Stop writing, for good."""

    # A producer, and the name of its method that has to be called. None: there is no call to make.
    ProducerCall = Optional[tuple[Producer, str]]

HIGH = 64 * 1024  # bytes; enough for a few sends on a local network, and Twisted's limit
LOW = HIGH // 4

# States.
NONE = "none"  # no producer
FLOWING = "flowing"  # a push producer that may write
PAUSED = "paused"  # a push producer that must wait
PULL = "pull"  # a pull producer, which writes once for each resumeProducing()
CLOSED = "closed"  # the consumer takes no more bytes

WAITING = (PAUSED, PULL)  # the states in which BELOW leads to a call

# Events.
PUSH_REGISTERED = "push registered"
PULL_REGISTERED = "pull registered"
UNREGISTERED = "unregistered"
ABOVE = "above high"  # after a write, pending is above the high mark
BELOW = "at or under low"  # after a flush, pending is at or below the low mark
ENDED = "ended"  # the connection, or its write side, has ended

PAUSE = "pauseProducing"
RESUME = "resumeProducing"
STOP = "stopProducing"

# (state, event) -> (next state, call on the producer). A missing row is an error.
TRANSITIONS: dict[tuple[str, str], tuple[str, str | None]] = {
    (NONE, PUSH_REGISTERED): (FLOWING, None),
    (NONE, PULL_REGISTERED): (PULL, RESUME),
    (NONE, UNREGISTERED): (NONE, None),
    (NONE, ABOVE): (NONE, None),
    (NONE, BELOW): (NONE, None),
    (NONE, ENDED): (CLOSED, None),
    (FLOWING, UNREGISTERED): (NONE, None),
    (FLOWING, ABOVE): (PAUSED, PAUSE),
    (FLOWING, BELOW): (FLOWING, None),
    (FLOWING, ENDED): (CLOSED, STOP),
    (PAUSED, UNREGISTERED): (NONE, None),
    (PAUSED, ABOVE): (PAUSED, None),
    (PAUSED, BELOW): (FLOWING, RESUME),
    (PAUSED, ENDED): (CLOSED, STOP),
    (PULL, UNREGISTERED): (NONE, None),
    (PULL, ABOVE): (PULL, None),
    (PULL, BELOW): (PULL, RESUME),
    (PULL, ENDED): (CLOSED, STOP),
    (CLOSED, PUSH_REGISTERED): (CLOSED, STOP),
    (CLOSED, PULL_REGISTERED): (CLOSED, STOP),
    (CLOSED, UNREGISTERED): (CLOSED, None),
    (CLOSED, ENDED): (CLOSED, None),
}


def checked_marks(high: Any, low: Any = None) -> tuple[int, int]:
    """Return (high, low), in bytes. Without `low`, the low mark is `high // 4`.

    Raises ValueError, with a message that names both, unless 0 <= low < high."""
    if low is None and isinstance(high, int):
        low = high // 4
    if isinstance(high, int) and isinstance(low, int) and 0 <= low < high:
        return high, low
    raise ValueError(
        f"high={high!r} and low={low!r} are not valid: marks are bytes, with 0 <= low < high"
    )


class FlowControl:
    """The producer of one consumer, and its state."""

    __slots__ = ("high", "low", "producer", "state", "streaming")

    def __init__(self, high: int = HIGH, low: int = LOW) -> None:
        self.high = high
        self.low = low
        self.producer: Producer | None = None
        self.streaming = False
        self.state = NONE

    def register(self, producer: Producer, streaming: bool) -> ProducerCall:
        """Take a producer, push if `streaming`, else pull. Return the call to make, as fire() does.

        Raises RuntimeError if another producer is registered. That one goes on undisturbed."""
        if self.producer is not None:
            raise RuntimeError(
                f"cannot register {safe_repr(producer)}: "
                f"{safe_repr(self.producer)} is still registered; "
                "call unregisterProducer() first"
            )
        self.producer = producer
        self.streaming = bool(streaming)
        return self.fire(PUSH_REGISTERED if streaming else PULL_REGISTERED)

    def fire(self, event: str) -> ProducerCall:
        """Change the state as the table says. Return the call that the caller has to make now.

        Raises KeyError if the table has no such row."""
        self.state, name = TRANSITIONS[self.state, event]
        producer = self.producer
        if producer is None:
            return None
        if self.state is NONE or self.state is CLOSED:
            self.producer = None
            self.streaming = False
        return (producer, name) if name is not None else None


def call(producer: Producer, name: str) -> None:
    """Call the method `name` of the producer.

    The method is looked up here, because the caller calls this function inside its guard. A
    producer that lacks the method then fails like one whose method raises an exception."""
    getattr(producer, name)()
