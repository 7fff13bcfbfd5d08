"""Metrics and samples over HTTP. A metric is named by its name (which may hold slashes) or its uid."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from eventproc.api import shapes
from eventproc.api.answers import TIME, Answer, Page, answers
from eventproc.api.deps import ERRORS, SECURED, Cases, Limit, Principal, use_cases
from eventproc.api.gate import KeyFirst, admitted
from eventproc.api.models import MAX_ID
from eventproc.api.prometheus import check_headers, parse_write_request
from eventproc.errors import InvalidInput
from eventproc.metrics.batch import Batch
from eventproc.model import SECOND_US, Metric, MetricStatus, Reject, Role, Sample, SampleWindow, isoformat
from eventproc.service.metrics import MAX_SAMPLES, MetricView

MAX_WIDTH_S = 1e11  # of a window: some 3,000 years

router = APIRouter(tags=["metrics"], route_class=KeyFirst)
push_router = APIRouter(tags=["metrics"], dependencies=SECURED, responses=ERRORS)

Start = Annotated[str | None, Query(description="ISO-8601, or seconds since 1970; this time belongs to it.")]
End = Annotated[str | None, Query(description="ISO-8601, or seconds since 1970; this time does not belong to it.")]


class MetricAnswer(Answer):
    uid: str
    name: str
    tags: dict[str, str]
    resource: str
    description: str
    unit: str
    status: str
    created_at: str = Field(description=TIME)
    accepted: int = Field(description="Samples ever stored; the newest one's rowid.")
    rejected: int = Field(description="Samples that were late or duplicates.")
    scored_rowid: int
    last_time: str | None = Field(description=TIME)


class StatisticsAnswer(Answer):
    count: int
    min: float
    max: float


class OneMetricAnswer(MetricAnswer):
    first_time: str | None
    statistics: StatisticsAnswer | None = Field(description="Over the samples that are stored.")


class SampleAnswer(Answer):
    rowid: int
    time: str = Field(description=TIME)
    timestamp: float = Field(description="The same in seconds since 1970, exact to the microsecond.")
    value: float
    raw_score: float | None
    anomaly: float | None
    display_value: float | None
    predictions: dict[str, Any] | None


class WindowAnswer(Answer):
    start: str
    timestamp: float
    count: int
    min: float
    mean: float
    max: float
    anomaly: float | None = Field(description="The highest one.")


class RejectAnswer(Answer):
    reason: str
    source: str
    metric: str
    count: int
    first_at: str
    last_at: str
    examples: list[str] = Field(description="The last ones.")


class RefusedSample(Answer):
    reason: str
    line: int = Field(description="Number of the line, from 1.")
    text: str


class PushAnswer(Answer):
    accepted: int
    rejected: dict[str, int] = Field(description="How many, by reason.")
    created: int = Field(description="New metrics.")
    examples: list[RefusedSample] = Field(description="Lines that could not be read, at most ten.")


def metric(value: Metric) -> dict[str, Any]:
    return {
        "uid": value.uid,
        "name": value.name,
        "tags": dict(value.tags),
        "resource": value.resource,
        "description": value.description,
        "unit": value.unit,
        "status": MetricStatus(value.status).name,
        "created_at": isoformat(value.created_us),
        "accepted": value.last_rowid,
        "rejected": value.rejected,
        "scored_rowid": value.scored_rowid,
        "last_time": shapes.time_or_none(value.last_time_us),
    }


def one_metric(view: MetricView) -> dict[str, Any]:
    found = view.statistics
    return {
        **metric(view.metric),
        "first_time": None if view.first is None else isoformat(view.first.time_us),
        "statistics": None if found is None else {"count": found.count, "min": found.min, "max": found.max},
    }


def sample(value: Sample) -> dict[str, Any]:
    return {
        "rowid": value.rowid,
        "time": isoformat(value.time_us),
        "timestamp": value.time_us / SECOND_US,
        "value": value.value,
        "raw_score": value.raw_score,
        "anomaly": value.anomaly_score,
        "display_value": value.display_value,
        "predictions": shapes.json_or_none(value.predictions_json),
    }


def window(value: SampleWindow) -> dict[str, Any]:
    return {
        "start": isoformat(value.start_us),
        "timestamp": value.start_us / SECOND_US,
        "count": value.count,
        "min": value.min,
        "mean": value.mean,
        "max": value.max,
        "anomaly": value.anomaly,
    }


def reject(value: Reject) -> dict[str, Any]:
    return {
        "reason": value.reason,
        "source": value.source,
        "metric": value.metric,
        "count": value.count,
        "first_at": isoformat(value.first_us),
        "last_at": isoformat(value.last_us),
        "examples": list(value.examples),
    }


def _tags(given: list[str] | None) -> dict[str, str] | None:
    found = {}
    for item in given or ():
        key, equal, value = item.partition("=")
        if not equal:
            raise InvalidInput(f"'tag' must be KEY=VALUE, not {item[:100]!r}", path="tag")
        found[key] = value
    return found or None


@router.get("/metrics", summary="List metrics, by name", responses=answers(Page[MetricAnswer]))
def metrics(
    principal: Principal,
    cases: Cases,
    name: Annotated[str | None, Query(description="A name, or a glob such as `web.*`.")] = None,
    *,
    prefix: str | None = None,
    tag: Annotated[list[str] | None, Query(description="KEY=VALUE, the value may be a glob; may be repeated.")] = None,
    resource: str | None = None,
    status: str | None = None,
    after: str | None = None,
    limit: Limit = 100,
) -> Response:
    found = cases.metrics.page(
        principal,
        glob=name,
        prefix=prefix,
        tags=_tags(tag),
        resource=resource,
        status=status,
        after=after,
        limit=limit,
    )
    return shapes.page(found, metric, limit=limit, cursor=lambda value: value.name)


@router.get("/samples", summary="Dump samples as Graphite lines", response_class=StreamingResponse)
def dump(
    principal: Principal,
    cases: Cases,
    name: Annotated[list[str] | None, Query(description="A name, uid or glob; may be repeated. None: all.")] = None,
    start: Start = None,
    end: End = None,
) -> Response:
    pieces = cases.metrics.dump(
        principal,
        name or [],
        start_us=shapes.parse_moment(start, "start"),
        end_us=shapes.parse_moment(end, "end"),
    )
    return StreamingResponse(pieces, media_type="text/plain; charset=us-ascii")


@router.get("/samples/rejected", summary="What was refused, the latest first", responses=answers(Page[RejectAnswer]))
def rejected(
    principal: Principal,
    cases: Cases,
    reason: str | None = None,
    *,
    metric: Annotated[str | None, Query(description="A name or a glob.")] = None,
    source: Annotated[str | None, Query(description="Such as `graphite tcp 10.0.0.7`, or a glob.")] = None,
    since: str | None = None,
    limit: Limit = 100,
) -> Response:
    found = cases.metrics.rejected(
        principal,
        reason=reason,
        metric=metric,
        source=source,
        since_us=shapes.parse_moment(since, "since"),
        limit=limit,
    )
    return shapes.everything(found, reject)


@router.get("/metrics/{which:path}/samples", summary="A metric's samples", responses=answers(Page[SampleAnswer]))
def samples(
    principal: Principal,
    cases: Cases,
    which: str,
    start: Start = None,
    end: End = None,
    *,
    min_score: Annotated[float | None, Query(ge=0, le=1)] = None,
    scored: bool = False,
    newest_first: bool = False,
    after: Annotated[int | None, Query(ge=0, le=MAX_ID, description="The `next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_SAMPLES)] = 1000,
) -> Response:
    found = cases.metrics.samples(
        principal,
        which,
        start_us=shapes.parse_moment(start, "start"),
        end_us=shapes.parse_moment(end, "end"),
        after=after,
        limit=limit,
        min_score=min_score,
        scored=scored,
        newest_first=newest_first,
    )
    return shapes.page(found, sample, limit=limit, cursor=lambda value: value.rowid)


@router.get(
    "/metrics/{which:path}/windows",
    summary="Minimum, mean and maximum over stretches of time",
    responses=answers(Page[WindowAnswer]),
)
def windows(
    principal: Principal,
    cases: Cases,
    which: str,
    *,
    width: Annotated[float, Query(gt=0, le=MAX_WIDTH_S, description="Seconds.")],
    start: Start = None,
    end: End = None,
) -> Response:
    found = cases.metrics.windows(
        principal,
        which,
        start_us=shapes.parse_moment(start, "start"),
        end_us=shapes.parse_moment(end, "end"),
        width_us=round(width * SECOND_US),
    )
    return shapes.everything(found, window)


@router.get("/metrics/{which:path}", summary="One metric", responses=answers(OneMetricAnswer))
def one(principal: Principal, cases: Cases, which: str) -> Response:
    return shapes.answer(one_metric(cases.metrics.get(principal, which)))


@push_router.post(
    "/metrics/samples",
    summary="Send samples",
    description="A sample in each line of the body: `name value timestamp` as Graphite has it (`text/plain`), or "
    '`{"name", "value", "time", "tags"}` (`application/json`, `application/x-ndjson`), also as one JSON array. '
    "Bad ones are refused singly.",
    responses=answers(PushAnswer),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        }
    },
)
async def push(
    request: Request,
    format: Annotated[str | None, Query(description="`lines` or `json`, whatever the content type says.")] = None,
) -> Response:
    cases = use_cases(request)
    principal = await admitted(request, Role.EMITTER, "sending samples")
    body = await request.body()
    kind = format or _kind(request.headers.get("content-type", ""), body)
    outcome, batch = await run_in_threadpool(cases.metrics.push, principal, body, kind=kind)
    shown = [{"reason": str(one.reason), "line": one.line + 1, "text": one.text} for one in batch.refusals[:10]]
    return shapes.answer(
        {
            "accepted": outcome.accepted,
            "rejected": dict(outcome.rejected),
            "created": outcome.created,
            "examples": shown,
        }
    )


def _kind(content_type: str, body: bytes) -> str:
    """Go by what the sender says; one that says nothing of its own, as curl does, may send either."""
    if "json" in content_type:
        return "json"
    return "json" if not content_type.startswith("text/") and body.lstrip()[:1] in (b"{", b"[") else "lines"


@push_router.post(
    "/metrics/prometheus/write",
    summary="Take samples from Prometheus' remote-write 1.0",
    description="A `WriteRequest` in protobuf, compressed by snappy. The answer comes once all is stored; samples that "
    "can not be are refused singly, see `/samples/rejected`.",
    status_code=204,
    response_class=Response,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/x-protobuf": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def prometheus_write(request: Request) -> Response:
    cases = use_cases(request)
    principal = await admitted(request, Role.EMITTER, "sending samples")
    body = await request.body()

    def read() -> Batch:
        check_headers(request.headers.get("content-type", ""), request.headers.get("content-encoding", ""))
        return parse_write_request(body)

    await run_in_threadpool(cases.metrics.push_read, principal, read, source="prometheus")
    return Response(status_code=204)
