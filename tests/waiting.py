"""Waiting for a condition instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], *, timeout_s: float = 30.0, what: str = "the condition") -> T:
    """Return the first true value of `predicate`; fail with `what` when none comes in time."""
    deadline = time.monotonic() + timeout_s
    pause = 0.002
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
