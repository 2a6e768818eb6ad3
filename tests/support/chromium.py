"""Drives a headless Chromium over a pair of pipes: no driver, no port, no network."""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: Chromium reads commands from file descriptor 3 and writes answers to 4.
LAUNCH = "import os, sys; r, w = map(int, sys.argv[1:3]); os.dup2(r, 13); os.dup2(w, 14); \
os.dup2(13, 3); os.dup2(14, 4); os.execv(sys.argv[3], sys.argv[3:])"
OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--window-size=1280,900",
)
PATIENCE = 60.0
KEYS = {
    "Enter": {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
    "Space": {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32, "text": " "},
    "Tab": {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
    "ArrowRight": {"key": "ArrowRight", "code": "ArrowRight", "windowsVirtualKeyCode": 39},
}


def find_chromium() -> str | None:
    """Path of a Chromium, or ``None``."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A browser process, which answers one command after another."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Its sandbox refuses to run as root, as tests in a container do.
        alone = ("--no-sandbox",) if os.geteuid() == 0 else ()
        chromium = (program, *OPTIONS, *alone, f"--user-data-dir={profile}", "about:blank")
        launch = [sys.executable, "-IS", "-c", LAUNCH, str(theirs_in), str(theirs_out), *chromium]
        self._process = subprocess.Popen(
            launch, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers, self._unread, self.events = count(1), b"", []

    def ask(self, method: str, session: str | None = None, **parameters) -> dict:
        """Send a command and wait for its answer; what happens meanwhile lands in `events`."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method: str, session: str) -> None:
        """Wait until something has happened in a tab."""
        while not any(e["method"] == method and e["sessionId"] == session for e in self.events
                      if "sessionId" in e):  # fmt: skip
            self.events.append(self._read())

    def open(self, page: Path) -> "Tab":
        """Load a file in a tab of its own."""
        return Tab(self, page)

    def close(self) -> None:
        """End the process."""
        try:
            self.ask("Browser.close")
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._in)
            os.close(self._out)

    def _read(self) -> dict:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._in], [], [], deadline - time.monotonic())
            assert ready, "Chromium does not answer"
            part = os.read(self._in, 1 << 20)
            assert part, "Chromium has ended"
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


class Tab:
    """A page in the browser."""

    def __init__(self, browser: Chromium, page: Path) -> None:
        self._browser = browser
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self._ask(f"{domain}.enable")
        self._ask("Page.navigate", url=page.as_uri())
        browser.wait_for("Page.loadEventFired", self._session)

    @property
    def problems(self) -> list[dict]:
        """What the page threw, logged, or was denied."""
        found = [
            *self._happened("Runtime.exceptionThrown"),
            *self._happened("Runtime.consoleAPICalled"),
            *self._happened("Log.entryAdded"),
        ]
        return [event["params"] for event in found]

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for, the page's own first."""
        found = self._happened("Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in found]

    @property
    def accessible(self) -> list[dict[str, str]]:
        """Role and name of everything that a screen reader is told of."""
        nodes = self._ask("Accessibility.getFullAXTree")["nodes"]
        return [
            {name: str(node.get(name, {}).get("value", "")) for name in ("role", "name")}
            for node in nodes
            if not node["ignored"]
        ]

    def evaluate(self, expression: str):
        """Value of an expression in the page."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, element: str) -> None:
        """Click on the middle of the element that an expression gives."""
        x, y = self.evaluate(f"""(() => {{
          const element = {element};
          element.scrollIntoView({{ behavior: "instant", block: "center", inline: "center" }});
          const box = element.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, **KEYS[key])

    def type(self, text: str) -> None:
        """Write text where the focus is."""
        self._ask("Input.insertText", text=text)

    def narrow(self, width: int = 360) -> None:
        """Show the page on a telephone."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=740,
            deviceScaleFactor=1,
            mobile=False,
        )
        # Observers of sizes are called with the frame after the next one.
        self._ask(
            "Runtime.evaluate",
            expression="new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))",
            awaitPromise=True,
        )

    def print_media(self) -> None:
        """Show the page as it is printed."""
        self._ask("Emulation.setEmulatedMedia", media="print")

    def _ask(self, method: str, **parameters) -> dict:
        return self._browser.ask(method, self._session, **parameters)

    def _happened(self, method: str) -> list[dict]:
        self.evaluate("0")  # reads what was sent until now
        events = self._browser.events
        return [e for e in events if e["method"] == method and e.get("sessionId") == self._session]
