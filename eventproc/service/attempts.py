"""
Failed logins: who tries keys that are not good is made to wait.

Keys have 256 bits of randomness and can not be guessed; waiting keeps those who try from loading the database, and from
filling logs. It must not shut out the others: a key that was good a while ago is looked at whatever its address or its
prefix have been used for since.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from eventproc.errors import TooManyLogins

FREE = {"address": 20, "prefix": 10}  # failures until the first wait
FIRST_WAIT_S = 1.0  # doubled with each further failure
MAX_WAIT_S = 60.0
FORGET_S = 600.0  # after the last failure
MAX_KEPT = 10_000  # addresses, prefixes and good keys that are remembered; the oldest go first

Name = tuple[str, str]  # kind, address or prefix


@dataclass(slots=True)
class _Failures:
    count: int
    last: float  # on the monotonic clock
    until: float


class Attempts:
    """Counts failed logins by address and by key prefix."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._failures: OrderedDict[Name, _Failures] = OrderedDict()
        self._good: OrderedDict[str, None] = OrderedDict()  # digests of keys
        self._lock = threading.Lock()

    def admit(self, digest: str, names: Iterable[Name]) -> None:
        """Raise TooManyLogins while one of the names has to wait, unless the key was good before."""
        now = self._monotonic()
        with self._lock:
            if digest in self._good:
                return
            waits = [found.until - now for name in names if (found := self._failures.get(name)) is not None]
        wait_s = max(waits, default=0.0)
        if wait_s > 0:
            seconds = math.ceil(wait_s)
            raise TooManyLogins(
                f"too many API keys that are not good were tried; the next one is looked at in {seconds} s",
                retry_after_s=seconds,
            )

    def failed(self, digest: str, names: Iterable[Name]) -> None:
        """Count a login that was refused."""
        now = self._monotonic()
        with self._lock:
            self._good.pop(digest, None)  # revoked since
            for name in names:
                found = self._failures.pop(name, None)
                if found is None or now - found.last > FORGET_S:
                    found = _Failures(0, now, now)
                found.count, found.last = found.count + 1, now
                over = found.count - FREE[name[0]]
                if over >= 0:
                    found.until = now + min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(over, 30))
                self._failures[name] = found
                _trim(self._failures)

    def succeeded(self, digest: str) -> None:
        """Remember a good key."""
        with self._lock:
            self._good[digest] = None
            self._good.move_to_end(digest)
            _trim(self._good)


def _trim(kept: OrderedDict[Any, Any]) -> None:
    while len(kept) > MAX_KEPT:
        kept.popitem(last=False)
