"""What a handler's concurrency and rate limits leave over."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from sqlalchemy import bindparam, func, select, text

from eventproc.model import Options
from eventproc.store.base import Work
from eventproc.store.schema import LEASED, UNSUCCEEDED, rate_windows, runs

UNLIMITED: Final = 1 << 40

_LEASED = (
    select(runs.c.limit_key, func.count().label("leased"))
    .where(text(LEASED), text(UNSUCCEEDED), runs.c.handler_id + 0 == bindparam("handler_id"))
    .group_by(runs.c.limit_key)
)
_WINDOWS = select(rate_windows.c.rate_key, rate_windows.c.end_us, rate_windows.c.used).where(
    rate_windows.c.handler_id == bindparam("handler_id"), rate_windows.c.end_us > bindparam("now_us")
)
_WRITE = text(
    "INSERT INTO rate_windows (handler_id, rate_key, end_us, used) VALUES (:handler_id, :rate_key, :end_us, :used)"
    " ON CONFLICT (handler_id, rate_key) DO UPDATE SET end_us = excluded.end_us, used = excluded.used"
)


class Allowance:
    """
    Counts a handler's starts against its limits.

    A limit without key is kept under the key "". Keys that are used up are left out of the search for candidates.
    """

    def __init__(self, work: Work, options: Options, handler_id: int, now_us: int) -> None:
        self._work = work
        self._handler_id = handler_id
        self._now_us = now_us
        self._concurrency = options.concurrency
        self._rate = options.rate
        self._leased: Counter[str] = Counter()
        self._windows: dict[str, tuple[int, int]] = {}
        self._changed: set[str] = set()
        if self._concurrency is not None:
            for row in work.conn.execute(_LEASED, {"handler_id": handler_id}):
                self._leased[self._limit_key(row)] += row.leased
        if self._rate is not None:
            for row in work.conn.execute(_WINDOWS, {"handler_id": handler_id, "now_us": now_us}):
                self._windows[row.rate_key] = (row.end_us, row.used)

    def _limit_key(self, row: Any) -> str:
        keyed = self._concurrency is not None and self._concurrency.key is not None
        return (row.limit_key or "") if keyed else ""

    def _rate_key(self, row: Any) -> str:
        keyed = self._rate is not None and self._rate.key is not None
        return (row.rate_key or "") if keyed else ""

    @property
    def keyed(self) -> bool:
        """Tell whether a limit is kept for each value of a key."""
        return any(limit is not None and limit.key is not None for limit in (self._concurrency, self._rate))

    def most(self) -> int:
        """Return how many more starts the limits without key allow."""
        most = UNLIMITED
        if self._concurrency is not None and self._concurrency.key is None:
            most = self._concurrency.count - self._leased[""]
        if self._rate is not None and self._rate.key is None:
            most = min(most, self._rate.count - self._windows.get("", (0, 0))[1])
        return max(most, 0)

    def excluded(self) -> dict[str, list[str]]:
        """Return the keys that are used up."""
        limits: list[str] = []
        rates: list[str] = []
        if self._concurrency is not None and self._concurrency.key is not None:
            limits = [key for key, leased in self._leased.items() if leased >= self._concurrency.count]
        if self._rate is not None and self._rate.key is not None:
            rates = [key for key, (_, used) in self._windows.items() if used >= self._rate.count]
        return {"no_limits": limits, "no_rates": rates}

    def admit(self, row: Any) -> bool:
        """Count a start, or refuse it."""
        limit_key, rate_key = self._limit_key(row), self._rate_key(row)
        if self._concurrency is not None and self._leased[limit_key] >= self._concurrency.count:
            return False
        if self._rate is not None:
            end_us, used = self._windows.get(rate_key, (self._now_us + round(self._rate.per_s * 1_000_000), 0))
            if used >= self._rate.count:
                return False
            self._windows[rate_key] = (end_us, used + 1)
            self._changed.add(rate_key)
        if self._concurrency is not None:
            self._leased[limit_key] += 1
        return True

    def write(self) -> None:
        """Store the windows in which something started."""
        rows = [
            {"handler_id": self._handler_id, "rate_key": key, "end_us": end_us, "used": used}
            for key, (end_us, used) in sorted(self._windows.items())
            if key in self._changed
        ]
        if rows:
            self._work.conn.execute(_WRITE, rows)

    def full(self) -> bool:
        """Tell whether as many runs are leased as may be at a time."""
        limit = self._concurrency
        return limit is not None and limit.key is None and self._leased[""] >= limit.count

    def resumes_us(self) -> int | None:
        """Return when a limit without key lets runs start again, if it is a matter of time."""
        if self._rate is None or self._rate.key is not None:
            return None
        end_us, used = self._windows.get("", (0, 0))
        return end_us if used >= self._rate.count else None
