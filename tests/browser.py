"""A real browser for the tests: headless Chromium, controlled through a pair of pipes.

The pipes carry the DevTools protocol (`--remote-debugging-pipe`): JSON messages, each ended by a
NUL byte. PATIENCE bounds every wait.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

from support import PATIENCE

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_SECONDS = 60.0  # a busy machine takes long to start a browser


def executable():
    """Return the path of Chromium, None if it is not installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class BrowserError(AssertionError):
    """The browser does not answer, or answers with an error."""


class Browser:
    """One browser process, with its files in `folder`. The caller has to close it."""

    def __init__(self, folder):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def take_pipes():
            # Chromium reads from descriptor 3 and writes to 4. Our pipes may have these numbers.
            spare = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]
            for fd, wanted in zip(spare, (3, 4)):
                os.dup2(fd, wanted)

        self._process = subprocess.Popen(
            [executable(), *_arguments(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=take_pipes,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._unread = b""
        self._count = 0
        self._answers = {}
        self.pages = {}
        try:
            self.call("Browser.getVersion", patience=START_SECONDS)
        except BaseException:
            self.close()
            raise

    def call(self, method, params=None, session=None, patience=PATIENCE):
        """Send a command, and return its result. Raises BrowserError if the command fails."""
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": params or {}}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        deadline = time.monotonic() + patience
        while number not in self._answers:
            self._receive(deadline, method)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _receive(self, deadline, what):
        ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
        data = os.read(self._in, 1 << 20) if ready else b""
        if not data:
            raise BrowserError(f"no answer of the browser to {what}")
        *messages, self._unread = (self._unread + data).split(b"\0")
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            elif message.get("sessionId") in self.pages:
                self.pages[message["sessionId"]].notified(message["method"], message["params"])

    def open(self, url, width=1280, height=800, dark=False, calm=False, languages="en"):
        """Return a new page. Its size is in CSS pixels; `calm` asks for reduced motion.

        languages: the reader's languages, the preferred one first, such as "zh-CN,en"."""
        page = Page(self)
        page.size(width, height)
        page.media(dark, calm)
        agent = self.call("Browser.getVersion")["userAgent"]
        page.call(
            "Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": languages}
        )
        page.go(url)
        return page

    def close(self):
        try:
            self.call("Browser.close")
        except (BrowserError, OSError):
            pass
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)


class Page:
    """A tab. `errors` has the errors of its console, `requests` all addresses it requested."""

    def __init__(self, browser):
        self._browser = browser
        self.errors = []
        self.requests = []
        self._target = browser.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = browser.call(
            "Target.attachToTarget", {"targetId": self._target, "flatten": True}
        )
        self._session = attached["sessionId"]
        browser.pages[self._session] = self
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, params=None):
        return self._browser.call(method, params, self._session)

    def notified(self, method, params):
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", details).get("description", str(details)))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(str(params["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def size(self, width, height):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", metrics)

    def media(self, dark=False, calm=False):
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if calm else "no-preference",
        }
        listed = [{"name": name, "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", {"features": listed})

    def go(self, url):
        self.call("Page.navigate", {"url": url})
        self.until("document.readyState === 'complete'")

    def ask(self, expression):
        """Return the value of a JavaScript expression, or of the promise that it returns."""
        answer = self.call(
            "Runtime.evaluate",
            {"expression": expression, "returnByValue": True, "awaitPromise": True},
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", details).get("description", str(details)))
        return answer["result"].get("value")

    def until(self, expression, patience=3 * PATIENCE):
        """Wait until an expression is true, and return its value. Raises BrowserError."""
        deadline = time.monotonic() + patience
        while True:
            try:
                value = self.ask(expression)
            except BrowserError as error:  # the page may still be loading
                why = error
            else:
                why = self.errors
                if value:
                    return value
            if time.monotonic() > deadline:
                raise BrowserError(f"waited in vain for {expression}: {why}")
            self.ask("new Promise((resolve) => setTimeout(resolve, 50))")

    def box(self, selector):
        """Scroll an element into view, and return its (left, top, width, height)."""
        return self.ask(
            f"(() => {{ const element = document.querySelector({json.dumps(selector)});"
            "element.scrollIntoView({block: 'center'});"
            "const box = element.getBoundingClientRect();"
            "return [box.left, box.top, box.width, box.height]; })()"
        )

    def click(self, selector):
        left, top, width, height = self.box(selector)
        self._mouse("mousePressed", left + width / 2, top + height / 2)
        self._mouse("mouseReleased", left + width / 2, top + height / 2)

    def drag(self, selector, down, steps=8):
        """Drag an element by its middle, `down` pixels down, or up if negative."""
        left, top, width, height = self.box(selector)
        x, y = left + width / 2, top + height / 2
        self._mouse("mousePressed", x, y)
        for step in range(1, steps + 1):
            self._mouse("mouseMoved", x, y + down * step / steps)
        self._mouse("mouseReleased", x, y + down)

    def _mouse(self, kind, x, y):
        buttons = {"button": "left", "buttons": 0 if kind == "mouseReleased" else 1}
        self.call(
            "Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "clickCount": 1, **buttons}
        )

    def key(self, name):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", {"type": kind, "key": name, "code": name})

    def screenshot(self, path, whole=False):
        options = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {
                "x": 0,
                "y": 0,
                "width": size["width"],
                "height": size["height"],
                "scale": 1,
            }
        shot = self.call("Page.captureScreenshot", options)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot))

    def close(self):
        self._browser.pages.pop(self._session, None)
        self._browser.call("Target.closeTarget", {"targetId": self._target})


def _arguments(folder):
    arguments = [
        "--headless=new",
        "--remote-debugging-pipe",
        f"--user-data-dir={folder}",
        "--no-first-run",
        "--no-default-browser-check",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
        "--mute-audio",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses to run as root without it
    return [*arguments, "about:blank"]
