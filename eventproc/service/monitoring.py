"""Monitoring: which metrics have a model, in which state, and what can be done about it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from eventproc.abc import Tx
from eventproc.errors import InvalidInput, MetricNotMonitored, NotFound, TooLarge
from eventproc.htm.places import compiling
from eventproc.metrics.names import parse_name
from eventproc.model import SECOND_US, Metric, MetricStatus, Role, User, from_datetime, isoformat
from eventproc.model.anomaly import Model
from eventproc.models import lifecycle
from eventproc.models.lifecycle import Teller
from eventproc.models.specs import ModelSpec, parse_spec
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require

EXPORT_DAYS: Final = 14
DAY_US: Final = 86_400 * SECOND_US
MAX_EXPORT: Final = 1_000_000  # samples
_ID_LENGTHS: Final = (32, 36)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelView:
    """A metric, its model if it has one, and its checkpoint (row, bytes)."""

    metric: Metric
    model: Model | None
    checkpoint: tuple[int, int] | None = None

    @property
    def status(self) -> MetricStatus:
        return MetricStatus(self.metric.status)

    @property
    def waiting(self) -> int:
        """Number of samples that are to be scored."""
        if self.metric.status == MetricStatus.UNMONITORED:
            return 0
        return max(0, self.metric.last_rowid - self.metric.scored_rowid)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelsStatus:
    """All models at a glance: metrics by status, samples that wait, and the workers with their shares of 64."""

    metrics: Mapping[str, int]
    waiting: int
    oldest: str | None  # the metric of those looked at that waits with the oldest sample
    workers: Mapping[str, int]
    compiling: bool  # on this machine: its models are slow until that is done


class Monitoring:
    """Use cases around models."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._teller = Teller(catalogue=context.catalogue, bus=context.bus, exchange=context.settings.results_exchange)

    @property
    def _now_us(self) -> int:
        return self._context.clock.now_us()

    # Looking.

    def get(self, principal: User, which: str) -> ModelView:
        """Return one metric with its model, by name or uid."""
        require(principal, Role.VIEWER, "reading models")
        with self._context.store.read() as tx:
            return _view(tx, find_metric(tx, which), full=True)

    def page(
        self,
        principal: User,
        *,
        status: str | None = None,
        name: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[ModelView]:
        """Return monitored metrics by name; `name` may be a glob, `status` one of the states' names."""
        require(principal, Role.VIEWER, "listing models")
        wanted = None if status is None else status_named(status)
        found: list[ModelView] = []
        with self._context.store.read() as tx:
            while len(found) < limit:
                page = tx.metrics.find(glob=name, status=wanted, after=after, limit=max(limit, 500))
                monitored = [metric for metric in page if wanted is not None or metric.status]
                found += _views(tx, monitored[: limit - len(found)])
                if len(page) < max(limit, 500):
                    break
                after = page[-1].name
        return found

    def status(self, principal: User) -> ModelsStatus:
        """Return all models at a glance."""
        require(principal, Role.VIEWER, "reading models")
        with self._context.store.read() as tx:
            counts = {MetricStatus(key).name: count for key, count in tx.metrics.counts().items() if key >= 0}
            waiting, oldest, after = 0, None, 0
            oldest_us = math.inf
            while page := tx.metrics.behind(MetricStatus.ACTIVE, after=after, limit=5000):
                waiting += sum(one.last_rowid - one.scored_rowid for one in page)
                first = min(page, key=lambda one: one.last_time_us)
                if first.last_time_us < oldest_us:
                    oldest, oldest_us = first.metric_id, first.last_time_us
                after = page[-1].metric_id
            metric = tx.metrics.get(oldest) if oldest is not None else None
            return ModelsStatus(
                metrics=counts,
                waiting=waiting,
                oldest=metric.name if metric else None,
                workers=tx.models.shares(),
                compiling=compiling(),
            )

    # Steps.

    def create(self, principal: User, name: str, *, resource: str | None = None) -> ModelView:
        """Create a metric without samples. Raises MetricAlreadyExists, which knows its uid."""
        require(principal, Role.DEVELOPER, "creating metrics")
        with self._context.store.begin() as tx:
            metric, new = self._create(tx, principal, name, resource=resource)
            if not new:
                raise lifecycle.already_exists(metric)
            self._context.audit(tx, principal, "metric.create", f"metric:{metric.name}")
            return _view(tx, metric)

    def monitor(self, principal: User, spec: Any) -> ModelView:
        """
        Give a metric a model; one that is named and not there is created.

        Raises InvalidInput and MetricAlreadyMonitored, which knows its uid.
        """
        require(principal, Role.DEVELOPER, "monitoring metrics")
        checked = parse_spec(spec)
        with self._context.store.begin() as tx:
            return self._monitor(tx, principal, checked)

    def _monitor(self, tx: Tx, principal: User, spec: ModelSpec) -> ModelView:
        if spec.uid is not None:
            metric = find_metric(tx, spec.uid)
        else:
            assert spec.metric is not None  # one of the two is there
            metric, _ = self._create(tx, principal, spec.metric, resource=spec.resource)
        metric = lifecycle.monitor(tx, self._teller, metric, spec, now_us=self._now_us, owner_id=principal.id)
        self._context.audit(tx, principal, "model.monitor", f"metric:{metric.name}")
        return _view(tx, metric)

    def _create(self, tx: Tx, principal: User, name: str, *, resource: str | None) -> tuple[Metric, bool]:
        named = parse_name(name)  # as samples name it: tags sorted
        known = tx.metrics.by_name(named.name)
        if known is not None:
            return known, False
        return tx.metrics.create([replace(named, resource=resource, owner_id=principal.id)], now_us=self._now_us)[0]

    def unmonitor(self, principal: User, which: str) -> ModelView:
        """Take a metric's model and its scores away. Raises MetricNotMonitored."""
        return self._step(principal, which, "model.unmonitor", lifecycle.unmonitor)

    def activate(self, principal: User, which: str) -> ModelView:
        """Do not wait for 288 samples. Raises StatisticsNotReady and MetricNotMonitored."""
        return self._step(principal, which, "model.activate", lifecycle.activate)

    def retry(self, principal: User, which: str, *, fresh: bool = False) -> ModelView:
        """Take a metric out of ERROR; what arrived meanwhile is scored. `fresh`: with a model that starts anew."""
        return self._step(principal, which, "model.retry", lifecycle.retry, fresh=fresh)

    def _step(self, principal: User, which: str, action: str, step: Any, **options: Any) -> ModelView:
        require(principal, Role.DEVELOPER, "changing models")
        with self._context.store.begin() as tx:
            metric = step(tx, self._teller, find_metric(tx, which), now_us=self._now_us, **options)
            self._context.audit(tx, principal, action, f"metric:{metric.name}", **options)
            return _view(tx, metric)

    def delete_metric(self, principal: User, which: str) -> Metric:
        """Delete a metric with its model and its samples."""
        require(principal, Role.DEVELOPER, "deleting metrics")
        with self._context.store.begin() as tx:
            metric = find_metric(tx, which)
            lifecycle.delete(tx, self._teller, metric, now_us=self._now_us)
            self._context.audit(tx, principal, "metric.delete", f"metric:{metric.name}")
        return metric

    # Export and import.

    def export(
        self,
        principal: User,
        which: str,
        *,
        days: float | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
    ) -> dict[str, Any]:
        """
        Return a model's specification and `data`: [value, time] of start <= time < end, else of the last days.

        :param days: before now, `EXPORT_DAYS` unless a start or an end is given; 0: all that there is
        """
        require(principal, Role.VIEWER, "exporting models")
        if start_us is None and end_us is None:
            start_us = self._days_ago_us(EXPORT_DAYS if days is None else days)
        elif days is not None:
            raise InvalidInput("give either days, which end now, or a start and an end", field="days")
        with self._context.store.read() as tx:
            metric = find_metric(tx, which)
            model = tx.models.of_metric(metric.id)
            if model is None:
                raise MetricNotMonitored(f"the metric {metric.name!r} is not monitored", uid=metric.uid)
            samples = tx.samples.query(metric.id, start_us=start_us, end_us=end_us, limit=MAX_EXPORT + 1)
        if len(samples) > MAX_EXPORT:
            raise TooLarge(f"these are more than {MAX_EXPORT:,} samples; ask for fewer days or a later start")
        return {**model.spec, "data": [[sample.value, isoformat(sample.time_us)] for sample in samples]}

    def _days_ago_us(self, days: float) -> int | None:
        if not math.isfinite(days) or days < 0:
            raise InvalidInput(f"days must be 0 or more, not {days!r}", field="days")
        return None if days == 0 else self._now_us - round(days * DAY_US)

    def import_(self, principal: User, exported: Any) -> ModelView:
        """
        Make a model of what `export` gave; its data are stored if the metric has no samples.

        A metric that is monitored already is returned as it is.
        """
        require(principal, Role.DEVELOPER, "importing models")
        if not isinstance(exported, Mapping):
            raise InvalidInput(f"an exported model is an object, not {exported!r:.100}")
        spec = parse_spec({key: value for key, value in exported.items() if key != "data"})
        times, values = _data(exported.get("data") or [])
        with self._context.store.begin() as tx:
            if spec.uid is not None:
                metric = find_metric(tx, spec.uid)
            else:
                metric, _ = self._create(tx, principal, spec.metric or "", resource=spec.resource)
            if metric.status != MetricStatus.UNMONITORED:
                return _view(tx, metric)
            if metric.last_rowid == 0 and times:
                tx.samples.add_batch([metric.id] * len(times), times, values)
            return self._monitor(tx, principal, spec)


def check_metric_name(name: str) -> str:
    """Return a metric's name as samples have it, its tags sorted; refuse one that no sample could come with."""
    return parse_name(name).name


def status_named(name: str) -> int:
    """Read a status by its name or number."""
    wanted = name.strip().upper()
    for status in MetricStatus:
        if wanted in (status.name, str(int(status))):
            return int(status)
    known = ", ".join(status.name for status in MetricStatus)
    raise InvalidInput(f"no status is named {name!r}; there are {known}", field="status")


def find_metric(tx: Tx, which: str) -> Metric:
    """Find a metric by uid or name, whose tags may be in any order. Raises NotFound, with near names."""
    metric = tx.metrics.by_uid(which) if len(which) in _ID_LENGTHS else None
    metric = metric or tx.metrics.by_name(_in_order(which))
    if metric is None:
        near = [one.name for one in tx.metrics.find(prefix=which[:4], limit=5)] if len(which) >= 4 else []
        hint = f"; did you mean: {', '.join(near)}" if near else ""
        raise NotFound(f"there is no metric {which!r}{hint}", metric=which, near=near)
    return metric


def _in_order(name: str) -> str:
    try:
        return parse_name(name).name
    except InvalidInput:
        return name  # no metric has it, and the answer is to quote it


def _view(tx: Tx, metric: Metric, *, full: bool = False) -> ModelView:
    sizes = tx.models.checkpoint_sizes([metric.id]) if full else {}
    return ModelView(metric=metric, model=tx.models.of_metric(metric.id), checkpoint=sizes.get(metric.id))


def _views(tx: Tx, metrics: Sequence[Metric]) -> list[ModelView]:
    models = tx.models.of_metrics([metric.id for metric in metrics])
    return [ModelView(metric=metric, model=models.get(metric.id)) for metric in metrics]


def _data(data: Any) -> tuple[list[int], list[float]]:
    """Read [value, time] pairs; a time is ISO-8601 or `YYYY-mm-dd HH:MM:SS`, UTC unless it says otherwise."""
    if not isinstance(data, list):
        raise InvalidInput("'data' must be a list of [value, time] pairs", field="data")
    times: list[int] = []
    values: list[float] = []
    for number, pair in enumerate(data):
        try:
            value, when = pair
            values.append(float(value))
            times.append(_time_us(when))
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidInput(f"'data' must be [value, time] pairs; number {number} is {pair!r:.100}") from error
        if not math.isfinite(values[-1]):
            raise InvalidInput(f"value {number} of 'data' is not finite", field="data")
    return times, values


def _time_us(when: Any) -> int:
    if isinstance(when, int | float) and not isinstance(when, bool):
        return round(when * SECOND_US)
    return from_datetime(dt.datetime.fromisoformat(str(when)))
