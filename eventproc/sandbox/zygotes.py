"""One zygote for each Python and environment that is needed; those that nobody needs any more are ended."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from eventproc.sandbox.launcher import Launcher

log = structlog.get_logger(__name__)

IDLE_S = 300.0  # a zygote that forked nothing for so long is ended
MAX_IDLE = 4  # more of them are ended at once, the one that was used least lately first
LOOK_S = 5.0

Key = tuple[str, str, bool]  # version of Python, digest of the environment ("" for none), whether on the full network


@dataclass(slots=True)
class _Kept:
    launcher: Launcher
    let_go: Callable[[], None]
    reserved: int = 0
    used_at: float = field(default_factory=time.monotonic)

    @property
    def busy(self) -> bool:
        return self.reserved > 0 or self.launcher.busy


class Zygotes:
    """Launchers by key."""

    def __init__(self, make: Callable[[Key], tuple[Launcher, Callable[[], None]]], *, idle_s: float = IDLE_S) -> None:
        self._make = make
        self._idle_s = idle_s
        self._kept: dict[Key, _Kept] = {}
        self._making: dict[Key, threading.Lock] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._reaper: threading.Thread | None = None

    @contextlib.contextmanager
    def using(self, key: Key) -> Iterator[Launcher]:
        """Give the launcher of that key, made if need be; it is not ended inside the block."""
        kept = self._reserve(key)
        try:
            yield kept.launcher
        finally:
            with self._lock:
                kept.reserved -= 1
                kept.used_at = time.monotonic()

    def _reserve(self, key: Key) -> _Kept:
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:  # packages may have to be installed first: only those wait who want the same
            with self._lock:
                kept = self._kept.get(key)
                if kept is not None:
                    kept.reserved += 1
                    return kept
            launcher, let_go = self._make(key)
            kept = _Kept(launcher, let_go, reserved=1)
            with self._lock:
                self._kept[key] = kept
                self._watch()
        return kept

    def _watch(self) -> None:
        if self._reaper is None or not self._reaper.is_alive():
            self._reaper = threading.Thread(target=self._reap_until_empty, name="zygotes", daemon=True)
            self._reaper.start()

    def _reap_until_empty(self) -> None:
        while not self._closed.wait(min(LOOK_S, self._idle_s)):
            self.reap()
            with self._lock:
                if not self._kept:
                    self._reaper = None
                    return

    def reap(self) -> None:
        """End those that are idle for long, and the surplus."""
        now = time.monotonic()
        with self._lock:
            for kept in self._kept.values():
                if kept.busy:
                    kept.used_at = now
            idle = sorted(
                ((key, kept) for key, kept in self._kept.items() if not kept.busy), key=lambda item: item[1].used_at
            )
            surplus = len(idle) - MAX_IDLE
            ended = [
                self._kept.pop(key)
                for index, (key, kept) in enumerate(idle)
                if index < surplus or now - kept.used_at > self._idle_s
            ]
        for kept in ended:
            _end(kept)

    def count(self) -> int:
        with self._lock:
            return len(self._kept)

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            kept, self._kept = list(self._kept.values()), {}
        for each in kept:
            _end(each)


def _end(kept: _Kept) -> None:
    kept.launcher.close()
    kept.let_go()
