"""A headless Chromium, driven by chromedriver's own protocol (W3C WebDriver)."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from urllib.error import HTTPError

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def missing():
    """Why there is no browser here; empty if there is one."""
    names = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(names)} not installed" if names else ""


class Browser:
    """One session: a window that goes to addresses and runs scripts."""

    def __init__(self, driver):
        self.driver = driver
        options = {
            "binary": shutil.which("chromium"),
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                     "--enable-unsafe-swiftshader", "--hide-scrollbars", "--disable-extensions",
                     "--force-device-scale-factor=1"],
        }  # fmt: skip
        always = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": always}})
        self.session = f"/session/{made['sessionId']}"

    def _ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.driver + path, data, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return json.loads(answer.read())["value"]
        except HTTPError as error:
            raise AssertionError(json.loads(error.read())["value"]["message"]) from error

    def _do(self, what, body):
        return self._ask("POST", f"{self.session}/{what}", body)

    def go(self, address):
        """Open an address."""
        self._do("url", {"url": address})

    def run(self, script, *arguments):
        """Run a function body in the page."""
        return self._do("execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition, *arguments, seconds=90):
        """Wait until an expression is true in the page; its value."""
        end = time.monotonic() + seconds
        while True:
            value = self.run(f"return ({condition})", *arguments)
            if value:
                return value
            if time.monotonic() > end:
                text = self.run("return document.body.innerText")
                raise AssertionError(f"not so in {seconds} s: {condition}\n{text}")
            time.sleep(0.05)

    def send(self, selector, keys):
        """Type into an element; into an input of files, the path of one."""
        found = self._do("element", {"using": "css selector", "value": selector})
        self._do(f"element/{found[ELEMENT]}/value", {"text": str(keys)})

    def move(self, x, y, *, click=False):
        """Move the mouse to a place of the window, and click there."""
        steps = [{"type": "pointerMove", "duration": 30, "x": round(x), "y": round(y)}]
        if click:
            steps += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self._do("actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": steps}]})

    def drag(self, places):
        """Draw a line with the button of the mouse held down."""
        first, *rest = [
            {"type": "pointerMove", "duration": 20, "x": round(x), "y": round(y)} for x, y in places
        ]
        down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
        steps = [first, down, *rest, up]
        self._do("actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": steps}]})

    def cdp(self, name, **values):
        """Ask Chromium itself, by its DevTools protocol."""
        return self._do("goog/cdp/execute", {"cmd": name, "params": values})

    def shape(self, width, height, *, dark):
        """Size of the window's content, and the colours that the system asks for."""
        for name, values in (
            ("Emulation.setDeviceMetricsOverride",
             {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}),
            ("Emulation.setEmulatedMedia",
             {"features": [{"name": "prefers-color-scheme", "value": ("light", "dark")[dark]}]}),
        ):  # fmt: skip
            self._do("goog/cdp/execute", {"cmd": name, "params": values})

    def block(self, *patterns):
        """Let requests of these addresses fail, and no others."""
        for name, values in (("Network.enable", {}),
                             ("Network.setBlockedURLs", {"urls": patterns})):  # fmt: skip
            self._do("goog/cdp/execute", {"cmd": name, "params": values})

    def picture(self, path):
        """Write what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", f"{self.session}/screenshot")))

    def complaints(self):
        """Errors and warnings of the console since the last call."""
        entries = self._do("se/log", {"type": "browser"})
        return [one["message"] for one in entries if one["level"] in ("SEVERE", "WARNING")]

    def requests(self):
        """Addresses that were requested since the last call."""
        entries = self._do("se/log", {"type": "performance"})
        messages = [json.loads(one["message"])["message"] for one in entries]
        return [
            one["params"]["request"]["url"]
            for one in messages
            if one["method"] == "Network.requestWillBeSent"
        ]

    def close(self):
        """End the session."""
        self._ask("DELETE", self.session)


@contextmanager
def browser():
    """A browser in processes of its own."""
    started = [shutil.which("chromedriver"), "--port=0"]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                if "started successfully on port" in line:
                    port = line.rstrip().rstrip(".").rpartition(" ")[2]
                    break
            opened = Browser(f"http://127.0.0.1:{port}")
            try:
                yield opened
            finally:
                opened.close()
        finally:
            process.terminate()
