"""One TLS session without any socket: bytes of the peer go in, records for the peer come out.

`tls` has the connection that owns the session. This module also has the default context of a
client, and turns the errors of the `ssl` module into sentences that say what the peer did.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Any

from minireactor.core.buffer import Source
from minireactor.error import ConnectionLost

if TYPE_CHECKING:
    from minireactor.core.timers import DelayedCall
    from minireactor.transports.sendfile import FileSource

# Bytes: the most plain bytes that one record has. A read of this size leaves no part of a record
# behind, which OpenSSL could lose when it sends close_notify.
LARGEST_RECORD = 16 * 1024
# Bytes from the peer that may pass without a byte of data: in the handshake, or after it. A chain
# of certificates has some 5 KiB, and OpenSSL takes no message above 100 KiB. A flood of key updates
# or empty records ends here, after some milliseconds of CPU time.
MAX_FRUITLESS = 256 * 1024
MAX_IDLE_RECORDS = 64 * 1024  # bytes; the same after the handshake, where only tickets are large

_HANDSHAKE_RECORD = 0x16
_ALERT_RECORD = 0x15
# The alert "protocol version", fatal. OpenSSL sends none to a peer that speaks plain HTTP.
_NO_TLS_ALERT = bytes([_ALERT_RECORD, 3, 1, 0, 2, 2, 70])
_HTTP = re.compile(rb"(GET|HEAD|POST|PUT|DELETE|OPTIONS|CONNECT|PATCH|TRACE) |HTTP/")

_default_client_context: ssl.SSLContext | None = None


class Session:
    """A TLS session, and what a connection has to remember about it.

    established: whether the handshake is complete.
    close_sent: whether close_notify has been sent, so that no data can follow.
    paused: whether the program has paused the connection during the handshake.
    ready: how many bytes at the front of the write buffer are ready for the wire.
    plain: how many bytes of the application these `ready` bytes stand for.
    file: a file whose last bytes are among the `ready` bytes.
    timer: the time limit of the handshake.

    Raises ValueError if a client's `server_hostname` is missing or no name.
    """

    __slots__ = (
        "_first",
        "_fruitless",
        "close_sent",
        "established",
        "file",
        "incoming",
        "outgoing",
        "paused",
        "plain",
        "ready",
        "ssl",
        "timer",
    )

    def __init__(
        self, context: ssl.SSLContext, server_side: bool, server_hostname: str | None
    ) -> None:
        if not server_side and context.check_hostname and not server_hostname:
            # Without a name, OpenSSL would accept a certificate for any name.
            raise ValueError(
                "no server_hostname for a context that checks it; give the name that the server's "
                "certificate must have"
            )
        # Rule TLS12. The option exists since OpenSSL 1.1.0h; TLS 1.3 has no renegotiation at all.
        context.options |= getattr(ssl, "OP_NO_RENEGOTIATION", 0)
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.ssl = context.wrap_bio(
            self.incoming, self.outgoing, server_side, None if server_side else server_hostname
        )
        self.established = False
        self.close_sent = False
        self.paused = False
        self.ready = 0
        self.plain = 0
        self.file: Source | None = None
        self.timer: DelayedCall | None = None
        self._first = b""  # the peer's first bytes, which show what it speaks
        self._fruitless = 0  # bytes since the last byte of data

    def feed(self, data: bytes) -> None:
        """Take bytes of the peer.

        Raises ConnectionLost if the peer has sent too many of them without any data."""
        if not self.established and len(self._first) < 16:
            self._first = (self._first + data[:16])[:16]
        self._fruitless += len(data)
        if self._fruitless > MAX_IDLE_RECORDS:
            self._check_fruitless(len(data))
        self.incoming.write(data)

    def _check_fruitless(self, count: int) -> None:
        # The bytes that have just come may well contain data.
        before = self._fruitless - count
        if not self.established and self._fruitless > MAX_FRUITLESS:
            raise ConnectionLost(
                f"the peer has sent more than {MAX_FRUITLESS} bytes for the TLS handshake"
            )
        if self.established and before > MAX_IDLE_RECORDS:
            raise ConnectionLost(
                f"the peer has sent {before} bytes of TLS records without any data in them"
            )

    def handshake(self) -> bool:
        """Go on with the handshake; return whether it is complete now.

        Raises ConnectionLost if it fails. The alert for the peer is then in `outgoing`."""
        try:
            self.ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except (ssl.SSLError, ValueError) as error:  # ValueError: of a server name
            raise self._explained(error) from error
        self.established = True
        self._fruitless = 0
        return True

    def read(self) -> bytes | None:
        """Return the data of one record; b"" at the peer's close_notify, None if there is none.

        Raises ConnectionLost if the peer breaks the protocol."""
        if not self.incoming.pending:
            return None
        try:
            data = self.ssl.read(LARGEST_RECORD)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as error:
            raise self._explained(error) from error
        self._fruitless = self.incoming.pending
        return data

    def write(self, data: Any) -> int:
        """Encrypt `data`, and return its length.

        Raises ConnectionLost if the session is broken."""
        try:
            return self.ssl.write(data)
        except ssl.SSLError as error:
            raise self._explained(error) from error

    def send_close(self) -> None:
        """Put close_notify into `outgoing`. Reading goes on."""
        self.close_sent = True
        # unwrap() also looks for the peer's close_notify, and fails if it finds data.
        unread = self.incoming.read()
        try:
            self.ssl.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # the peer has not sent its own close_notify, or the session is broken
        self.incoming.write(unread)

    def release_file(self, is_sent: bool) -> None:
        """Close `file`, now that its last bytes are sent, or lost."""
        file, self.file = self.file, None
        if file is not None:
            file.left = 0 if is_sent else 1
            file.close()

    def _explained(self, error: Exception) -> ConnectionLost:
        """Return the reason of the connection's end; make sure that the peer gets an alert."""
        if not self.established and self._first and not self._is_tls():
            if not self.outgoing.pending:
                self.outgoing.write(_NO_TLS_ALERT)
            if _HTTP.match(self._first):
                return ConnectionLost("the peer speaks plain HTTP, not TLS")
            return ConnectionLost(
                f"the peer does not speak TLS: its first bytes are {bytes(self._first)!r}"
            )
        return ConnectionLost(_sentence(error))

    def _is_tls(self) -> bool:
        first = self._first
        return first[0] in (_HANDSHAKE_RECORD, _ALERT_RECORD) and first[1:2] in (b"\x03", b"")


class EncryptedFile(Source):
    """A file whose bytes are read, so that they can be encrypted."""

    __slots__ = ("_file", "_session")

    def __init__(self, session: Session, file: FileSource) -> None:
        super().__init__(file.left)
        self._session = session
        self._file = file

    def read(self, limit: int) -> bytes:
        """Return the next bytes. Raises ConnectionAborted if the file has fewer than it said."""
        data = self._file.read(min(limit, self.left))
        self._file.left -= len(data)
        return data

    def close(self) -> None:
        if self.left:
            self._file.left = self.left
            self._file.close()
        else:
            self._session.file = self._file  # its last bytes are encrypted, but not sent


def _sentence(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {error.verify_message}"
    reason = str(getattr(error, "reason", None) or "")
    alert = re.match(r"(?:SSLV3|TLSV1|TLSV13|TLS)_ALERT_(.+)", reason)
    if alert:
        return f"the peer has sent the TLS alert {_words(alert[1])!r}"
    if "BAD_RECORD_MAC" in reason or "DECRYPTION_FAILED" in reason:
        return "the peer has sent a TLS record that was damaged or is not genuine"
    if "LENGTH_TOO_LONG" in reason or "PACKET_LENGTH" in reason:
        return "the peer has sent a TLS record above the largest size"
    what = _words(reason) or re.sub(r" \(_ssl\.c:[0-9]+\)", "", str(error))
    return f"TLS with the peer has failed: {what}"


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")


def client_context(context: Any = None) -> ssl.SSLContext:
    """Return the context for a client: `context` or, without one, a context that verifies.

    That one trusts the system's authorities, and is made once. Raises TypeError if `context` is
    not an ssl.SSLContext, and ValueError if `context` is for a server."""
    global _default_client_context
    if context is None:
        if _default_client_context is None:
            _default_client_context = ssl.create_default_context()
        return _default_client_context
    if checked_context(context).protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(f"{context!r} is for a server; make one with PROTOCOL_TLS_CLIENT")
    return checked_context(context)


def server_context(context: Any) -> ssl.SSLContext:
    """Return the context for a server, which is `context`.

    Raises TypeError if `context` is not an ssl.SSLContext, and ValueError if `context` is for a
    client."""
    if checked_context(context).protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(f"{context!r} is for a client; make one with PROTOCOL_TLS_SERVER")
    return checked_context(context)


def checked_context(context: Any) -> ssl.SSLContext:
    """Return `context`. Raises TypeError if it is not an ssl.SSLContext."""
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(
            f"TLS takes an ssl.SSLContext, not {context!r}; make one with "
            "ssl.create_default_context(), and call load_cert_chain() for a server"
        )
    return context


def is_server_side(context: ssl.SSLContext, otherwise: bool) -> bool:
    """Return whether `context` is for a server, and `otherwise` if it is for both sides.

    Up to Python 3.9, ssl.create_default_context() makes contexts for both sides."""
    if context.protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        return context.protocol == ssl.PROTOCOL_TLS_SERVER
    return otherwise
