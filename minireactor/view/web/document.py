"""The page as one document: markup, style sheet and scripts, which it may run and no others.

    data, headers = compose("live")

The files are in the folder `page`. The document links to nothing: all parts are put into it.
"""

from __future__ import annotations

import base64
import hashlib
import pkgutil

# Put one behind the other into one script, in this order. Only the last one does anything when it
# is run; the others say what there is.
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
    "samples.js",
    "picture.js",
    "server.js",
    "tape.js",
    "begin.js",
)


def compose(mode: str) -> tuple[bytes, dict[str, str]]:
    """Return the page for a mode, "live", "demo" or "replay", and the headers that guard it."""
    style, script = packaged("page.css"), script_text()
    policy = (
        "default-src 'none'",
        f"script-src '{_digest(script)}'",
        f"style-src '{_digest(style)}'",
        "connect-src 'self'",
        "img-src data:",  # the icon
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    page = packaged("page.html").replace('data-mode="live"', f'data-mode="{mode}"')
    page = page.replace("/* page.css */", style).replace("/* scripts */", script)
    return page.encode(), {
        "Content-Security-Policy": "; ".join(policy),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
    }


def script_text() -> str:
    """Return all scripts of the page as one text."""
    return "\n".join(map(packaged, SCRIPTS))


def packaged(name: str) -> str:
    """Return the text of a file of the page, with the line ends that a digest is taken of."""
    data = pkgutil.get_data("minireactor.view.web", f"page/{name}")
    assert data is not None
    # Browsers replace CR LF by LF before they compare digests.
    return data.decode().replace("\r\n", "\n")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
