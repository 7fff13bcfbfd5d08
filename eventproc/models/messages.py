"""
What is told of models: events for handlers, and the messages of the results exchange, field for field htmengine's.

A message's body is `zlib.compress(json)`. Inference results have no headers, command results `dataType`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eventproc.model import SECOND_US, Metric, NewEvent, NewOutgoing
from eventproc.model.anomaly import Model
from eventproc.models.specs import DATASOURCE

SOURCE: Final = "models"
METRIC_DELETED: Final = "metric.deleted"
BATCH_DONE, DEFINED, DELETED = "inference.batch_done", "model.defined", "model.deleted"
DEFINE_FAILED, STATUS_CHANGED, BATCH_REJECTED = (
    "model.define_failed",
    "metric.status_changed",
    "inference.batch_rejected",
)
DEFINE, DELETE = "defineModel", "deleteModel"
SUCCESS, ERROR = 0, 1  # a command's status
COMMAND_TYPE: Final = "model-cmd-result"


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One scored sample."""

    rowid: int
    time_us: int
    value: float
    raw_score: float
    anomaly: float
    display_value: float
    predictions: Mapping[str, float] | None


def seconds(us: int) -> float | int:
    """Give a time as seconds since 1970 UTC, an integer where it is one."""
    whole, rest = divmod(us, SECOND_US)
    return us / SECOND_US if rest else whole


def metric_json(metric: Metric, model: Model) -> dict[str, Any]:
    """Describe a metric as htmengine's messages do."""
    return {
        "uid": metric.uid,
        "name": metric.name,
        "description": metric.description,
        "resource": metric.resource,
        "location": "",
        "datasource": DATASOURCE,
        "spec": model.spec.get("metricSpec"),
    }


# Events.


def event_tags(metric: Metric) -> tuple[str, ...]:
    """Give an event the metric's tags: handlers may be registered for some of them."""
    return tuple(f"{key}={value}" for key, value in sorted(metric.tags.items()))


def deleted_event(metric: Metric) -> NewEvent:
    """Make the event of a metric that was deleted."""
    described = {"uid": metric.uid, "name": metric.name, "resource": metric.resource, "tags": dict(metric.tags)}
    return NewEvent(
        hook=METRIC_DELETED,
        id=f"{METRIC_DELETED}:{metric.uid}",
        source=SOURCE,
        key=metric.uid,
        tags=event_tags(metric),
        payload={"metric": described, "samples": metric.last_rowid},
    )


def batch_event(metric: Metric, model: Model, rows: Sequence[ScoredRow], *, duration_s: float) -> NewEvent:
    """Make the event of a scored batch; its id says which rows of which model."""
    described = metric_json(metric, model)
    if metric.tags:
        described["tags"] = dict(metric.tags)
    first, last = rows[0].rowid, rows[-1].rowid
    return NewEvent(
        hook=BATCH_DONE,
        id=f"inference:{metric.uid}:{model.id}:{first}-{last}",
        source=SOURCE,
        time_us=None,
        key=metric.uid,
        tags=event_tags(metric),
        payload={
            "metric": described,
            "results": [
                {
                    "rowid": row.rowid,
                    "ts": seconds(row.time_us),
                    "value": row.value,
                    "raw_score": row.raw_score,
                    "anomaly": row.anomaly,
                    "display_value": row.display_value,
                    "predictions": None if row.predictions is None else dict(row.predictions),
                }
                for row in rows
            ],
            "row_range": [first, last],
            "tail_ts": seconds(rows[-1].time_us),
            "duration": round(duration_s, 6),
        },
    )


def model_event(hook: str, metric: Metric, model: Model, *, command_id: str, attempt: int = 0, **more: Any) -> NewEvent:
    """Make the event of a model that was defined or deleted, or could not be."""
    return NewEvent(
        hook=hook,
        id=f"{hook}:{command_id}:{attempt}" if attempt else f"{hook}:{command_id}",
        source=SOURCE,
        key=metric.uid,
        tags=event_tags(metric),
        payload={
            "modelId": metric.uid,
            "commandId": command_id,
            "modelInfo": {
                "metricName": metric.name,
                "resource": metric.resource,
                "modelSpec": dict(model.spec),
            },
            **more,
        },
    )


def metric_event(hook: str, metric: Metric, **more: Any) -> NewEvent:
    """Make an event of what happened to a metric."""
    return NewEvent(
        hook=hook,
        source=SOURCE,
        key=metric.uid,
        tags=event_tags(metric),
        payload={"metric": {"uid": metric.uid, "name": metric.name, "resource": metric.resource}, **more},
    )


def status_event(metric: Metric, *, before: int, after: int, message: str | None) -> NewEvent:
    """Make the event of a metric that went from one status to another."""
    return metric_event(STATUS_CHANGED, metric, old=before, new=after, message=message)


def rejected_event(metric: Metric, *, reason: str, rowids: Sequence[int]) -> NewEvent:
    """Make the event of rows whose scores were refused."""
    return metric_event(BATCH_REJECTED, metric, reason=reason, rowids=list(rowids))


# The results exchange.


def inference_message(metric: Metric, model: Model, rows: Sequence[ScoredRow]) -> dict[str, Any]:
    """Give exactly what htmengine publishes for a batch of results."""
    return {
        "metric": metric_json(metric, model),
        "results": [
            {
                "rowid": row.rowid,
                "ts": seconds(row.time_us),
                "value": row.value,
                "rawAnomaly": row.raw_score,
                "anomaly": row.anomaly,
                "multiStepBestPredictions": None if row.predictions is None else dict(row.predictions),
            }
            for row in rows
        ],
    }


def command_message(
    method: str, metric: Metric, model: Model, *, command_id: str, status: int = SUCCESS, error: str | None = None
) -> dict[str, Any]:
    """Give exactly what htmengine publishes for a command's result; `modelInfo` only for a model that was defined."""
    message: dict[str, Any] = {
        "method": method,
        "modelId": metric.uid,
        "commandId": command_id,
        "status": status,
        "errorMessage": error,
    }
    if method == DEFINE and status == SUCCESS:
        message["modelInfo"] = {
            "metricName": metric.name,
            "resource": metric.resource,
            "modelSpec": dict(model.spec),
        }
    return message


def pack(message: Mapping[str, Any]) -> bytes:
    """Write a message's body."""
    return zlib.compress(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode())


def unpack(body: bytes) -> dict[str, Any]:
    """Read a message's body, of ours or of htmengine's (which in older versions had no predictions)."""
    message: dict[str, Any] = json.loads(zlib.decompress(body))
    for row in message.get("results", ()):
        row.setdefault("multiStepBestPredictions", None)
    return message


def outgoing(exchange: str, message: Mapping[str, Any]) -> NewOutgoing:
    """Address a message to everybody who is bound to the results exchange."""
    headers = {"declare": "fanout", "app_id": "eventproc"}
    if "method" in message:
        headers["header.dataType"] = COMMAND_TYPE
    return NewOutgoing(kind="amqp", target=f"{exchange}/", body=pack(message), headers=headers)
