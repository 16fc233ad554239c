"""The lifecycle of a connection: what each event does in each state. One table says it all.

Each of the two directions of TCP can end alone. The states are those of our side, which writes.
The program may close the write side alone, or the whole connection. The peer's side has one flag,
`read_ended` of the connection, which is set once. The peer's end of the stream is an event of the
table only if the connection ends with it.

This module neither reads nor writes. `connection` fires the events, and acts when the state has
changed. `README.md` in this folder has the table as a drawing.
"""

from __future__ import annotations


class State:
    """One state. Its attributes are all that `connection` asks of it.

    name: its name in the drawing of the table.
    public_name: the word for programs and views: "open", "closing", "ending" or "closed".
    reads: whether a paused connection can be resumed.
    write_ended: whether nothing that is written is taken any more.
    finishes: whether FLUSHED follows as soon as nothing is pending and no producer is registered.
    """

    __slots__ = ("finishes", "name", "public_name", "reads", "write_ended")

    def __init__(
        self,
        name: str,
        public_name: str,
        reads: bool = False,
        write_ended: bool = False,
        finishes: bool = False,
    ) -> None:
        self.name = name
        self.public_name = public_name
        self.reads = reads
        self.write_ended = write_ended
        self.finishes = finishes

    def __repr__(self) -> str:
        return self.name


# States.
OPEN = State("open", "open", reads=True)
# loseWriteConnection() was called. What is pending, and what a producer still has, is sent first.
WRITE_CLOSING = State("write_closing", "open", reads=True, finishes=True)
# The peer has been sent our end of the stream.
WRITE_CLOSED = State("write_closed", "open", reads=True, write_ended=True)
# loseConnection() was called. What is pending, and what a producer still has, is sent first.
CLOSING = State("closing", "closing", finishes=True)
# loseConnection() was called after WRITE_CLOSED. Nothing is left to send, so the next iteration
# fires FLUSHED.
CLOSING_SILENT = State("closing_silent", "closing", write_ended=True, finishes=True)
# Aborted, or a callback has failed. Pending bytes are dropped, and the next iteration closes.
ENDING = State("ending", "ending", write_ended=True)
# The socket is closed. connectionLost of the protocol is the last call.
CLOSED = State("closed", "closed", write_ended=True)

STATES = (OPEN, WRITE_CLOSING, WRITE_CLOSED, CLOSING, CLOSING_SILENT, ENDING, CLOSED)

# Events.
LOSE = "lose"  # loseConnection()
LOSE_WRITE = "lose write"  # loseWriteConnection()
ABORT = "abort"  # abortConnection(), or a callback has failed
FLUSHED = "flushed"  # nothing is pending, no producer is registered, and the state finishes
END_OF_INPUT = "end of input"  # the peer's end has come, and the connection ends with it
# The socket fails, the loop ends, or the iteration has come that ENDING waits for.
ERROR = "error"

EVENTS = (LOSE, LOSE_WRITE, ABORT, FLUSHED, END_OF_INPUT, ERROR)

# (state, event) -> next state. A missing row is an error.
TRANSITIONS: dict[tuple[State, str], State] = {
    (OPEN, LOSE): CLOSING,
    (OPEN, LOSE_WRITE): WRITE_CLOSING,
    (OPEN, ABORT): ENDING,
    (OPEN, END_OF_INPUT): CLOSED,
    (OPEN, ERROR): CLOSED,
    (WRITE_CLOSING, LOSE): CLOSING,
    (WRITE_CLOSING, LOSE_WRITE): WRITE_CLOSING,
    (WRITE_CLOSING, ABORT): ENDING,
    (WRITE_CLOSING, FLUSHED): WRITE_CLOSED,
    (WRITE_CLOSING, END_OF_INPUT): CLOSED,
    (WRITE_CLOSING, ERROR): CLOSED,
    (WRITE_CLOSED, LOSE): CLOSING_SILENT,
    (WRITE_CLOSED, LOSE_WRITE): WRITE_CLOSED,
    (WRITE_CLOSED, ABORT): ENDING,
    (WRITE_CLOSED, END_OF_INPUT): CLOSED,
    (WRITE_CLOSED, ERROR): CLOSED,
    (CLOSING, LOSE): CLOSING,
    (CLOSING, LOSE_WRITE): CLOSING,
    (CLOSING, ABORT): ENDING,
    (CLOSING, FLUSHED): CLOSED,
    (CLOSING, END_OF_INPUT): CLOSED,
    (CLOSING, ERROR): CLOSED,
    (CLOSING_SILENT, LOSE): CLOSING_SILENT,
    (CLOSING_SILENT, LOSE_WRITE): CLOSING_SILENT,
    (CLOSING_SILENT, ABORT): ENDING,
    (CLOSING_SILENT, FLUSHED): CLOSED,
    (CLOSING_SILENT, END_OF_INPUT): CLOSED,
    (CLOSING_SILENT, ERROR): CLOSED,
    (ENDING, LOSE): ENDING,
    (ENDING, LOSE_WRITE): ENDING,
    (ENDING, ABORT): ENDING,
    (ENDING, FLUSHED): ENDING,  # fired by an iteration for which CLOSING_SILENT had asked
    (ENDING, END_OF_INPUT): CLOSED,
    (ENDING, ERROR): CLOSED,
    (CLOSED, LOSE): CLOSED,
    (CLOSED, LOSE_WRITE): CLOSED,
    (CLOSED, ABORT): CLOSED,
    (CLOSED, FLUSHED): CLOSED,  # as with ENDING
    (CLOSED, END_OF_INPUT): CLOSED,
    (CLOSED, ERROR): CLOSED,
}
