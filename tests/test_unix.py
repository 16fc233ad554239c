"""UNIX sockets: paths and their files, descriptors that are passed, and real programs as peers."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys

import pytest
from support import (
    PATIENCE,
    HalfCloseable,
    OneFactory,
    Recorder,
    RecordingClientFactory,
    drain,
    iterations,
    killed,
    open_descriptors,
    pump,
)

from minireactor import Reactor
from minireactor.address import UNIXAddress, format_address, unix_path
from minireactor.error import (
    BadFileError,
    CannotListenError,
    ConnectError,
    ConnectionDone,
    ConnectionRefusedError,
    FileDescriptorOverrun,
    TimeoutError,
)

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no UNIX sockets here")
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has abstract names")


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # temporary folders may have longer names than a socket allows
    return "x.sock"


def plain(path, closing):
    """Return a plain socket that is connected to a path."""
    client = closing(socket.socket(socket.AF_UNIX))
    client.settimeout(PATIENCE)
    client.connect(path)
    return client


def joined(reactor, path, protocol, closing):
    """Return a plain socket, connected to a port of `protocol`, which has been made."""
    port = reactor.listenUNIX(path, OneFactory(protocol))
    client = plain(path, closing)
    pump(reactor, lambda: protocol.transport is not None)
    port.stopListening()
    return client


def cannot_listen(reactor, path, **more):
    """Return the error of listenUNIX(), which opens no descriptor for good."""
    reactor.open()
    before = open_descriptors()
    factory = OneFactory()
    with pytest.raises(CannotListenError) as caught:
        reactor.listenUNIX(path, factory, **more)
    assert open_descriptors() == before
    assert factory.numPorts == 0
    return caught.value


def connect_error(reactor, path, **more):
    factory = RecordingClientFactory()
    reactor.connectUNIX(path, factory, **more)
    pump(reactor, lambda: factory.reason is not None)
    assert factory.calls == ["startFactory", "started", "failed", "stopFactory"]
    return factory.reason.value


# Addresses.


def test_both_ends_know_their_addresses(reactor, path):
    server = Recorder()
    port = reactor.listenUNIX(path, OneFactory(server))
    factory = RecordingClientFactory()
    connector = reactor.connectUNIX(path, factory)
    pump(reactor, lambda: server.transport is not None and factory.connection is not None)
    pump(reactor, lambda: factory.connection.transport is not None)
    client = factory.connection.transport
    assert port.getHost() == server.transport.getHost() == client.getPeer() == UNIXAddress(path)
    assert server.transport.getPeer() == client.getHost() == UNIXAddress(None)
    assert connector.getDestination() == UNIXAddress(path)
    assert repr(port) == "<Port unix:x.sock of OneFactory>"
    assert repr(connector) == "<Connector to unix:x.sock, connected>"
    assert repr(client) == "<Recorder with unix:x.sock, open>"


@pytest.mark.parametrize(
    "name, shown, written",
    [
        ("/run/x", "UNIXAddress('/run/x')", "unix:/run/x"),
        (b"/run/x", "UNIXAddress('/run/x')", "unix:/run/x"),
        ("\0x", "UNIXAddress('\\x00x')", "unix:@x"),
        ("", "UNIXAddress(None)", "unix:"),
    ],
)
def test_an_address_is_shown_and_written(name, shown, written):
    assert repr(UNIXAddress(name)) == shown
    assert format_address(UNIXAddress(name)) == written
    assert UNIXAddress(name) == UNIXAddress(UNIXAddress(name).name)
    assert (unix_path(written) or "").encode() == (UNIXAddress(name).name or b"")


@linux
def test_an_abstract_name_has_no_file(reactor, path, closing):
    name = f"\0minireactor-{os.getpid()}"
    protocol = Recorder()
    client = joined(reactor, name, protocol, closing)
    client.sendall(b"x")
    pump(reactor, lambda: protocol.received == b"x")
    assert os.listdir() == []
    assert protocol.transport.getHost() == UNIXAddress(name)


# The file.


@pytest.mark.parametrize("mode", [0o666, 0o600])
def test_the_file_has_the_mode_whatever_the_umask(reactor, path, mode):
    before = os.umask(0o077)
    try:
        reactor.listenUNIX(path, OneFactory(), mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == mode


def test_the_file_goes_when_the_port_stops_and_comes_back_when_it_starts(reactor, path, closing):
    port = reactor.listenUNIX(path, OneFactory())
    for _ in range(2):
        port.stopListening()
        assert not os.path.exists(path)
        port.startListening()
        plain(path, closing)


def test_the_file_goes_when_the_reactor_closes(path):
    reactor = Reactor()
    reactor.listenUNIX(path, OneFactory())
    reactor.close()
    assert not os.path.exists(path)


def test_a_stale_file_is_replaced(reactor, path, closing):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    reactor.listenUNIX(path, OneFactory())
    plain(path, closing)


def test_a_live_socket_is_in_use_and_stays(reactor, path, closing):
    live = closing(socket.socket(socket.AF_UNIX))
    live.bind(path)
    live.listen()
    error = cannot_listen(reactor, path)
    assert error.socketError.errno == errno.EADDRINUSE
    assert str(error).startswith("Cannot listen on unix:x.sock: ")
    plain(path, closing)


def test_a_live_socket_with_a_full_queue_is_in_use(reactor, path, closing):
    live = closing(socket.socket(socket.AF_UNIX))
    live.bind(path)
    live.listen(0)
    plain(path, closing)  # fills the queue
    assert cannot_listen(reactor, path).socketError.errno == errno.EADDRINUSE


def test_a_second_port_is_in_use_and_leaves_the_first(reactor, path, closing):
    reactor.listenUNIX(path, OneFactory())
    cannot_listen(reactor, path)
    plain(path, closing)


def test_a_folder_is_locked_while_a_port_binds_in_it(reactor, path, closing, monkeypatch):
    import fcntl

    from minireactor.transports import unix

    def is_locked():
        fd = os.open(".", os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    real, states = unix._remove_stale, []

    def looking(path):
        states.append(is_locked())
        real(path)

    monkeypatch.setattr(unix, "_remove_stale", looking)
    reactor.listenUNIX(path, OneFactory())
    assert (states, is_locked()) == ([True], False)


def test_a_file_that_is_no_socket_stays(reactor, path):
    with open(path, "w") as file:
        file.write("precious")
    assert "not a socket" in str(cannot_listen(reactor, path))
    with open(path) as file:
        assert file.read() == "precious"


def test_the_file_of_another_process_stays(reactor, path, closing):
    port = reactor.listenUNIX(path, OneFactory())
    os.unlink(path)
    other = closing(socket.socket(socket.AF_UNIX))
    other.bind(path)
    other.listen()
    port.stopListening()
    plain(path, closing)


def test_a_forked_child_leaves_the_file(reactor, path):
    port = reactor.listenUNIX(path, OneFactory())
    child = os.fork()
    if child == 0:
        try:
            port.about_to_close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.path.exists(path)


@pytest.mark.parametrize(
    "wrong, named",
    [
        ("x" * 200, "the path has 200 bytes"),
        ("missing/x.sock", os.strerror(errno.ENOENT)),
        ("", "is not a path"),
        ("a\0b", "is not a path"),
    ],
)
def test_a_path_that_cannot_be_is_one_clear_error(reactor, path, wrong, named):
    assert named in str(cannot_listen(reactor, wrong))
    assert named in str(connect_error(reactor, wrong))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do anything")
def test_a_folder_without_permission_is_one_clear_error(reactor, path):
    os.mkdir("closed", 0o500)
    assert os.strerror(errno.EACCES) in str(cannot_listen(reactor, "closed/x.sock"))


@pytest.mark.parametrize("wrong", [80, None, ["x"]])
def test_a_path_of_another_type_is_a_TypeError(reactor, wrong):
    with pytest.raises(TypeError, match="path as str or bytes"):
        reactor.listenUNIX(wrong, OneFactory())


def test_a_factory_that_fails_to_start_leaves_no_file(reactor, path):
    class Broken(OneFactory):
        def startFactory(self):
            raise LookupError

    with pytest.raises(LookupError):
        reactor.listenUNIX(path, Broken())
    assert os.listdir() == []


# Connecting.


def test_a_stale_file_refuses(reactor, path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    error = connect_error(reactor, path)
    assert isinstance(error, ConnectionRefusedError) and error.osError == errno.ECONNREFUSED


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy makes a queue of one more")
def test_an_attempt_waits_until_the_queue_of_the_listener_has_room(reactor, path, closing):
    server = closing(socket.socket(socket.AF_UNIX))
    server.bind(path)
    server.listen(0)
    plain(path, closing)  # fills the queue
    factory = RecordingClientFactory()
    reactor.connectUNIX(path, factory)
    iterations(reactor)
    assert factory.calls == ["startFactory", "started"]
    closing(server.accept()[0])
    pump(reactor, lambda: factory.connection is not None)


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy makes a queue of one more")
def test_the_timeout_ends_an_attempt_that_waits(reactor, path, closing):
    server = closing(socket.socket(socket.AF_UNIX))
    server.bind(path)
    server.listen(0)
    plain(path, closing)
    assert isinstance(connect_error(reactor, path, timeout=0.01), TimeoutError)
    assert not reactor.attempts


def test_a_connector_connects_again_after_the_loss(reactor, path):
    class Again(RecordingClientFactory):
        def clientConnectionLost(self, connector, reason):
            super().clientConnectionLost(connector, reason)
            if self.calls.count("lost") == 1:
                connector.connect()

    server = OneFactory()
    reactor.listenUNIX(path, server)
    factory = Again()
    reactor.connectUNIX(path, factory)
    pump(reactor, lambda: server.built and server.built[0].transport is not None)
    server.built[0].transport.loseConnection()
    pump(reactor, lambda: len(server.built) == 2)
    assert factory.calls.count("build") == 2


# The lock.


def test_the_lock_names_this_process_and_goes_with_the_port(reactor, path):
    port = reactor.listenUNIX(path, OneFactory(), wantPID=True)
    assert os.readlink(f"{path}.lock") == str(os.getpid())
    factory = RecordingClientFactory()
    reactor.connectUNIX(path, factory, checkPID=True)
    pump(reactor, lambda: factory.connection is not None)
    port.stopListening()
    assert os.listdir() == []


def test_the_lock_of_a_live_process_is_in_use(reactor, path):
    os.symlink(str(os.getppid()), f"{path}.lock")
    assert f"process {os.getppid()} has the lock" in str(cannot_listen(reactor, path, wantPID=True))


def test_the_lock_of_a_dead_process_is_replaced(reactor, path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    os.symlink(str(dead.pid), f"{path}.lock")
    assert isinstance(connect_error(reactor, path, checkPID=True), BadFileError)
    reactor.listenUNIX(path, OneFactory(), wantPID=True)
    assert os.readlink(f"{path}.lock") == str(os.getpid())


# Descriptors that are passed.


class Taker(Recorder):
    """Takes descriptors. `on_descriptor(self)` is called for each."""

    def __init__(self, on_descriptor=None):
        super().__init__()
        self.fds = []
        self.on_descriptor = on_descriptor

    def fileDescriptorReceived(self, fd):
        self.calls.append("fd")
        self.fds.append(fd)
        if self.on_descriptor is not None:
            self.on_descriptor(self)

    def close(self):
        while self.fds:
            os.close(self.fds.pop())


def marked(closing, text=b"marked"):
    """Return the descriptor of a pipe's reading end, with this text in the pipe."""
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    closing(os.fdopen(reading, "rb", buffering=0))
    return reading


def send_rights(client, data, fds):
    socket.send_fds(client, [data], fds)


def test_a_descriptor_arrives_before_its_byte_and_is_ours(reactor, path, closing):
    taker = closing(Taker())
    client = joined(reactor, path, taker, closing)
    send_rights(client, b"one", [marked(closing, b"1"), marked(closing, b"2")])
    pump(reactor, lambda: taker.received == b"one")
    assert taker.calls == ["made", "fd", "fd", "data"]
    assert [os.read(fd, 10) for fd in taker.fds] == [b"1", b"2"]
    assert not any(os.get_inheritable(fd) for fd in taker.fds)


def test_descriptors_travel_from_transport_to_transport_in_order(reactor, path, closing):
    taker = closing(Taker())
    reactor.listenUNIX(path, OneFactory(taker))
    sender = Recorder()
    reactor.connectUNIX(path, RecordingClientFactory(sender))
    pump(reactor, lambda: sender.transport is not None)
    for number in range(5):
        sender.transport.sendFileDescriptor(marked(closing, b"%d" % number))
    sender.transport.write(b"x" * 1000)
    sender.transport.writeSequence([b"y" * 20_000, b"z" * 20_000])
    pump(reactor, lambda: len(taker.received) == 41_000)
    assert [os.read(fd, 10) for fd in taker.fds] == [b"0", b"1", b"2", b"3", b"4"]
    assert taker.received == b"x" * 1000 + b"y" * 20_000 + b"z" * 20_000


def test_the_sender_may_close_its_descriptor_at_once(reactor, path, closing):
    protocol = Recorder()
    client = joined(reactor, path, protocol, closing)
    before = open_descriptors()
    with os.fdopen(marked(closing), "rb", buffering=0, closefd=False) as file:
        protocol.transport.sendFileDescriptor(file.fileno())
    protocol.transport.write(b"!")
    iterations(reactor)
    data, fds, _, _ = socket.recv_fds(client, 10, 10)
    assert (data, os.read(fds[0], 10)) == (b"!", b"marked")
    os.close(fds[0])
    assert len(open_descriptors()) == len(before) + 1  # the pipe of this test


def test_descriptors_that_nobody_takes_are_closed(reactor, path, closing):
    protocol = Recorder()
    client = joined(reactor, path, protocol, closing)
    mine = marked(closing)
    before = open_descriptors()
    for _ in range(10):
        send_rights(client, b"x", [mine, mine, mine])
    pump(reactor, lambda: len(protocol.received) == 10)
    assert open_descriptors() == before


def test_R1_a_pause_at_a_descriptor_holds_its_bytes_and_the_next_descriptors(
    reactor, path, closing
):
    taker = closing(Taker(lambda self: self.transport.pauseProducing()))
    client = joined(reactor, path, taker, closing)
    mine = marked(closing)
    send_rights(client, b"one", [mine, mine])
    pump(reactor, lambda: taker.fds)
    client.sendall(b"two")
    iterations(reactor)
    assert taker.calls == ["made", "fd"]
    taker.transport.resumeProducing()
    iterations(reactor)
    assert taker.calls == ["made", "fd", "fd"]
    taker.transport.resumeProducing()
    pump(reactor, lambda: taker.received == b"onetwo")


def test_R3_a_close_at_a_descriptor_closes_the_others(reactor, path, closing):
    taker = Taker(lambda self: self.transport.loseConnection())
    client = joined(reactor, path, taker, closing)
    mine = marked(closing)
    before = open_descriptors()
    send_rights(client, b"one", [mine, mine, mine])
    pump(reactor, lambda: taker.reason is not None)
    assert taker.calls == ["made", "fd", "lost"]
    assert len(open_descriptors() - before) <= 1
    taker.close()


def test_R3_descriptors_that_come_while_a_close_waits_are_closed(reactor, path, closing):
    taker = Taker()
    client = joined(reactor, path, taker, closing)
    mine = marked(closing)
    before = open_descriptors()
    taker.transport.write(bytes(2_000_000))  # more than all buffers take
    taker.transport.loseConnection()
    iterations(reactor)
    for _ in range(10):
        send_rights(client, b"late", [mine, mine])
        iterations(reactor)
    assert taker.transport.state == "closing"
    assert taker.calls == ["made"]
    assert open_descriptors() == before
    client.close()
    pump(reactor, lambda: taker.reason is not None)
    assert taker.calls == ["made", "lost"]


@pytest.mark.parametrize("error", [LookupError, OSError, BlockingIOError])
def test_B3_an_exception_at_a_descriptor_ends_the_connection(reactor, path, closing, caplog, error):
    def fail(self):
        raise error("on purpose")

    taker = closing(Taker(fail))
    client = joined(reactor, path, taker, closing)
    send_rights(client, b"one", [marked(closing)])
    pump(reactor, lambda: taker.reason is not None)
    assert taker.reason.check(error)
    assert taker.calls == ["made", "fd", "lost"]
    assert caplog.text.count("Traceback") == 1


def test_queued_descriptors_are_bounded_and_closed_at_the_end(reactor, path, closing):
    protocol = Recorder()
    joined(reactor, path, protocol, closing)
    mine = marked(closing)
    before = open_descriptors()
    with pytest.raises(RuntimeError, match="write a byte for each"):
        for _ in range(100):
            protocol.transport.sendFileDescriptor(mine)
    protocol.transport.abortConnection()
    pump(reactor, lambda: protocol.reason is not None)
    assert open_descriptors() < before


def test_descriptors_without_bytes_make_the_end_an_error(reactor, path, closing):
    protocol = Recorder()
    joined(reactor, path, protocol, closing)
    protocol.transport.sendFileDescriptor(marked(closing))
    protocol.transport.loseConnection()
    pump(reactor, lambda: protocol.reason is not None)
    assert protocol.reason.check(FileDescriptorOverrun)


def test_a_descriptor_that_is_not_open_is_an_OSError(reactor, path, closing):
    protocol = Recorder()
    joined(reactor, path, protocol, closing)
    with pytest.raises(OSError):
        protocol.transport.sendFileDescriptor(-1)


def test_received_descriptors_without_room_end_the_connection_and_leak_nothing(
    reactor, path, closing
):
    import resource

    taker = closing(Taker())
    client = joined(reactor, path, taker, closing)
    mine = marked(closing)
    before = open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    send_rights(client, b"one", [mine] * 100)
    free = [number for number in range(1000) if number not in before]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[20], hard))
    try:
        pump(reactor, lambda: taker.reason is not None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "descriptor" in taker.reason.getErrorMessage()
    assert not taker.fds and open_descriptors() <= before


# Files.


def test_sendFile_sends_a_file(reactor, path, closing, tmp_path):
    (tmp_path / "file").write_bytes(b"f" * 3_000_000)
    protocol = Recorder()
    client = joined(reactor, path, protocol, closing)
    with open("file", "rb") as file:
        protocol.transport.write(b"before")
        protocol.transport.sendFile(file)
        protocol.transport.loseConnection()
        assert drain(reactor, client) == b"before" + b"f" * 3_000_000


def test_C1_a_megabyte_arrives_fifty_times_out_of_fifty_despite_unread_input(
    reactor, path, closing
):
    class Deaf(Recorder):
        def connectionMade(self):
            self.transport.pauseProducing()
            self.transport.write(b"d" * 1_000_000)
            self.transport.loseConnection()

    reactor.listenUNIX(path, OneFactory(*[Deaf() for _ in range(50)]))
    for _ in range(50):
        client = plain(path, closing)
        client.sendall(b"unread" * 5000)
        assert len(drain(reactor, client)) == 1_000_000


# Adopted sockets.


def adopted_families(closing):
    yield socket.AF_INET, closing(socket.create_server(("127.0.0.1", 0)))
    own = closing(socket.socket(socket.AF_UNIX))
    own.bind("adopted.sock")
    own.listen()
    yield socket.AF_UNIX, own


def test_a_listening_socket_is_adopted_and_its_owner_keeps_it(reactor, path, closing):
    for family, own in adopted_families(closing):
        protocol = Recorder()
        port = reactor.adoptStreamPort(own.fileno(), family, OneFactory(protocol))
        client = closing(socket.socket(family))
        client.connect(own.getsockname())
        client.sendall(b"hello")
        pump(reactor, lambda protocol=protocol: protocol.received == b"hello")
        port.stopListening()
        again = closing(socket.socket(family))
        again.connect(own.getsockname())  # the owner still listens
        closing(own.accept()[0])
    assert os.path.exists("adopted.sock")


def test_T4_a_process_that_has_forked_does_not_shut_an_adopted_port_down(
    reactor, path, closing, monkeypatch
):
    from minireactor.core import waker

    monkeypatch.setattr(waker, "_forked", True)
    for family, own in adopted_families(closing):
        port = reactor.adoptStreamPort(own.fileno(), family, OneFactory())
        port.stopListening()
        client = closing(socket.socket(family))
        client.connect(own.getsockname())


def test_a_connected_socket_is_adopted(reactor, closing):
    ours, theirs = socket.socketpair()
    closing(theirs)
    protocol = HalfCloseable()
    transport = reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, OneFactory(protocol))
    ours.close()
    assert transport is protocol.transport
    theirs.sendall(b"in")
    pump(reactor, lambda: protocol.received == b"in")
    transport.write(b"out")
    transport.loseConnection()
    assert drain(reactor, theirs) == b"out"


@pytest.mark.parametrize("method", ["adoptStreamPort", "adoptStreamConnection"])
def test_a_wrong_descriptor_or_family_is_one_clear_error(reactor, closing, path, method):
    from minireactor.error import UnsupportedAddressFamily, UnsupportedSocketType

    adopt = getattr(reactor, method)
    reactor.open()
    server = closing(socket.create_server(("127.0.0.1", 0)))
    unconnected = closing(socket.socket())
    datagram = closing(socket.socket(type=socket.SOCK_DGRAM))
    pipe = marked(closing)
    before = open_descriptors()
    wrong_state = unconnected if method == "adoptStreamPort" else server
    for fd, family, error, named in (
        (server.fileno(), socket.AF_UNIX, UnsupportedAddressFamily, "AF_INET, not of AF_UNIX"),
        (server.fileno(), 12345, UnsupportedAddressFamily, "12345"),
        (datagram.fileno(), socket.AF_INET, UnsupportedSocketType, "not a stream socket"),
        (pipe, socket.AF_INET, UnsupportedSocketType, "is not a socket"),
        (-1, socket.AF_INET, UnsupportedSocketType, "is not a socket"),
        (wrong_state.fileno(), socket.AF_INET, UnsupportedSocketType, "call adoptStream"),
    ):
        with pytest.raises(error, match=named):
            adopt(fd, family, OneFactory())
    assert open_descriptors() == before


# Real programs.


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["socat", "-t5", "-", "UNIX-CONNECT:x.sock"], marks=needs("socat")),
        pytest.param(["nc", "-N", "-U", "x.sock"], marks=needs("nc")),
    ],
    ids=["socat", "nc"],
)
def test_a_real_client_gets_everything_after_its_half_close(reactor, path, command):
    class Reply(HalfCloseable):
        def readConnectionLost(self):
            self.transport.write(bytes(self.received) * 2)
            self.transport.loseConnection()

    reactor.listenUNIX(path, OneFactory(Reply()))
    with killed(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as client:
        reactor.callInThread(finish, client, b"d" * 500_000, done := [])
        pump(reactor, lambda: done)
    assert done == [b"d" * 1_000_000]


def finish(client, data, done):
    done.append(client.communicate(data, timeout=PATIENCE)[0])


@needs("socat")
def test_a_real_server_is_reached(reactor, path):
    class Patient(RecordingClientFactory):
        def clientConnectionFailed(self, connector, reason):
            connector.connect()  # the program has not called listen() yet

    with killed(subprocess.Popen(["socat", "UNIX-LISTEN:x.sock", "EXEC:cat"])) as server:
        factory = Patient(HalfCloseable())
        reactor.connectUNIX(path, factory)
        pump(reactor, lambda: factory.connection is not None)
        pump(reactor, lambda: factory.connection.transport is not None)
        factory.connection.transport.write(b"there and back")
        factory.connection.transport.loseWriteConnection()
        pump(reactor, lambda: factory.reason is not None)
        server.wait(PATIENCE)
    assert factory.connection.received == b"there and back"
    assert factory.reason.check(ConnectionDone)


@needs("curl")
def test_curl_gets_a_page(reactor, path):
    class Page(Recorder):
        def dataReceived(self, data):
            super().dataReceived(data)
            if self.received.endswith(b"\r\n\r\n"):
                self.transport.write(b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\npage")
                self.transport.loseConnection()

    reactor.listenUNIX(path, OneFactory(Page()))
    command = ["curl", "-sS", "--unix-socket", path, "http://localhost/"]
    with killed(subprocess.Popen(command, stdout=subprocess.PIPE)) as client:
        reactor.callInThread(finish, client, None, done := [])
        pump(reactor, lambda: done)
    assert done == [b"page"]


def test_connect_errors_are_ConnectErrors(reactor, path):
    assert isinstance(connect_error(reactor, path), ConnectError)
