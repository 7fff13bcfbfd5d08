"""A real browser for tests: Debian's Chromium, driven by its chromedriver over WebDriver, which is JSON over HTTP."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import missing
from waiting import wait_until

APT_CHROMIUM = "apt-get install --no-install-recommends chromium chromium-driver"
STARTED = re.compile(r"started successfully on port (\d+)\.")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's name of a reference to one
START_S = 300.0
ATTEMPTS = 10
# As root there is no sandbox of the browser's own; all that it opens here is from this machine.
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"]


class Browser:
    """One window of a browser with a profile of its own."""

    def __init__(self, client: httpx.Client, downloads: Path) -> None:
        self._client = client
        self.downloads = downloads

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self._do("POST", "/url", url=url)

    @property
    def url(self) -> str:
        return str(self._do("GET", "/url"))

    @property
    def title(self) -> str:
        return str(self._do("GET", "/title"))

    @property
    def text(self) -> str:
        """What is to be seen of the page."""
        return str(self.evaluate("return document.body.innerText"))

    def evaluate(self, script: str) -> Any:
        return self._do("POST", "/execute/sync", script=script, args=[])

    def click(self, selector: str) -> None:
        """Click on what the CSS selector finds."""
        found = self._do("POST", "/element", using="css selector", value=selector)
        self._do("POST", f"/element/{found[ELEMENT]}/click")

    def width(self, pixels: int) -> None:
        """Look through a screen of that width, as a phone's."""
        size = {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": pixels < 600}
        self._do("POST", "/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=size)

    def complaints(self) -> list[str]:
        """Return what the console says since it was last asked: refused scripts and styles above all."""
        return [entry["message"] for entry in self._do("POST", "/se/log", type="browser")]

    def downloaded(self, name: str) -> bytes:
        """Wait for a download of that name; return its bytes."""
        file = self.downloads / name  # it gets its name when it is whole
        wait_until(file.exists, timeout_s=120, what=f"the download {name}")
        return file.read_bytes()

    def _do(self, method: str, path: str, **body: Any) -> Any:
        answer = self._client.request(method, path.lstrip("/"), json=body if method == "POST" else None)
        value = answer.json()["value"]
        if answer.status_code != 200:
            raise AssertionError(f"{path}: {value['error']}: {value['message'].splitlines()[0]}")
        return value


@contextlib.contextmanager
def browser(home: Path) -> Iterator[Browser]:
    """Run a browser whose profile and downloads are below `home`."""
    if shutil.which("chromedriver") is None or shutil.which("chromium") is None:
        missing("Chromium with its driver", APT_CHROMIUM)
    downloads = home / "downloads"
    downloads.mkdir(parents=True)
    with contextlib.ExitStack() as open_things, httpx.Client(timeout=START_S, trust_env=False) as client:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                base = open_things.enter_context(_driver(home / f"chromedriver-{attempt}.log"))
                client.base_url = _session(client, base, home / f"profile-{attempt}", downloads)
                break
            except (DidNotStart, httpx.HTTPError) as error:
                if attempt == ATTEMPTS:
                    pytest.fail(f"the browser did not start {ATTEMPTS} times: {error}")
        yield Browser(client, downloads)
        client.delete("")


class DidNotStart(Exception):
    """The driver or its browser ended at once: the port was taken on IPv4 or on IPv6, for example."""


@contextlib.contextmanager
def _driver(log: Path) -> Iterator[str]:
    """Run chromedriver on a port below those that the kernel gives to connections; yield its URL."""
    scratch = tempfile.mkdtemp(prefix="browser-")  # short: a socket of the browser lies below it
    with log.open("wb") as file:
        process = subprocess.Popen(
            # Not 0: it gets a free port of IPv6 then, and ends if that one is taken on IPv4 by some connection.
            ["chromedriver", f"--port={random.randrange(20_000, 32_000)}"],
            env={**os.environ, "TMPDIR": scratch},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )

    def port() -> str:
        found = STARTED.search(log.read_text(errors="replace"))
        if found is None and process.poll() is not None:
            raise DidNotStart(log.read_text(errors="replace")[-2000:])
        return found[1] if found else ""

    try:
        yield f"http://127.0.0.1:{wait_until(port, timeout_s=START_S, what='chromedriver to start')}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the browser is in the same group
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def _session(client: httpx.Client, base: str, profile: Path, downloads: Path) -> httpx.URL:
    """Have the driver start a browser; return the URL of the session."""
    options = {
        "args": [*ARGUMENTS, f"--user-data-dir={profile}"],
        "prefs": {"download.default_directory": str(downloads)},
    }
    wanted = {"goog:loggingPrefs": {"browser": "ALL"}, "goog:chromeOptions": options}
    answer = client.post(f"{base}/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
    if "sessionId" not in answer:
        raise DidNotStart(answer.get("message", answer))
    return httpx.URL(f"{base}/session/{answer['sessionId']}/")
