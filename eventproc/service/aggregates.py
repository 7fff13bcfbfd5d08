"""Aggregates over metrics, the ranking of the most unusual, and parameters found for a stored metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from eventproc.abc import Tx
from eventproc.errors import Conflict, InvalidInput, NotFound
from eventproc.metrics.aggregates import members_of, new_metric
from eventproc.model import SECOND_US, Metric, Role, User
from eventproc.model.annotations import Aggregate, AggregateFunction, Ranked
from eventproc.scoring import Finding, find_parameters
from eventproc.scoring.finder import MOST_ROWS
from eventproc.service.context import ServiceContext
from eventproc.service.monitoring import check_metric_name, find_metric
from eventproc.service.rights import require, require_owner

MAX_PREVIEW: Final = 1000
LEAST_PERIOD_S, MOST_PERIOD_S = 1.0, 7 * 86_400.0
RANKING_HOURS: Final = (2, 24, 192)
MOST_HOURS: Final = 24 * 366
BARS: Final = 24  # of a ranking, whatever its length


class Aggregates:
    """Use cases around aggregates."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def all(self, principal: User) -> list[Aggregate]:
        require(principal, Role.VIEWER, "listing aggregates")
        with self._context.store.read() as tx:
            return tx.aggregates.all()

    def get(self, principal: User, name: str) -> Aggregate:
        require(principal, Role.VIEWER, "reading aggregates")
        with self._context.store.read() as tx:
            return _existing(tx, name)

    def preview(self, principal: User, *, pattern: str | None, tags: Mapping[str, str]) -> list[Metric]:
        """Return the metrics that an aggregate would be made of."""
        require(principal, Role.VIEWER, "listing metrics")
        _check_selector(pattern, tags)
        with self._context.store.read() as tx:
            return members_of(tx, pattern, dict(tags), but="", limit=MAX_PREVIEW)

    def add(
        self,
        principal: User,
        name: str,
        *,
        pattern: str | None = None,
        tags: Mapping[str, str] | None = None,
        function: str = "mean",
        period_s: float = 300.0,
        wait_s: float | None = None,
    ) -> Aggregate:
        """Make a metric of others; `wait_s` is a fifth of the period unless given."""
        require(principal, Role.DEVELOPER, "adding aggregates")
        _check_selector(pattern, tags or {})
        if not LEAST_PERIOD_S <= period_s <= MOST_PERIOD_S:
            raise InvalidInput(f"a period is 1 second to 7 days, not {period_s:g} s", field="period")
        wait_s = period_s / 5 if wait_s is None else wait_s
        if not 0 <= wait_s <= MOST_PERIOD_S:
            raise InvalidInput(f"the time to wait is 0 seconds to 7 days, not {wait_s:g} s", field="wait")
        new = Aggregate(
            name=check_metric_name(name),
            pattern=pattern or None,
            tags=dict(tags or {}),
            function=_function(function),
            period_us=round(period_s * SECOND_US),
            wait_us=round(wait_s * SECOND_US),
            created_us=self._context.clock.now_us(),
            owner_id=principal.id,
        )
        with self._context.store.begin() as tx:
            stored = tx.aggregates.add(new)
            if stored is None:
                raise Conflict(f"there is an aggregate {name!r} already", aggregate=name)
            metric, _ = tx.metrics.create([new_metric(stored)], now_us=new.created_us)[0]
            if metric.last_rowid:
                raise Conflict(
                    f"there is a metric {name!r} with samples of its own; choose another name", metric=metric.uid
                )
            self._context.audit(tx, principal, "aggregate.add", f"aggregate:{name}")
        return stored

    def pause(self, principal: User, name: str, *, paused: bool) -> Aggregate:
        require(principal, Role.DEVELOPER, "changing aggregates")
        with self._context.store.begin() as tx:
            _own(tx, principal, _existing(tx, name))
            tx.aggregates.pause(name, paused=paused)
            self._context.audit(tx, principal, "aggregate.pause" if paused else "aggregate.resume", f"aggregate:{name}")
            return _existing(tx, name)

    def delete(self, principal: User, name: str) -> None:
        """Delete an aggregate; the metric that it made stays, with its samples and its model."""
        require(principal, Role.DEVELOPER, "deleting aggregates")
        with self._context.store.begin() as tx:
            _own(tx, principal, _existing(tx, name))
            tx.aggregates.delete(name)
            self._context.audit(tx, principal, "aggregate.delete", f"aggregate:{name}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Who was most unusual in (start_us, end_us], the most unusual first."""

    hours: float
    start_us: int
    end_us: int
    metrics: list[Ranked]


class Anomalies:
    """Use cases around the ranking and the parameter finder."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def ranking(
        self,
        principal: User,
        *,
        hours: float = 24,
        end_us: int | None = None,
        by_resource: bool = False,
        limit: int = 100,
    ) -> Ranking:
        """Rank metrics (of each resource, the most unusual) up to `end_us`, else up to the newest sample."""
        require(principal, Role.VIEWER, "reading the ranking")
        with self._context.store.read() as tx:
            return rank(tx, hours=hours, end_us=end_us, by_resource=by_resource, limit=limit)

    def parameters(self, principal: User, which: str) -> Finding:
        """Find aggregation, use of the time of day and range for a stored metric."""
        require(principal, Role.VIEWER, "reading metrics")
        with self._context.store.read() as tx:
            metric = find_metric(tx, which)
            samples = tx.samples.query(metric.id, limit=MOST_ROWS, newest_first=True)
        times = np.array([sample.time_us for sample in samples], np.float64) / 1e6
        return find_parameters(times, np.array([sample.value for sample in samples], np.float64))


def rank(tx: Tx, *, hours: float, end_us: int | None, by_resource: bool, limit: int) -> Ranking:
    """Rank within a transaction; see `Anomalies.ranking`."""
    if not 0 < hours <= MOST_HOURS:
        raise InvalidInput(f"'hours' must be above 0 and at most {MOST_HOURS}, not {hours:g}", field="hours")
    end = end_us if end_us is not None else tx.ranking.newest_us()
    if end is None:
        return Ranking(hours=hours, start_us=0, end_us=0, metrics=[])
    span = round(hours * 3600 * SECOND_US)
    bar = max(1, span // BARS)
    found = list(tx.ranking.rank(start_us=end - span, end_us=end, bar_us=bar, limit=100_000 if by_resource else limit))
    if by_resource:
        first: dict[str, Ranked] = {}
        for one in found:
            first.setdefault(one.resource, one)
        found = list(first.values())[:limit]
    return Ranking(hours=hours, start_us=end - span, end_us=end, metrics=found)


def _existing(tx: Tx, name: str) -> Aggregate:
    found = tx.aggregates.get(name)
    if found is None:
        raise NotFound(f"there is no aggregate {name!r}", aggregate=name)
    return found


def _own(tx: Tx, principal: User, found: Aggregate) -> None:
    owner = tx.users.get(found.owner_id) if found.owner_id is not None else None
    name = owner.name if owner else "eventproc"
    require_owner(principal, owner_id=found.owner_id, owner=name, thing=f"aggregate {found.name!r}")


def _check_selector(pattern: str | None, tags: Mapping[str, str]) -> None:
    if not pattern and not tags:
        raise InvalidInput(
            "say which metrics: a 'pattern' over names such as 'web.*.cpu', 'tags' such as dc=e*, or both",
            field="pattern",
        )


def _function(name: str) -> AggregateFunction:
    try:
        return AggregateFunction(name)
    except ValueError:
        known = ", ".join(one.value for one in AggregateFunction)
        raise InvalidInput(f"no function is named {name!r}; there are {known}", field="function") from None
