"""Clocks: the world's, and one that is set by hand."""

from __future__ import annotations

import threading
import time

from eventproc.abc import Clock
from eventproc.model import SECOND_US


class SystemClock(Clock):
    """The world's time."""

    def now_us(self) -> int:
        return time.time_ns() // 1000


class ManualClock(Clock):
    """Stands still until it is moved: for tests and for playing back a recorded day."""

    def __init__(self, now_us: int = 1_767_323_045_000_006) -> None:  # 2026-01-02T03:04:05.000006Z
        self._now_us = now_us
        self._lock = threading.Lock()

    def now_us(self) -> int:
        return self._now_us

    def set(self, now_us: int) -> None:
        with self._lock:
            self._now_us = now_us

    def advance(self, seconds: float) -> int:
        """Move forward and return the new time."""
        with self._lock:
            self._now_us += round(seconds * SECOND_US)
            return self._now_us
