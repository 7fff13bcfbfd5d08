"""Threads that take tasks in turn."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from eventproc.model import Claim, Occupied

log = logging.getLogger(__name__)

Task = Sequence[Claim]


class Slots:
    """
    So many tasks at a time for one owner; each is a list of claims of one handler version.

    A quarter more, at least one, is there for other owners, so that nobody's long runs keep out all others.
    """

    def __init__(self, count: int, work: Callable[[Task], None], *, name: str, freed: Callable[[], None]) -> None:
        self.count = count
        self._all = count + max(1, count // 4)
        self._work = work
        self._freed = freed
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._claims = 0  # of tasks that wait or are under way
        self._busy = 0  # tasks that wait or are under way
        self._owners: Counter[int] = Counter()  # of those
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(self._all)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def free(self) -> int:
        """How many slots have nothing to do."""
        return max(0, self._all - self._busy)

    @property
    def backlog(self) -> int:
        """How many claims wait or are under way."""
        return self._claims

    def occupied(self) -> Occupied:
        """Return who has how many of the slots, and how many one may have."""
        with self._lock:
            return Occupied(by_owner=dict(self._owners), most=self.count)

    def put(self, task: Task) -> None:
        with self._lock:
            self._owners[task[0].owner_id] += 1
            self._claims += len(task)
            self._busy += 1
        self._tasks.put(task)

    def stop(self) -> None:
        """End each thread once nothing is left for it."""
        for _ in self._threads:
            self._tasks.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads; tell whether all have ended."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._work(task)
            except Exception:  # the slot lives on; the leases of what was lost here run out
                log.exception("a slot could not see %d runs to their end", len(task))
            with self._lock:
                self._claims -= len(task)
                self._busy -= 1
                self._owners[task[0].owner_id] -= 1
                self._owners += Counter()  # forgets those who have none
            self._freed()
