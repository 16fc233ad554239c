"""FileSender: a pull producer that sends a file."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Callable

from minireactor.defer import Deferred
from minireactor.error import ConnectionLost
from minireactor.failure import safe_repr

if TYPE_CHECKING:
    from minireactor.interfaces import IConsumer


class FileSender:
    """A pull producer that sends a file, one chunk each time that the consumer asks.

    CHUNK_SIZE: the number of bytes to read at a time.
    lastSent: the last byte sent; b"" before the first one.
    """

    # One loop iteration reads one chunk. A disk may be slow, and all other connections wait for it.
    CHUNK_SIZE = 2**14

    lastSent = b""
    deferred: Deferred[bytes] | None = None
    file: Any = None
    consumer: Any = None
    transform: Callable[[bytes], bytes] | None = None

    def beginFileTransfer(
        self,
        file: Any,
        consumer: IConsumer,
        transform: Callable[[bytes], bytes] | None = None,
    ) -> Deferred[bytes]:
        """Send `file` from its position to its end, and return a Deferred.

        file: an object whose `read(size)` returns bytes. The file is left open.
        transform: a function that is called with each chunk and returns the bytes to send, or None.

        The Deferred fires with the last byte sent when all bytes are written. It fails with an
        exception of `file`, `transform` or `consumer.write`. It fails with BlockingIOError if a
        non-blocking `file` has nothing to read yet, and with ConnectionLost if the consumer stops
        the transfer.

        Raises RuntimeError if this sender is still busy, or if `consumer` has another producer.
        """
        if self.deferred is not None:
            raise RuntimeError(
                f"{safe_repr(self)} is still sending {safe_repr(self.file)}; use another FileSender"
            )
        self.file, self.consumer, self.transform = file, consumer, transform
        self.lastSent = b""
        deferred: Deferred[bytes] = Deferred()
        self.deferred = deferred
        try:
            consumer.registerProducer(self, False)
        except BaseException:
            self._release()
            raise
        return deferred

    def resumeProducing(self) -> None:
        """Write one chunk, or end the transfer at the end of the file."""
        if self.deferred is None:
            return
        try:
            chunk = self._next_chunk()
            if chunk:
                self.consumer.write(chunk)
                self.lastSent = chunk[-1:]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self._end(error)
        else:
            if not chunk:
                self._end()

    def pauseProducing(self) -> None:
        """Do nothing: a pull producer writes only when it is asked."""

    def stopProducing(self) -> None:
        """End the transfer with ConnectionLost: the consumer is lost."""
        error = ConnectionLost(
            f"{safe_repr(self.consumer)} stopped the transfer of {safe_repr(self.file)}"
        )
        deferred = self._release()
        if deferred is not None:
            deferred.errback(error)

    def _next_chunk(self) -> bytes:
        """Return the next chunk to write; an empty one at the end of the file."""
        while True:
            chunk: bytes | None = self.file.read(self.CHUNK_SIZE)
            if chunk is None:
                # This is not the end of the file. The peer must not take this part for the whole.
                raise BlockingIOError(
                    errno.EAGAIN,
                    f"{safe_repr(self.file)} has nothing to read now; wait until it has",
                )
            if not chunk or self.transform is None:
                return chunk
            chunk = self.transform(chunk)
            # The consumer would not ask again if no bytes were written, so read the next chunk.
            if chunk:
                return chunk

    def _end(self, error: BaseException | None = None) -> None:
        consumer = self.consumer
        deferred = self._release()
        if deferred is None:
            return
        consumer.unregisterProducer()
        if error is None:
            deferred.callback(self.lastSent)
        else:
            deferred.errback(error)

    def _release(self) -> Deferred[bytes] | None:
        deferred, self.deferred = self.deferred, None
        self.file = self.consumer = self.transform = None
        return deferred
