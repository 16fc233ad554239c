"""Protocols that split a stream of bytes into lines or strings, and a producer that sends a file.

May import the kit, no transport. Read first: `receiver`, which all receivers share.

All receivers give the same three guarantees.

Linear cost. Each input byte is searched and copied a fixed number of times, however the stream is
cut: one line in a thousand reads, or a thousand lines in one read. LineReceiver documents the cost
of mode changes.

Pausing takes effect immediately. A receiver checks `transport.reading` before each delivery, and
stops while `transport.reading` is false. This attribute is false as soon as the transport is
paused, closed or lost. (If a transport has no such attribute, the receiver checks `disconnecting`.)
A receiver that is a push producer also stops between its own `pauseProducing()` and
`resumeProducing()`. The rest of the input stays buffered, and `has_buffered_input` is true.
`dataReceived(b"")` delivers the buffered input. A transport makes this call after its own
`resumeProducing()`.

No re-entrance. A call of `dataReceived` from inside a delivery only buffers the data. The running
delivery then delivers this data too. If a callback raises an exception, the input after the line or
string of that call stays buffered.
"""

from minireactor.basic.lines import WHOLE_SWITCHES, LineOnlyReceiver, LineReceiver
from minireactor.basic.sender import FileSender
from minireactor.basic.strings import (
    Int8StringReceiver,
    Int16StringReceiver,
    Int32StringReceiver,
    IntNStringReceiver,
    NetstringParseError,
    NetstringReceiver,
    StatefulStringProtocol,
    StringTooLongError,
)

__all__ = [
    "WHOLE_SWITCHES",
    "FileSender",
    "Int8StringReceiver",
    "Int16StringReceiver",
    "Int32StringReceiver",
    "IntNStringReceiver",
    "LineOnlyReceiver",
    "LineReceiver",
    "NetstringParseError",
    "NetstringReceiver",
    "StatefulStringProtocol",
    "StringTooLongError",
]
