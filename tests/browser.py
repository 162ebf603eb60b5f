"""A headless Chromium, driven by the WebDriver protocol: for tests of pages."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # key of an element, in the W3C's WebDriver
_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *(
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    ),
)


def find_programs():
    """(chromium, chromedriver), or None if one of them is not installed."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """One window.

    Args:
        address (str): of the chromedriver.
        session (str): its session.
    """

    def __init__(self, address, session):
        self._base = f"{address}/session/{session}"

    def _call(self, method, path, **content):
        return _request(method, f"{self._base}{path}", content if method == "POST" else None)

    def open(self, url):
        self._call("POST", "/url", url=url)

    def run(self, script, *arguments):
        """What a JavaScript function of that body returns."""
        return self._call("POST", "/execute/sync", script=script, args=list(arguments))

    def wait_for(self, script, timeout=30):
        """Waits until an expression is true."""
        deadline = time.monotonic() + timeout
        while not self.run(f"return Boolean({script})"):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.1)

    def click(self, selector):
        element = self._call("POST", "/element", using="css selector", value=selector)
        self._call("POST", f"/element/{element[_ELEMENT]}/click")

    def resize(self, width, height):
        self._devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, scheme):
        """Asks pages for "light" or "dark" colours."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._devtools("Emulation.setEmulatedMedia", features=features)

    def _devtools(self, command, **parameters):
        return self._call("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def screenshot(self, path, whole=False):
        """Writes what the window shows, or the whole page, as PNG."""
        found = self._devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        with open(path, "wb") as file:
            file.write(base64.b64decode(found["data"]))

    def errors(self):
        """Errors on the console since the last call: of scripts, and of what did not load."""
        entries = self._call("POST", "/se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]


@contextlib.contextmanager
def start_browser(profile):
    """Starts a browser that reaches no other machine.

    Args:
        profile (Path): an empty folder for what it keeps.

    Yields:
        Browser
    """
    browser, driver = find_programs()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([driver, f"--port={port}"], **quiet) as process:
        address, session = f"http://127.0.0.1:{port}", None
        try:
            options = {"binary": browser, "args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
            wanted = {
                "browserName": "chrome",
                "acceptInsecureCerts": True,
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            session = _start_session(address, {"capabilities": {"alwaysMatch": wanted}})
            yield Browser(address, session)
        finally:
            if session:
                _request("DELETE", f"{address}/session/{session}")
            process.terminate()


def _start_session(address, wanted):
    deadline = time.monotonic() + 60
    while True:
        try:
            return _request("POST", f"{address}/session", wanted)["sessionId"]
        except urllib.error.URLError:  # not there yet
            assert time.monotonic() < deadline, "chromedriver does not answer"
            time.sleep(0.1)


def _request(method, url, content=None):
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {url}: {error.read().decode()[:1000]}") from error
