"""A thread that handles what many threads put in, many items at a time."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from eventproc.errors import Unavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

_LONGEST_PAUSES = 5  # times `max_delay_s` that a pause may grow to


class Batches(Generic[T]):
    """
    Hand items to `handle` in lists, in order, from one thread of its own.

    An item that comes while nothing was handled for `max_delay_s` is handled at once. In a stream of items there is
    at least so much time between two lists, so that fewer and longer ones result. The thread starts with the first
    item: a process that forks before has nothing to lose.

    Where handling a list takes longer than `max_delay_s`, as over a network, the pause grows with it: what is handed
    over costs mostly by the list, and its senders have the processor meanwhile.
    """

    def __init__(
        self, handle: Callable[[list[T]], None], *, name: str, max_delay_s: float = 0.0, max_items: int = 500
    ) -> None:
        self._handle = handle
        self._name = name
        self._max_delay_s = max_delay_s
        self._max_items = max_items
        self._items: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def put(self, item: T) -> None:
        """Queue an item. Raises Unavailable after `stop`."""
        with self._lock:
            if self._stopped:
                raise Unavailable(f"{self._name} is stopped")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._items.put(item)

    def stop(self) -> None:
        """Handle what is there, then end; idempotent."""
        with self._lock:
            thread, stopped = self._thread, self._stopped
            self._stopped = True
            if thread is not None and not stopped:
                self._items.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        ready_at = 0.0
        while (first := self._items.get()) is not None:
            batch, ended = self._collect(first, ready_at)
            began = time.monotonic()
            try:
                self._handle(batch)
            except Exception:  # the thread serves everybody: one fault must not end it
                log.exception("%s: %d items could not be handled", self._name, len(batch))
            now = time.monotonic()
            pause_s = min(max(self._max_delay_s, now - began), _LONGEST_PAUSES * self._max_delay_s)
            ready_at = now + pause_s
            if ended:
                return

    def _collect(self, first: T, ready_at: float) -> tuple[list[T], bool]:
        batch = [first]
        wait_s = ready_at - time.monotonic()
        if wait_s > 0 and self._items.qsize() < self._max_items:
            # Asleep, not waiting at the queue: each item would wake this thread, and cost its sender more than itself.
            time.sleep(wait_s)
        while len(batch) < self._max_items:
            try:
                item = self._items.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False
