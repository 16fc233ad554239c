"""The page as one document: markup, style sheet and scripts, which it may run and no others.

    data, headers = compose("live")          # for a server
    data = compose_file(recording)           # for a file, with what it shows

The files are in the folder `page`. The document links to nothing: all parts are put into it.
"""

from __future__ import annotations

import base64
import hashlib
import pkgutil

# These files become one script, in this order. The last one begins; the others define what it
# needs.
SCRIPTS = (
    "state.js",
    "texts.js",
    "numbers.js",
    "lane.js",
    "pipe.js",
    "plot.js",
    "mark.js",
    "demo.js",
    "tour.js",
    "targets.js",
    "samples.js",
    "picture.js",
    "server.js",
    "tape.js",
    "begin.js",
)


def compose(mode: str) -> tuple[bytes, dict[str, str]]:
    """Return the page for a mode, "live", "demo" or "replay", and the headers that guard it."""
    policy = [*_policy(), "connect-src 'self'", "frame-ancestors 'none'"]
    return _filled(mode).encode(), {
        "Content-Security-Policy": "; ".join(policy),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
    }


def compose_file(recording: bytes) -> bytes:
    """Return a page that contains a recording, JSON lines, and opens from a file.

    The page may send no request to anywhere."""
    # No text of a recording can end its element: in JSON, "<" may be written so.
    data = recording.decode().replace("<", "\\u003c")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(_policy())}">'
    data = f'<script type="application/json" id="recording">{data}</script>'
    page = _filled("replay").replace("<head>", f"<head>\n{policy}", 1)
    return page.replace("<!-- recording -->", data, 1).encode()


def _policy() -> list[str]:
    """Return the rules for both kinds of page: it runs and shows nothing but its own parts."""
    return [
        "default-src 'none'",
        f"script-src '{_digest(script_text())}'",
        f"style-src '{_digest(_style())}'",
        "img-src data:",  # the icon
        "base-uri 'none'",
        "form-action 'none'",
    ]


def _filled(mode: str) -> str:
    page = packaged("page.html").replace('data-mode="live"', f'data-mode="{mode}"')
    page = page.replace("/* page.css */", _style())
    return page.replace("/* scripts */", script_text())


def _style() -> str:
    return _lean(packaged("page.css"))


def script_text() -> str:
    """Return all scripts of the page as one text, without what only their readers need."""
    return _lean("\n".join(map(packaged, SCRIPTS)), ("//", "/** ", "* "))


def _lean(text: str, comments: tuple[str, ...] = ()) -> str:
    """Leave out indentation, empty lines and, if they begin so, lines of comment.

    This saves an eighth of the page's bytes."""
    lines = (line.strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line and not line.startswith(comments))


def packaged(name: str) -> str:
    """Return the text of a file of the page, with the line ends that a digest is taken of."""
    data = pkgutil.get_data("minireactor.view.web", f"page/{name}")
    assert data is not None
    # Browsers replace CR LF by LF before they compare digests.
    return data.decode().replace("\r\n", "\n")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
