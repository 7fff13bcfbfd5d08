"""
A clock that several hosts share: a small HTTP service that holds one time, and the clock that asks it.

`GET /time` answers the time as ISO 8601 text, empty while nobody has set it; `POST /time` sets it: the last one wins.
So a recorded day is played into a platform of several processes: who feeds the events publishes their times.
"""

from __future__ import annotations

import datetime as dt
import http.server
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from eventproc.abc import Clock
from eventproc.errors import ConfigError, Unavailable
from eventproc.model import from_datetime, isoformat

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
MAX_BODY = 100  # bytes of a time
FIRST_PAUSE_S = 0.2


def parse_time(text: str) -> int | None:
    """Read a time (UTC unless it says otherwise) as microseconds; None for an empty text and "None"."""
    cleaned = text.strip()
    if cleaned in ("", "None"):
        return None
    return from_datetime(dt.datetime.fromisoformat(cleaned))


class TimeSyncClock(Clock):
    """
    The time of a time service, asked for at most every `poll_s`; it stands still in between.

    While the service can not be reached the last known time stays. The first call waits until somebody has set a time,
    and raises Unavailable after `patience_s`.
    """

    def __init__(
        self,
        url: str,
        *,
        poll_s: float = 1.0,
        patience_s: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"the time service's address {url!r} must begin with http:// or https://")
        self._url = url.rstrip("/") + "/time"
        self._poll_s = poll_s
        self._patience_s = patience_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._known_us: int | None = None
        self._asked_at = float("-inf")
        self._lock = threading.Lock()

    def now_us(self) -> int:
        known = self._known_us
        if known is not None and self._monotonic() - self._asked_at < self._poll_s:
            return known
        with self._lock:
            if self._known_us is None:
                return self._wait()
            if self._monotonic() - self._asked_at >= self._poll_s:
                self._known_us = self._ask() or self._known_us
            return self._known_us

    def publish(self, now_us: int) -> None:
        """Set the service's time. Raises Unavailable."""
        request = urllib.request.Request(self._url, data=isoformat(now_us).encode(), method="POST")  # noqa: S310 - checked above
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - the same
                pass
        except OSError as error:
            raise Unavailable(f"the time service at {self._url} can not be reached: {error}") from error

    def _wait(self) -> int:
        until = self._monotonic() + self._patience_s
        while (found := self._ask()) is None:
            if self._monotonic() >= until:
                raise Unavailable(f"the time service at {self._url} has told no time for {self._patience_s:g} s")
            self._sleep(FIRST_PAUSE_S)
        self._known_us = found
        return found

    def _ask(self) -> int | None:
        self._asked_at = self._monotonic()
        try:
            with urllib.request.urlopen(self._url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the same
                return parse_time(answer.read(MAX_BODY).decode("utf-8", "replace"))
        except (OSError, ValueError, OverflowError) as error:
            log.warning("the time service at %s: %s; the time stands still", self._url, error)
            return None


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
