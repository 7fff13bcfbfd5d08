"""Wake-ups between threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from eventproc.abc import Bus, Listener


class MemoryListener(Listener):
    def __init__(self, bus: MemoryBus, topics: Iterable[str]) -> None:
        self.topics = frozenset(topics)
        self._bus = bus
        self._woken: set[str] = set()
        self._changed = threading.Condition()
        self._closed = False

    def hear(self, topics: Iterable[str]) -> None:
        """Note the topics that we listen to."""
        ours = self.topics.intersection(topics)
        if ours:
            with self._changed:
                self._woken |= ours
                self._changed.notify_all()

    def wait(self, timeout_s: float) -> set[str]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._woken) or self._closed, max(0.0, timeout_s))
            woken, self._woken = self._woken, set()
        return woken

    def close(self) -> None:
        self._bus.forget(self)
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class MemoryBus(Bus):
    """The twin of `LocalBus` for one process: tests, and the users' test harness."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: tuple[MemoryListener, ...] = ()

    def wake(self, *topics: str) -> None:
        for listener in self._listeners:
            listener.hear(topics)

    def listen(self, *topics: str) -> MemoryListener:
        listener = MemoryListener(self, topics)
        with self._lock:
            self._listeners = (*self._listeners, listener)
        return listener

    def forget(self, listener: MemoryListener) -> None:
        """Stop waking that listener."""
        with self._lock:
            self._listeners = tuple(other for other in self._listeners if other is not listener)

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
