"""The interfaces: programs can name, inherit and query them; our classes keep them."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pytest

from minireactor import basic, endpoints, interfaces
from minireactor.address import IPv4Address, IPv6Address, UNIXAddress
from minireactor.core.timers import DelayedCall
from minireactor.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPullProducer,
    IPushProducer,
    ITCPTransport,
    ITransport,
    implementer,
    provider,
)
from minireactor.internet import Reactor
from minireactor.protocol import Factory
from minireactor.protocol import Protocol as RealProtocol
from minireactor.testing import (
    Clock,
    StrictPullProducer,
    StrictPushProducer,
    StringTransport,
    connected,
)
from minireactor.transports.connection import Connection
from minireactor.transports.connector import Connector
from minireactor.transports.port import Port
from minireactor.transports.tcp import TCPConnection
from minireactor.transports.unix import UNIXConnection

# fmt: off
NAMES = [
    "IProducer", "IPushProducer", "IPullProducer", "IConsumer", "ITransport", "ITCPTransport",
    "IProtocol", "IHalfCloseableProtocol", "IProtocolFactory", "IListeningPort", "IConnector",
    "IAddress", "IDelayedCall", "ILoggingContext", "IFileDescriptor", "IReadDescriptor",
    "IWriteDescriptor", "IReadWriteDescriptor", "IHalfCloseableDescriptor", "IReactorCore",
    "IReactorTime", "IReactorTCP", "IReactorFDSet", "IReactorThreads", "IReactorFromThreads",
    "IReactorInThreads", "IReactorSSL", "ITLSTransport", "ISSLTransport", "IHandshakeListener",
    "IUNIXTransport", "IFileDescriptorReceiver", "IReactorUNIX",
    "IReactorSocket", "IStreamServerEndpoint", "IStreamClientEndpoint",
]
# fmt: on

RULES = {
    *("M1", "M2", "M3", "P1", "P2", "P3", "P4", "U1", "U2", "E1", "E2", "E3", "E4", "E5", "E6"),
    *("E7", "E8", "C1", "C2", "R1", "R2", "R3", "R4", "B1", "B2", "B3", "B4"),
}

ROLES = [
    ("ITransport", Connection),
    ("ITLSTransport", TCPConnection),
    ("IReactorSSL", Reactor),
    ("IConsumer", Connection),
    ("IPushProducer", Connection),
    ("ITCPTransport", TCPConnection),
    ("ILoggingContext", Connection),
    ("IReadWriteDescriptor", Connection),
    ("ITCPTransport", StringTransport),
    ("IProtocol", RealProtocol),
    ("IProtocol", basic.LineReceiver),
    ("IPushProducer", basic.LineReceiver),
    ("IPushProducer", basic.Int32StringReceiver),
    ("IPullProducer", basic.FileSender),
    ("IPushProducer", StrictPushProducer),
    ("IPullProducer", StrictPullProducer),
    ("IProtocolFactory", Factory),
    ("IListeningPort", Port),
    ("IConnector", Connector),
    ("IStreamServerEndpoint", endpoints.TCP4ServerEndpoint),
    ("IStreamClientEndpoint", endpoints.TCP4ClientEndpoint),
    ("IAddress", IPv4Address),
    ("IAddress", IPv6Address),
    ("IDelayedCall", DelayedCall),
    ("IReactorCore", Reactor),
    ("IReactorTCP", Reactor),
    ("IReactorFDSet", Reactor),
    ("IReactorThreads", Reactor),
    ("IReactorTime", Clock),
    ("IReactorUNIX", Reactor),
    ("IReactorSocket", Reactor),
    ("IUNIXTransport", UNIXConnection),
    ("IAddress", UNIXAddress),
]


class Numbers:
    """A push producer that knows nothing of interfaces."""

    def pauseProducing(self):
        return "paused"

    def resumeProducing(self):
        return "resumed"

    def stopProducing(self):
        return "stopped"


def members(interface):
    """Return the functions that an interface and its parents name."""
    for base in interface.__mro__:
        if base.__module__ == interfaces.__name__:
            for name, member in vars(base).items():
                if inspect.isfunction(member) and not name.startswith("_"):
                    yield name, member


# --- What is there --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_interface_is_a_typing_Protocol_with_a_docstring(name):
    interface = getattr(interfaces, name)

    assert Protocol in interface.__bases__
    assert interface.__doc__


def test_no_interface_is_missing_from_these_tests():
    found = {name for name in vars(interfaces) if re.match("I[A-Z]", name) and name != "Iterable"}

    assert found == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_method_says_what_it_means(name):
    assert [
        method for method, function in members(getattr(interfaces, name)) if not function.__doc__
    ] == []


def test_the_docstrings_cite_the_rules_by_their_ids():
    cited = set(re.findall(r"\b[MPUECRB][1-9]\b", inspect.getsource(interfaces)))

    assert cited <= RULES
    assert {"P1", "P2", "P3", "P4", "U1", "U2", "E1", "E8", "M1", "M2", "M3", "B1", "B4"} <= cited


def test_an_interface_cannot_be_instantiated():
    with pytest.raises(TypeError):
        IPushProducer()


# --- Our own classes ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cls"), ROLES)
def test_our_classes_have_the_methods_of_their_roles(name, cls):
    assert getattr(interfaces, name).implementedBy(cls)


@pytest.mark.parametrize(("name", "cls"), ROLES)
def test_our_classes_take_the_arguments_that_their_roles_name(name, cls):
    for method, wanted in members(getattr(interfaces, name)):
        expected = list(inspect.signature(wanted).parameters.values())
        actual = list(inspect.signature(getattr(cls, method)).parameters.values())
        shared, extra = actual[: len(expected)], actual[len(expected) :]

        assert [(p.name, p.kind) for p in shared] == [(p.name, p.kind) for p in expected], method
        for ours, theirs in zip(shared, expected):
            optional = theirs.default is not theirs.empty
            assert not optional or ours.default == theirs.default, method
        assert all(p.default is not p.empty for p in extra), method


@pytest.mark.parametrize(
    ("interface", "obj"),
    [
        (ITCPTransport, StringTransport()),
        (interfaces.IReactorTime, Clock()),
        (IAddress, IPv4Address("TCP", "127.0.0.1", 80)),
    ],
)
def test_our_objects_provide_their_roles_with_attributes(interface, obj):
    assert interface.providedBy(obj)


def test_a_reactor_provides_its_roles(reactor):
    for name in ("Core", "Time", "TCP", "FDSet", "Threads", "FromThreads", "InThreads"):
        assert getattr(interfaces, f"IReactor{name}").providedBy(reactor), name


# --- Asking ---------------------------------------------------------------------------------------


def test_an_object_provides_what_it_has_the_methods_of():
    assert IPushProducer.providedBy(Numbers())
    assert IPullProducer.providedBy(Numbers())
    assert not IConsumer.providedBy(Numbers())


def test_a_method_short_is_not_provided():
    class Partial(Numbers):
        pauseProducing = property()  # hides the method: reading it is an AttributeError

    assert not IPushProducer.providedBy(Partial())
    assert IPullProducer.providedBy(Partial())


def test_a_class_implements_what_its_instances_will_provide():
    assert IPushProducer.implementedBy(Numbers)
    assert not ITransport.implementedBy(Numbers)


def test_an_interface_of_attributes_asks_for_the_attributes():
    assert IAddress.implementedBy(IPv4Address)
    assert not IAddress.implementedBy(Numbers)
    assert not IAddress.providedBy(Numbers())


def test_an_object_of_a_subclass_cannot_be_asked():
    class Own(IPushProducer):
        pass

    assert not hasattr(Own(), "providedBy")


# --- Naming them ----------------------------------------------------------------------------------


def test_implementer_gives_the_class_back_unchanged():
    before = dict(vars(Numbers))

    assert implementer(IPushProducer, IConsumer)(Numbers) is Numbers
    assert dict(vars(Numbers)) == before


def test_implementer_decorates_a_class():
    @implementer(IPushProducer)
    class Decorated(Numbers):
        pass

    assert Decorated().pauseProducing() == "paused"
    assert Decorated.__mro__[1:] == Numbers.__mro__


def test_provider_gives_back_what_it_is_given():
    assert provider(IPushProducer)(Numbers) is Numbers


# --- Inheriting from them -------------------------------------------------------------------------


def test_a_method_that_a_subclass_leaves_out_does_nothing():
    class Forgetful(IPushProducer):
        def resumeProducing(self):
            return "resumed"

    producer = Forgetful()

    assert producer.resumeProducing() == "resumed"
    assert producer.pauseProducing() is None
    assert producer.stopProducing() is None


@pytest.mark.parametrize("bases", [(IPushProducer, Numbers), (Numbers, IPushProducer)])
def test_an_interface_hides_no_method_of_another_base_class(bases):
    both = type("Both", bases, {})

    assert both().pauseProducing() == "paused"
    assert both().stopProducing() == "stopped"


def test_an_interface_hides_nothing_from_a_class_further_down():
    class First(IPushProducer):
        def pauseProducing(self):
            return "my own"

    class Second(First, Numbers):
        pass

    assert Second().pauseProducing() == "my own"
    assert Second().stopProducing() == "stopped"


def test_a_protocol_may_name_its_interface_first_and_still_works():
    class Echo(IProtocol, RealProtocol):
        def dataReceived(self, data):
            self.transport.write(data)

    protocol = Echo()
    transport = connected(protocol)

    protocol.dataReceived(b"hello")

    assert transport.value() == b"hello"
    assert protocol.connected


def test_an_interface_leaves_the_constructor_of_another_base_alone():
    class Counted:
        def __init__(self, count):
            self.count = count

    class Producer(IPushProducer, Counted):
        pass

    assert Producer(3).count == 3


def test_super_passes_an_interface_and_reaches_the_other_base():
    class Noting(IProtocol, RealProtocol):
        def makeConnection(self, transport):
            self.noted = transport
            super().makeConnection(transport)

    protocol = Noting()
    transport = connected(protocol)

    assert protocol.noted is protocol.transport is transport


def test_super_does_nothing_where_there_is_no_other_base():
    class Producer(IPushProducer):
        def pauseProducing(self):
            return super().pauseProducing()

    assert Producer().pauseProducing() is None


def test_a_subclass_may_be_generic():
    T = TypeVar("T")

    class Queue(IPushProducer, Generic[T]):
        def pauseProducing(self):
            return "paused"

    assert Queue[int]().pauseProducing() == "paused"


def test_a_subclass_may_set_the_attributes_that_an_interface_names():
    class Fake(ITCPTransport):
        def __init__(self):
            self.disconnecting = False
            self.reading = True

    transport = Fake()
    transport.disconnecting = True

    assert (transport.disconnecting, transport.reading) == (True, True)
    assert not hasattr(transport, "connected")


def test_E7_inheriting_IProtocol_does_not_make_a_protocol_half_closeable():
    class Plain(IProtocol):
        pass

    assert not IHalfCloseableProtocol.implementedBy(Plain)
    assert not hasattr(Plain(), "readConnectionLost")


def test_E7_inheriting_IHalfCloseableProtocol_makes_a_protocol_half_closeable():
    class Half(RealProtocol, IHalfCloseableProtocol):
        pass

    assert IHalfCloseableProtocol.providedBy(Half())


@pytest.mark.parametrize("name", [name for name in NAMES if "HalfCloseable" not in name])
def test_E7_no_other_interface_has_the_two_methods(name):
    assert not IHalfCloseableProtocol.implementedBy(getattr(interfaces, name))


# --- Importing them -------------------------------------------------------------------------------


def test_a_program_that_does_not_use_the_interfaces_does_not_load_them():
    code = (
        "import sys; import minireactor.internet, minireactor.basic;"
        "print('minireactor.interfaces' in sys.modules)"
    )

    root = Path(interfaces.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )

    assert done.stdout.strip() == "False"
