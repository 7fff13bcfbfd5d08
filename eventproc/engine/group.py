"""Group commit: small writes of many threads share transactions, because each commit costs more than the writes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from eventproc.abc import Store, Tx
from eventproc.engine.batches import Batches
from eventproc.errors import Unavailable

T = TypeVar("T")

_Op = tuple[Callable[[Tx], Any], "Future[Any]"]
_GROUP_TRIES = 3  # after so many transactions spoilt by one of their writes, the rest is written one by one


class GroupCommit:
    """
    Run functions of a transaction, several in one transaction where they come at the same time.

    A function that raises does not fail its neighbours: the transaction is rolled back and done again without it,
    and it is tried once more alone. So functions may be called more than once, and must do nothing but write through
    `tx`. Futures are done after the commit; a store that can not be used fails all that wait.
    """

    def __init__(self, store: Store, *, max_delay_s: float = 0.0, max_items: int = 200) -> None:
        self._store = store
        self._batches: Batches[_Op] = Batches(
            self._commit, name="group-commit", max_delay_s=max_delay_s, max_items=max_items
        )

    def submit(self, function: Callable[[Tx], T]) -> Future[T]:
        """Queue a write; the future holds what it returned once that is committed."""
        future: Future[T] = Future()
        self._batches.put((function, future))
        return future

    def run(self, function: Callable[[Tx], T], *, timeout_s: float | None = None) -> T:
        """Write and wait for the commit."""
        return self.submit(function).result(timeout_s)

    def close(self) -> None:
        """Write what waits, then end."""
        self._batches.stop()

    def _commit(self, ops: list[_Op]) -> None:
        waiting = [op for op in ops if op[1].set_running_or_notify_cancel()]
        alone: list[_Op] = []
        for _ in range(_GROUP_TRIES):
            if len(waiting) < 2:
                break
            spoiler = self._try_together(waiting)
            if spoiler is None:
                waiting = []
            else:
                alone.append(waiting.pop(spoiler))
        for op in [*waiting, *alone]:
            self._try_together([op])

    def _try_together(self, ops: list[_Op]) -> int | None:
        """Write all in one transaction and settle the futures; or return the place of the one that spoilt it."""
        at = 0
        results = []
        try:
            with self._store.begin() as tx:
                for at, (function, _) in enumerate(ops):  # noqa: B007 - read where a function raised
                    results.append(function(tx))
        except Unavailable as error:
            _fail(ops, error)
            return None
        except Exception as error:  # noqa: BLE001 - whatever a write raises is its caller's to see
            if len(ops) == 1:
                _fail(ops, error)
                return None
            # A commit that fails can not be pinned on one of them: the last will do, in the end all are alone.
            return at
        for (_, future), result in zip(ops, results, strict=True):
            future.set_result(result)
        return None


def _fail(ops: list[_Op], error: Exception) -> None:
    for _, future in ops:
        future.set_exception(error)
