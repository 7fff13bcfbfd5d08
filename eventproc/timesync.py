"""
A clock that several hosts share: a small HTTP service that holds one time, and the clock that asks it.

`GET /time` answers the time as ISO 8601 text, empty while nobody has set it; `POST /time` sets it: the last one wins.
So a recorded day is played into a platform of several processes: who feeds the events publishes their times.
"""

from __future__ import annotations

import datetime as dt
import http.client
import http.server
import logging
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Self

from eventproc.abc import Clock
from eventproc.errors import ConfigError, Unavailable
from eventproc.model import from_datetime

log = logging.getLogger(__name__)

POLL_S = 0.5
TIMEOUT_S = 5.0
SILENT_S = 10.0  # without an answer, before the log says so
MAX_BODY = 100  # bytes of a time

Monotonic = Callable[[], float]


def parse_time(text: str) -> int | None:
    """Read a time (UTC unless it says otherwise) as microseconds; None for an empty text and "None"."""
    cleaned = text.strip()
    if cleaned in ("", "None"):
        return None
    return from_datetime(dt.datetime.fromisoformat(cleaned))


class TimeSyncClock(Clock):
    """
    The time of a time service, asked for ahead: `now_us` never touches the network, for it is called in transactions.

    A thread (`start`) asks every `poll_s`; what it was told last is the time until the next answer. While the service
    is gone or hangs, time stands still, and the log says so once. Before the first answer there is no time to go by,
    and `now_us` raises Unavailable.
    """

    def __init__(
        self, url: str, *, poll_s: float = POLL_S, timeout_s: float = TIMEOUT_S, monotonic: Monotonic = time.monotonic
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"the time service's address {url!r} must begin with http:// or https://")
        self._url = url.rstrip("/") + "/time"
        self._poll_s = poll_s
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._known_us: int | None = None
        self._told_at = monotonic()
        self._silent = False  # and the log has said so
        self._over = threading.Event()
        self._asked = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, *, wait_s: float = 0.0) -> Self:
        """Begin to ask; wait so long for the first answer, whatever it is."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._ask_on, name="timesync", daemon=True)
            self._thread.start()
        self._asked.wait(wait_s)
        return self

    def close(self) -> None:
        """Ask no more."""
        self._over.set()

    def now_us(self) -> int:
        """Return the time that was told last. Raises Unavailable while none was."""
        silent_s = self._monotonic() - self._told_at
        if silent_s > SILENT_S and not self._silent:
            self._silent = True
            log.warning("the time service at %s has not answered for %.0f s; time stands still", self._url, silent_s)
        if self._known_us is None:
            raise Unavailable(
                f"the time service at {self._url} has told no time yet; POST one there, or see whether it runs"
            )
        return self._known_us

    def ask(self) -> str | None:
        """Ask once, now; return what was wrong, None for nothing (it may have no time yet)."""
        try:
            with urllib.request.urlopen(self._url, timeout=self._timeout_s) as answer:  # noqa: S310 - checked above
                told = parse_time(answer.read(MAX_BODY).decode("utf-8", "replace"))
        except (OSError, ValueError, OverflowError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        self._told_at = self._monotonic()
        if self._silent:
            self._silent = False
            log.warning("the time service at %s answers again", self._url)
        if told is not None:
            self._known_us = told
        return None

    def _ask_on(self) -> None:
        wrong = None
        while not self._over.is_set():
            before, wrong = wrong, self.ask()
            self._asked.set()
            if wrong is not None and wrong != before:
                log.warning("the time service at %s: %s; time stands still", self._url, wrong)
            self._over.wait(self._poll_s)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TimeService

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/time" else 404, self.server.text if self.path == "/time" else "")

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(min(size, MAX_BODY + 1)).decode("utf-8", "replace")
        if self.path != "/time":
            self._answer(404, "")
            return
        try:
            parse_time(text)  # a text that was cut is none either
        except (ValueError, OverflowError):
            self._answer(400, f"{text[:MAX_BODY]!r} is no ISO 8601 time such as 2026-01-02T03:04:05Z\n")
            return
        self.server.text = text.strip()
        self._answer(200, "")

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: there is a request every second from everybody."""


class TimeService(http.server.ThreadingHTTPServer):
    """Holds one time and serves it until it is shut down."""

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.text = ""
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"
