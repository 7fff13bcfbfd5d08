"""
Aggregates: metrics that are made of others, period by period, as samples of those come in.

A period is closed when a member has a sample that lies `wait` behind its end, or when nothing new has come for `wait`
and the clock is past it, too: so live samples, history and playback all give the same periods. A sample for a period
that is closed comes too late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import structlog

from eventproc.abc import Bus, Clock, Store, Tx
from eventproc.errors import EventprocError
from eventproc.model import Metric, NewMetric, SampleWindow
from eventproc.model.annotations import Aggregate, AggregateFunction

log = structlog.get_logger(__name__)

TOPIC: Final = "samples"
EVERY_S: Final = 2.0  # seconds between two looks
MAX_MEMBERS: Final = 10_000
MAX_PERIODS: Final = 500  # closed in one transaction
BACKFILL_US: Final = 14 * 86_400 * 1_000_000  # of what was stored before the aggregate was
_PAGE: Final = 1000


def members_of(
    tx: Tx, pattern: str | None, tags: dict[str, str], *, but: str, limit: int = MAX_MEMBERS
) -> list[Metric]:
    """Return the metrics that an aggregate is made of, by name."""
    found: list[Metric] = []
    after: str | None = None
    while len(found) < limit:
        page = tx.metrics.find(glob=pattern, tags=tags or None, after=after, limit=_PAGE)
        found += [metric for metric in page if metric.name != but]
        if len(page) < _PAGE:
            break
        after = page[-1].name
    return found[:limit]


class Aggregator:
    """Closes periods. Several may run: whoever is first moves an aggregate on."""

    def __init__(self, *, store: Store, clock: Clock, bus: Bus) -> None:
        self._store = store
        self._clock = clock
        self._bus = bus

    def tick(self) -> int:
        """Close all periods that can be closed; return how many were."""
        with self._store.read() as tx:
            wanted = [each for each in tx.aggregates.all() if not each.paused]
        closed = 0
        for each in wanted:
            try:
                while count := self._advance(each.name):
                    closed += count
            except EventprocError as error:  # the others go on
                log.warning("an aggregate waits", aggregate=each.name, reason=str(error))
        return closed

    def _advance(self, name: str) -> int:
        """Close periods of one aggregate; return how many."""
        now_us = self._clock.now_us()
        with self._store.read() as tx:
            found = tx.aggregates.get(name)
            if found is None or found.paused:
                return 0
            members = members_of(tx, found.pattern, dict(found.tags), but=found.name)
            moved = _looked(found, members, now_us)
            start, end = _span(tx, moved, members, now_us)
            points = _points(tx, moved, members, start, end) if end > start else []
        if end <= start and (moved.newest_us, moved.members) == (found.newest_us, found.members):
            return 0
        moved = replace(moved, next_us=max(start, end) if members and moved.newest_us is not None else moved.next_us)
        with self._store.begin() as tx:
            current = tx.aggregates.lock(found.id)
            if current is None or (current.next_us, current.newest_us) != (found.next_us, found.newest_us):
                return 0  # somebody else was quicker, or it was deleted
            late = self._store_points(tx, moved, points, now_us)
            message = f"{late} periods came behind samples that the metric has already" if late else None
            periods = (end - start) // moved.period_us if end > start else 0
            tx.aggregates.move(replace(moved, periods=moved.periods + periods, message=message))
        return periods

    def _store_points(self, tx: Tx, moved: Aggregate, points: Sequence[tuple[int, float]], now_us: int) -> int:
        """Store the periods' values; return how many were refused."""
        if not points:
            return 0
        metric, _ = tx.metrics.create([new_metric(moved)], now_us=now_us)[0]
        times, values = [time for time, _ in points], [value for _, value in points]
        result = tx.samples.add_batch([metric.id] * len(points), times, values)
        tx.after_commit(lambda: self._bus.wake(TOPIC))
        return len(points) - result.accepted


def new_metric(of: Aggregate) -> NewMetric:
    """Give the metric that an aggregate makes."""
    what = of.pattern or ", ".join(f"{key}={value}" for key, value in sorted(of.tags.items()))
    return NewMetric(name=of.name, description=f"{of.function.value} of {what}", owner_id=of.owner_id)


def _looked(found: Aggregate, members: Sequence[Metric], now_us: int) -> Aggregate:
    newest = max((metric.last_time_us for metric in members if metric.last_time_us is not None), default=None)
    seen = found.seen_us if newest == found.newest_us else now_us
    return replace(found, members=len(members), newest_us=newest, seen_us=seen)


def _span(tx: Tx, moved: Aggregate, members: Sequence[Metric], now_us: int) -> tuple[int, int]:
    """Return from where to where periods can be closed."""
    newest, period = moved.newest_us, moved.period_us
    if newest is None or moved.seen_us is None:
        return 0, 0
    start = moved.next_us if moved.next_us is not None else _first(tx, members, newest) // period * period
    end = (newest - moved.wait_us) // period * period
    if now_us - moved.seen_us >= moved.wait_us:
        end = max(end, min(newest // period * period + period, (now_us - moved.wait_us) // period * period))
    return start, min(end, start + MAX_PERIODS * period)


def _first(tx: Tx, members: Sequence[Metric], newest: int) -> int:
    firsts = [tx.samples.after(metric.id, 0, limit=1) for metric in members if metric.last_time_us is not None]
    first = min((rows[0].time_us for rows in firsts if rows), default=newest)
    return max(first, newest - BACKFILL_US)


def _points(tx: Tx, moved: Aggregate, members: Sequence[Metric], start: int, end: int) -> list[tuple[int, float]]:
    """Return time and value of each period that holds samples, in order."""
    values: dict[int, list[float]] = {}
    for metric in members:
        if metric.last_time_us is None or metric.last_time_us < start:
            continue
        for window in tx.samples.windows(metric.id, start, end, moved.period_us):
            values.setdefault(window.start_us, []).append(_share(moved.function, window))
    return [(time, _together(moved.function, found)) for time, found in sorted(values.items())]


def _share(function: AggregateFunction, window: SampleWindow) -> float:
    shares = {
        AggregateFunction.SUM: window.mean * window.count,
        AggregateFunction.MIN: window.min,
        AggregateFunction.MAX: window.max,
    }
    return shares.get(function, window.mean)


def _together(function: AggregateFunction, values: Sequence[float]) -> float:
    if function is AggregateFunction.COUNT:
        return float(len(values))
    if function is AggregateFunction.SUM:
        return sum(values)
    if function is AggregateFunction.MIN:
        return min(values)
    if function is AggregateFunction.MAX:
        return max(values)
    return sum(values) / len(values)
