"""Find the fault: a pause stops the plain transport, and the protocol gets data all the same."""

import contextlib
import ssl
import sys

from minireactor.protocol import Protocol


class TLS(Protocol):
    """Speaks TLS on a plain transport, and is the transport of another protocol."""

    def __init__(self, context, protocol):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.protocol = protocol
        self.paused = False

    def dataReceived(self, data):
        self.incoming.write(data)
        self.deliver()

    def deliver(self):
        """Decrypt what has come, and deliver it: at most one record at a time."""
        with contextlib.suppress(ssl.SSLWantReadError):
            while data := self.tls.read(16384):
                self.protocol.dataReceived(data)
        self.transport.write(self.outgoing.read())  # what the handshake has to say

    def pauseProducing(self):
        self.paused = True
        self.transport.pauseProducing()

    def resumeProducing(self):
        self.paused = False
        self.transport.resumeProducing()


# ---- The check: the fault is above this line ----

CHUNKS, RECORDS, SIZE = 20, 16, 4000


class Transport:
    """What the kernel holds for a connection comes in large chunks, unless it is paused."""

    paused = False

    def write(self, data):
        to_client.write(data)

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False


class Slow:
    """Can work on one piece at a time: it pauses, and some time later it resumes."""

    busy = False

    def dataReceived(self, data):
        if self.busy:
            sys.exit(f"fault: {len(data):,} bytes were delivered to a protocol that has paused")
        received.append(data)
        self.busy = True
        layer.pauseProducing()

    def finish(self):
        self.busy = False
        layer.resumeProducing()


servers, clients = map(ssl.SSLContext, (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
for context in (servers, clients):
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
to_client, to_server, received = ssl.MemoryBIO(), ssl.MemoryBIO(), []
client = clients.wrap_bio(to_client, to_server)
slow = Slow()
layer = TLS(servers, slow)
layer.transport = layer.protocol.transport = Transport()
for _ in range(3):  # the handshake
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    layer.dataReceived(to_server.read())
chunks, sent = [], b""
for _ in range(CHUNKS):
    for _ in range(RECORDS):
        record = b"%0*d" % (SIZE, len(sent))
        client.write(record)
        sent += record
    chunks.append(to_server.read())
for _ in range(2 * CHUNKS * RECORDS):
    if chunks and not layer.transport.paused:
        layer.dataReceived(chunks.pop(0))
    if slow.busy:
        if not layer.transport.paused:
            sys.exit("fault: the protocol has paused, and the transport goes on reading")
        slow.finish()
came = b"".join(received)
if len(came) < len(sent):
    sys.exit(f"fault: {len(came):,} bytes of {len(sent):,} were delivered, and then no more")
if came != sent:
    sys.exit("fault: all bytes were delivered, but not in their order")
print(f"right: {len(received)} records were delivered, each after the one before was done")
