"""A recording in the dashboard's page, with a slider for the time.

    replay = Replay("monday.jsonl")
    replay.listen(reactor, "127.0.0.1", 0)
    print(replay.url)
    reactor.run()

    export("monday.jsonl", "monday.html")    # one file that needs no server

The page gets the whole recording, as JSON lines, and moves about in it by itself. Of a long
recording it gets every second sample, or every fourth, and so on: as much as a browser can keep.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from minireactor.basic import FileSender
from minireactor.view.record import read
from minireactor.view.web.dashboard import Page
from minireactor.view.web.document import compose_file

if TYPE_CHECKING:
    from minireactor.view.web.http import Response
    from minireactor.view.web.request import Request

MAX_SAMPLES = 32 * 1024 * 1024  # bytes; a browser needs some five times that to keep them
MAX_EXPORTED = 8 * 1024 * 1024  # bytes of samples; a file of this size can still be sent by mail
MAX_REASONS = 10_000  # connections of which the page gets to know why they were lost
_PIECE = 64 * 1024  # bytes


class Replay(Page):
    """The page of the recording at `path`, which is read now. Raises OSError, RecordingError."""

    def __init__(self, path: str) -> None:
        super().__init__("replay")
        self._recording = _thinned(path, MAX_SAMPLES)
        self.add("GET", "/recording", self._send)

    def _send(self, request: Request, response: Response) -> None:
        response.start("application/json-lines")
        sender = FileSender()
        sender.CHUNK_SIZE = _PIECE
        sent = sender.beginFileTransfer(io.BytesIO(self._recording), response)
        # When the page is closed, there is nobody to report this to.
        sent.addCallbacks(lambda _: response.end(), lambda _: None)


def export(path: str, out: str) -> None:
    """Write the recording at `path` to `out` as a page. Raises OSError, RecordingError.

    `out` is opened after the recording has been read, so a bad recording leaves it as it was."""
    page = compose_file(_thinned(path, MAX_EXPORTED))
    with open(out, "wb") as file:
        file.write(page)


def _thinned(path: str, limit: int) -> bytes:
    """Return a recording as JSON lines, with as many samples as fit into `limit` bytes."""
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
            if size > limit:
                samples = samples[::2]
                stride *= 2
                size = sum(map(len, samples))
        elif found["event"] == "lost" and len(reasons) < MAX_REASONS:
            reasons.append(_line(found))
    return b"".join([first, *reasons, *samples])


def _line(found: dict[str, Any]) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"
