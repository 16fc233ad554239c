"""The table of a connection's states, and real connections that follow it."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
from support import HalfCloseable, Recorder

from minireactor.error import ConnectionAborted, ConnectionDone, ConnectionLost
from minireactor.transports import lifecycle
from minireactor.transports.lifecycle import (
    ABORT,
    CLOSED,
    CLOSING,
    CLOSING_SILENT,
    END_OF_INPUT,
    ENDING,
    ERROR,
    EVENTS,
    FLUSHED,
    LOSE,
    LOSE_WRITE,
    OPEN,
    STATES,
    TRANSITIONS,
    WRITE_CLOSED,
    WRITE_CLOSING,
)

README = Path(__file__).parent.parent / "minireactor" / "transports" / "README.md"

# The next state for each of EVENTS, in their order, or None where the event must not happen.
# Written out by hand: a change of the table is a change of the contract.
EXPECTED = {
    OPEN: (CLOSING, WRITE_CLOSING, ENDING, None, CLOSED, CLOSED),
    WRITE_CLOSING: (CLOSING, WRITE_CLOSING, ENDING, WRITE_CLOSED, CLOSED, CLOSED),
    WRITE_CLOSED: (CLOSING_SILENT, WRITE_CLOSED, ENDING, None, CLOSED, CLOSED),
    CLOSING: (CLOSING, CLOSING, ENDING, CLOSED, CLOSED, CLOSED),
    CLOSING_SILENT: (CLOSING_SILENT, CLOSING_SILENT, ENDING, CLOSED, CLOSED, CLOSED),
    ENDING: (ENDING, ENDING, ENDING, ENDING, CLOSED, CLOSED),
    CLOSED: (CLOSED, CLOSED, CLOSED, CLOSED, CLOSED, CLOSED),
}
PAIRS = [(state, event) for state in STATES for event in EVENTS]

# A half-closeable protocol is notified of the end of each direction, and may go on with one alone.
PROTOCOLS = {"plain": Recorder, "half-closeable": HalfCloseable}

# The reason for the protocol's connectionLost(), if the event leads to CLOSED.
REASONS = {FLUSHED: ConnectionDone, END_OF_INPUT: ConnectionDone, ERROR: ConnectionLost}


def name_of(value):
    return value.name if isinstance(value, lifecycle.State) else value


def drawing():
    """Return the table as a Mermaid diagram: one arrow for all events that lead the same way."""
    arrows = {}
    for (state, event), following in TRANSITIONS.items():
        if following is not state:
            arrows.setdefault((state.name, following.name), []).append(event)
    lines = ["stateDiagram-v2", f"    [*] --> {OPEN.name}"]
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in arrows.items()]
    return "\n".join(lines) + "\n"


class Scene:
    """A connection on a scripted socket, brought into `state` by the events that lead there."""

    def __init__(self, wire, kind, state):
        self.wire = wire
        self.protocol = PROTOCOLS[kind]()
        self.transport, self.sock = wire.connect(self.protocol)
        wire.run(1)
        for call in {
            OPEN: [],
            WRITE_CLOSING: [self.write, self.transport.loseWriteConnection],
            WRITE_CLOSED: [self.transport.loseWriteConnection, wire.run],
            CLOSING: [self.write, self.transport.loseConnection],
            CLOSING_SILENT: [
                self.transport.loseWriteConnection,
                wire.run,
                self.transport.loseConnection,
            ],
            ENDING: [self.transport.abortConnection],
            CLOSED: [self.transport.abortConnection, wire.run],
        }[state]:
            call()
        assert self.transport._state is state

    def write(self):
        self.transport.write(b"x")

    def happen(self, event):
        """Cause an event as the kernel or a program does, or as nearly as the state allows."""
        transport = self.transport
        if event == LOSE:
            transport.loseConnection()
        elif event == LOSE_WRITE:
            transport.loseWriteConnection()
        elif event == ABORT:
            transport.abortConnection()
        elif event == FLUSHED:
            self.sock.room = 1
            transport.doWrite()
            if transport._state in (CLOSING_SILENT, ENDING, CLOSED):
                transport._end_of_writing()  # which an iteration calls that was asked for before
        elif event == END_OF_INPUT:
            self.sock.inbox.append(b"")
            transport.doRead()
        else:
            self.sock.error = errno.ECONNRESET
            transport.doRead()


# --- The table


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=name_of)
def test_the_table_has_for_each_event_in_each_state_what_it_should(state, event):
    assert TRANSITIONS.get((state, event)) is EXPECTED[state][EVENTS.index(event)]


def test_no_row_is_of_another_state_or_event():
    assert set(TRANSITIONS) <= set(PAIRS)
    assert len({state.name for state in STATES}) == len(STATES)


def test_a_connection_never_goes_back():
    rank = {state: number for number, state in enumerate(STATES)}
    assert [row for row in TRANSITIONS.items() if rank[row[1]] < rank[row[0][0]]] == []


def test_once_nothing_is_taken_any_more_nothing_is_ever_again():
    for (state, _), following in TRANSITIONS.items():
        assert following.write_ended >= state.write_ended


def test_no_paused_connection_is_resumed_that_its_program_has_closed():
    for (state, _), following in TRANSITIONS.items():
        assert following.reads <= state.reads


def test_every_state_that_finishes_can_be_flushed():
    for state in STATES:
        if state.finishes:
            assert TRANSITIONS[state, FLUSHED] is not state


def test_views_know_four_words():
    words = [state.public_name for state in STATES]
    assert words == ["open", "open", "open", "closing", "closing", "ending", "closed"]


def test_the_drawing_is_the_table():
    text = README.read_text(encoding="utf-8")
    assert re.search("```mermaid\n(.*?)```", text, re.DOTALL)[1] == drawing()


def test_the_words_for_the_states_are_those_of_the_table():
    text = README.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE)
    assert rows == [(state.name, state.public_name) for state in STATES]


# --- The connection


def goes_on(kind, event, state):
    """Return whether the protocol may go on writing after the end of input."""
    return event == END_OF_INPUT and kind == "half-closeable" and state is not WRITE_CLOSED


@pytest.mark.parametrize("kind", PROTOCOLS)
@pytest.mark.parametrize(("state", "event"), PAIRS, ids=name_of)
def test_a_connection_goes_where_the_table_says(wire, kind, state, event):
    scene = Scene(wire, kind, state)
    scene.happen(event)
    following = TRANSITIONS.get((state, event), state)
    if goes_on(kind, event, state):
        following = state
    transport = scene.transport
    assert transport._state is following
    assert (transport.state, transport.write_ended) == (
        following.public_name,
        following.write_ended,
    )
    assert (transport.connected, transport.disconnected) == (
        following is not CLOSED,
        following is CLOSED,
    )


@pytest.mark.parametrize("kind", PROTOCOLS)
@pytest.mark.parametrize(("state", "event"), PAIRS, ids=name_of)
def test_the_protocol_is_notified_of_the_end_once_and_why(wire, kind, state, event):
    scene = Scene(wire, kind, state)
    scene.happen(event)
    closed = scene.transport.disconnected
    assert scene.protocol.calls.count("lost") == closed
    if closed:
        was_aborted = state in (ENDING, CLOSED)
        reason = ConnectionAborted if was_aborted else REASONS[event]
        assert scene.protocol.reason.check(reason)
    scene.transport.abortConnection()
    wire.run()
    assert scene.protocol.calls.count("lost") == 1
    assert scene.sock.closed and not wire.reactor.flushes


@pytest.mark.parametrize("kind", PROTOCOLS)
@pytest.mark.parametrize(("state", "event"), PAIRS, ids=name_of)
def test_only_a_program_makes_a_connection_disconnecting(wire, kind, state, event):
    scene = Scene(wire, kind, state)
    before = scene.transport.disconnecting
    assert before == (state not in (OPEN, WRITE_CLOSING, WRITE_CLOSED))
    scene.happen(event)
    assert scene.transport.disconnecting == (before or event in (LOSE, ABORT))


@pytest.mark.parametrize("kind", PROTOCOLS)
@pytest.mark.parametrize("state", STATES, ids=name_of)
def test_bytes_are_taken_unless_the_write_side_has_ended(wire, kind, state):
    transport = Scene(wire, kind, state).transport
    before = transport.pending
    transport.write(b"yz")
    assert transport.pending == before + (0 if state.write_ended else 2)


@pytest.mark.parametrize("state", STATES, ids=name_of)
def test_a_paused_connection_is_resumed_only_while_it_reads(wire, state):
    transport = Scene(wire, "plain", state).transport
    transport.pauseProducing()
    transport.resumeProducing()
    assert transport.reading == state.reads


@pytest.mark.parametrize("state", [OPEN, WRITE_CLOSING], ids=name_of)
def test_both_ends_close_the_connection_whichever_comes_last(wire, state):
    scene = Scene(wire, "half-closeable", state)
    scene.happen(END_OF_INPUT)
    assert scene.transport.read_ended and scene.transport._state is state
    scene.sock.room = 1
    scene.transport.loseWriteConnection()
    wire.run()
    assert scene.protocol.reason.check(ConnectionDone)
    assert scene.transport._state is CLOSED


@pytest.mark.parametrize("last", ["ours", "theirs"])
def test_a_protocol_that_closes_as_both_have_ended_is_notified_in_a_later_iteration(wire, last):
    class Closes(HalfCloseable):
        def readConnectionLost(self):
            super().readConnectionLost()
            if last == "theirs":
                self.transport.loseConnection()

        def writeConnectionLost(self):
            super().writeConnectionLost()
            if last == "ours":
                self.transport.loseConnection()

    protocol = Closes()
    transport, sock = wire.connect(protocol)
    wire.run(1)
    if last == "ours":
        sock.inbox.append(b"")
        transport.doRead()
        transport.loseWriteConnection()
        transport.doWrite()
    else:
        transport.loseWriteConnection()
        transport.doWrite()
        sock.inbox.append(b"")
        transport.doRead()
    assert transport._state is CLOSING_SILENT and "lost" not in protocol.calls
    wire.run(1)
    assert transport._state is CLOSED and protocol.reason.check(ConnectionDone)


def test_an_event_without_a_row_is_an_error(wire):
    transport = Scene(wire, "plain", OPEN).transport
    with pytest.raises(KeyError):
        transport._fire(FLUSHED)
    assert transport._state is OPEN
