"""
The life of a metric's model, each step inside the caller's transaction, with the events and messages that tell of it.

UNMONITORED → (monitor) CREATE_PENDING or, without a range of values, PENDING_DATA → (288 samples, or activate)
CREATE_PENDING → (a worker defines it) ACTIVE. What fails for good is in ERROR: samples are stored on, and `retry`
goes back to where it was and scores them. `unmonitor` leads back to UNMONITORED from everywhere.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from eventproc.abc import Bus, Tx
from eventproc.engine.accept import accept_events
from eventproc.errors import (
    Conflict,
    EventprocError,
    InvalidInput,
    MetricAlreadyExists,
    MetricAlreadyMonitored,
    MetricNotMonitored,
    NotFound,
    StatisticsNotReady,
)
from eventproc.model import DETECTOR_HOOK, Metric, MetricStatus, NewEvent
from eventproc.model.anomaly import Model, NewModel
from eventproc.model.quiet import DEFINE_REQUESTED
from eventproc.models import messages
from eventproc.models.parameters import model_params
from eventproc.models.specs import RECORDS_NEEDED, USER, ModelSpec, estimate_range, parse_spec
from eventproc.registry.catalogue import Catalogue
from eventproc.registry.documents import hint

TOPIC: Final = "models"
WAITING: Final = (MetricStatus.PENDING_DATA, MetricStatus.CREATE_PENDING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Teller:
    """How steps tell of what they did: events always, messages where a results exchange is configured."""

    catalogue: Callable[[Tx], Catalogue]
    bus: Bus
    exchange: str | None = None

    def emit(self, tx: Tx, events: Sequence[NewEvent], *, now_us: int) -> None:
        """Accept events of ours. Raises the first refusal: nothing may be told of half."""
        if not events:
            return
        results = accept_events(
            tx, self.catalogue(tx), events, user_id=None, now_us=now_us, source=messages.SOURCE, bus=self.bus
        )
        for result in results:
            if isinstance(result, EventprocError):
                raise result

    def tell_listeners(self, tx: Tx, hook: str, events: Callable[[], Sequence[NewEvent]], *, now_us: int) -> None:
        """Emit events that are made only where a handler or a trigger asks for that hook."""
        if self.catalogue(tx).wanted(hook):
            self.emit(tx, events(), now_us=now_us)

    def command(
        self,
        tx: Tx,
        method: str,
        metric: Metric,
        model: Model,
        *,
        command_id: str,
        now_us: int,
        status: int = messages.SUCCESS,
        error: str | None = None,
    ) -> None:
        """Publish a command's result."""
        if self.exchange is not None:
            message = messages.command_message(method, metric, model, command_id=command_id, status=status, error=error)
            tx.outbox.add([messages.outgoing(self.exchange, message)], now_us=now_us)
            tx.after_commit(lambda: self.bus.wake("outbox"))


def new_command_id() -> str:
    return uuid.uuid4().hex


def already_exists(metric: Metric) -> MetricAlreadyExists:
    return MetricAlreadyExists(f"there is a metric {metric.name!r} already", uid=metric.uid, metric=metric.name)


def _locked(tx: Tx, metric: Metric) -> Metric:
    found = tx.metrics.lock(metric.id)
    if found is None:
        raise NotFound(f"the metric {metric.name!r} was deleted a moment ago", metric=metric.name)
    return found


def _model(tx: Tx, metric: Metric) -> Model:
    model = tx.models.of_metric(metric.id)
    if model is None or metric.status == MetricStatus.UNMONITORED:
        raise MetricNotMonitored(f"the metric {metric.name!r} is not monitored", uid=metric.uid, metric=metric.name)
    return model


def _first_row(tx: Tx, metric: Metric) -> int:
    """Give the first row that is left, or the next one."""
    first = tx.samples.after(metric.id, 0, limit=1)
    return first[0].rowid if first else metric.last_rowid + 1


def move(
    tx: Tx, teller: Teller, metric: Metric, status: MetricStatus, *, now_us: int, message: str | None = None
) -> Metric:
    """Change a locked metric's status and tell of it."""
    tx.metrics.set_status(metric.id, status)
    if status != metric.status:
        teller.emit(
            tx,
            [messages.status_event(metric, before=metric.status, after=status, message=message)],
            now_us=now_us,
        )
    return replace(metric, status=status)


def estimated(tx: Tx, metric: Metric, spec: ModelSpec, *, needed: int = RECORDS_NEEDED) -> dict[str, object] | None:
    """Give a model's parameters with the range of all stored samples; None where there are too few of them."""
    known = tx.samples.statistics(metric.id)
    if known is None or known.count < needed:
        return None
    return model_params(spec, *estimate_range(known.min, known.max))


def pinned(tx: Tx, params: dict[str, Any]) -> dict[str, Any]:
    """Say which version of a user's detector it is: the current one, also when there are newer ones later."""
    detector = params["detector"]
    name = str(detector["name"])
    if not name.startswith(USER):
        return params
    record = tx.handlers.find(DETECTOR_HOOK, name.removeprefix(USER))
    if record is None:
        there = [USER + each.name for each in tx.handlers.live(DETECTOR_HOOK)]
        raise InvalidInput(f"no detector is registered as {name!r}; {hint(name, there)}", field="options.detector")
    return {**params, "detector": {**detector, "handler": record.id, "version": record.current.version}}


def monitor(
    tx: Tx, teller: Teller, metric: Metric, spec: ModelSpec, *, now_us: int, owner_id: int | None = None
) -> Metric:
    """
    Give a metric a model; all stored samples will be scored. Returns the metric as it then stands.

    Raises MetricAlreadyMonitored, and InvalidInput for parameters that can not be.
    """
    metric = _locked(tx, metric)
    if metric.status != MetricStatus.UNMONITORED:
        raise MetricAlreadyMonitored(
            f"the metric {metric.name!r} is monitored already", uid=metric.uid, metric=metric.name
        )
    params = pinned(tx, model_params(spec)) if spec.ready else estimated(tx, metric, spec)
    if params is None:
        model_params(spec, 0.0, 1.0)  # what can not be is refused now, not when there is enough data
    if spec.resource is not None:
        tx.metrics.update(metric.id, resource=spec.resource)
        metric = replace(metric, resource=spec.resource)
    origin = _first_row(tx, metric) - 1
    model = tx.models.put(
        NewModel(
            metric_id=metric.id,
            spec=spec.canonical(metric.name),
            params=params,
            command_id=new_command_id(),
            owner_id=owner_id,
            origin_rowid=origin,
        ),
        now_us=now_us,
    )
    tx.metrics.set_scored([(metric.id, origin)])
    teller.tell_listeners(
        tx,
        DEFINE_REQUESTED,
        lambda: [messages.model_event(DEFINE_REQUESTED, metric, model, command_id=model.command_id)],
        now_us=now_us,
    )
    status = MetricStatus.PENDING_DATA if params is None else MetricStatus.CREATE_PENDING
    tx.after_commit(lambda: teller.bus.wake(TOPIC))
    return move(tx, teller, replace(metric, scored_rowid=origin), status, now_us=now_us)


def activate(tx: Tx, teller: Teller, metric: Metric, *, now_us: int, needed: int = 1) -> Metric:
    """
    Estimate the range of values from the samples that there are, instead of waiting for 288.

    One that is past that is left as it is. Raises StatisticsNotReady and MetricNotMonitored.
    """
    metric = _locked(tx, metric)
    model = _model(tx, metric)
    if metric.status == MetricStatus.ERROR:
        raise Conflict(
            f"the model of {metric.name!r} is in ERROR: {model.message}; `eventproc models retry` goes on with it",
            uid=metric.uid,
        )
    if metric.status != MetricStatus.PENDING_DATA:
        return metric
    params = estimated(tx, metric, parse_spec(model.spec), needed=needed)
    if params is None:
        raise StatisticsNotReady(
            f"the metric {metric.name!r} has {'no' if needed <= 1 else 'too few'} samples yet, so that nothing is "
            "known of its values: send some, or give min and max",
            uid=metric.uid,
        )
    tx.models.set_params(metric.id, params)
    tx.after_commit(lambda: teller.bus.wake(TOPIC))
    return move(tx, teller, metric, MetricStatus.CREATE_PENDING, now_us=now_us)


def defined(tx: Tx, teller: Teller, metric: Metric, model: Model, *, now_us: int) -> bool:
    """Note that a model was made; False if the metric is not waiting for this very model any more."""
    found = tx.metrics.lock(metric.id)
    current = tx.models.of_metric(metric.id)
    if found is None or found.status != MetricStatus.CREATE_PENDING or current is None or current.id != model.id:
        return False
    tx.models.set_defined(metric.id, now_us=now_us)
    move(tx, teller, found, MetricStatus.ACTIVE, now_us=now_us)
    event = messages.model_event(messages.DEFINED, found, current, command_id=current.command_id)
    teller.emit(tx, [event], now_us=now_us)
    teller.command(tx, messages.DEFINE, found, current, command_id=current.command_id, now_us=now_us)
    return True


def define_failed(tx: Tx, teller: Teller, metric: Metric, model: Model, *, error: str, now_us: int) -> bool:
    """Note that a model could not be made: the metric is in ERROR, from which `retry` leads out."""
    found = tx.metrics.lock(metric.id)
    current = tx.models.of_metric(metric.id)
    if found is None or found.status != MetricStatus.CREATE_PENDING or current is None or current.id != model.id:
        return False
    fail(tx, teller, found, message=error, now_us=now_us)
    command_id = current.command_id
    event = messages.model_event(
        messages.DEFINE_FAILED,
        found,
        current,
        command_id=command_id,
        attempt=current.failures + 1,
        errorMessage=error,
    )
    teller.emit(tx, [event], now_us=now_us)
    teller.command(
        tx,
        messages.DEFINE,
        found,
        current,
        command_id=command_id,
        now_us=now_us,
        status=messages.ERROR,
        error=error,
    )
    return True


def fail(tx: Tx, teller: Teller, metric: Metric, *, message: str, now_us: int) -> Metric:
    """Put a locked metric into ERROR. Its samples are stored on."""
    tx.models.failed(metric.id, message=message, retry_us=None)
    return move(tx, teller, metric, MetricStatus.ERROR, now_us=now_us, message=message)


def retry(tx: Tx, teller: Teller, metric: Metric, *, now_us: int, fresh: bool = False) -> Metric:
    """
    Take a metric out of ERROR: everything that arrived meanwhile is scored.

    `fresh` gives up what the model has learnt and trains a new one on the samples that are left; scores that are there
    stay. Raises MetricNotMonitored, and Conflict for one that is not in ERROR (unless `fresh`).
    """
    metric = _locked(tx, metric)
    model = _model(tx, metric)
    if metric.status != MetricStatus.ERROR and not fresh:
        raise Conflict(
            f"the model of {metric.name!r} is not in ERROR but in {MetricStatus(metric.status).name}", uid=metric.uid
        )
    if metric.status in WAITING:
        return metric
    if fresh:
        tx.models.begin_anew(metric.id, origin_rowid=_first_row(tx, metric) - 1)
        if model.params is not None:
            tx.models.set_params(metric.id, pinned(tx, dict(model.params)))
    tx.models.renew(metric.id, undefine=model.defined_us is None)
    tx.after_commit(lambda: teller.bus.wake(TOPIC))
    if model.defined_us is not None:
        return move(tx, teller, metric, MetricStatus.ACTIVE, now_us=now_us)
    if model.params is None:
        return move(tx, teller, metric, MetricStatus.PENDING_DATA, now_us=now_us)
    return move(tx, teller, metric, MetricStatus.CREATE_PENDING, now_us=now_us)


def unmonitor(tx: Tx, teller: Teller, metric: Metric, *, now_us: int) -> Metric:
    """
    Take a metric's model away, and the scores of its samples; the samples stay.

    Raises MetricNotMonitored.
    """
    metric = _locked(tx, metric)
    model = _model(tx, metric)
    tx.samples.clear_scores(metric.id)
    tx.metrics.set_scored([(metric.id, 0)])
    tx.models.delete(metric.id)
    command_id = new_command_id()
    event = messages.model_event(messages.DELETED, metric, model, command_id=command_id)
    teller.emit(tx, [event], now_us=now_us)
    teller.command(tx, messages.DELETE, metric, model, command_id=command_id, now_us=now_us)
    tx.after_commit(lambda: teller.bus.wake(TOPIC))
    return move(tx, teller, replace(metric, scored_rowid=0), MetricStatus.UNMONITORED, now_us=now_us)


def delete(tx: Tx, teller: Teller, metric: Metric, *, now_us: int) -> None:
    """Delete a metric with its model and its samples."""
    metric = _locked(tx, metric)
    if metric.status != MetricStatus.UNMONITORED:
        metric = unmonitor(tx, teller, metric, now_us=now_us)
    tx.metrics.delete(metric.id)
    teller.emit(tx, [messages.deleted_event(metric)], now_us=now_us)
