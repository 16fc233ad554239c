"""A recording in the dashboard's page, with a slider for the time.

    replay = Replay("monday.jsonl")
    replay.listen(reactor, "127.0.0.1", 0)
    print(replay.url)
    reactor.run()

The page gets all of the recording at GET /recording, as JSON lines, and moves about in it by
itself. Of a long one it gets every second sample, or every fourth...: what it can keep.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from minireactor.basic import FileSender
from minireactor.view.record import read
from minireactor.view.web.dashboard import Page

if TYPE_CHECKING:
    from minireactor.view.web.http import Response
    from minireactor.view.web.request import Request

MOST = 32 * 1024 * 1024  # bytes of samples; a browser needs some five times that to keep them
MOST_REASONS = 10_000  # connections of which the page is told why they were lost
_PIECE = 64 * 1024  # bytes


class Replay(Page):
    """The page, on the recording at `path`, which is read now. OSError, RecordingError."""

    def __init__(self, path: str) -> None:
        super().__init__("replay")
        self._recording = _thinned(path)
        self.add("GET", "/recording", self._send)

    def _send(self, request: Request, response: Response) -> None:
        response.start("application/json-lines")
        sender = FileSender()
        sender.CHUNK_SIZE = _PIECE
        sent = sender.beginFileTransfer(io.BytesIO(self._recording), response)
        # If the page goes, nobody is to be told.
        sent.addCallbacks(lambda _: response.end(), lambda _: None)


def _thinned(path: str) -> bytes:
    first = b""
    samples: list[bytes] = []
    reasons: list[bytes] = []
    stride, number, size = 1, 0, 0
    for found in read(path):
        kind = found["type"]
        if kind == "recording":
            title = found.get("command") or path
            first = _line({"type": "recording", "title": str(title)})
        elif kind == "sample":
            if number % stride == 0:
                samples.append(_line(found))
                size += len(samples[-1])
            number += 1
            if size > MOST:
                samples = samples[::2]
                stride *= 2
                size = sum(map(len, samples))
        elif found["event"] == "lost" and len(reasons) < MOST_REASONS:
            reasons.append(_line(found))
    return b"".join([first, *reasons, *samples])


def _line(found: dict[str, Any]) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"
