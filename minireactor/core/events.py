"""The events of a connection, as observers get them: see `Loop`.

Each event has the name of the method that is called right after it, on the protocol or the
producer.
"""

from minireactor.core.flow import PAUSE, RESUME, STOP

__all__ = ["LOST", "MADE", "PAUSE", "RESUME", "STOP"]

MADE = "connectionMade"
LOST = "connectionLost"
