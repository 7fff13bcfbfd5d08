"""Annotations, aggregates, the ranking of the most unusual metrics, and the parameter finder."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.answers import TIME, Answer, Page, answers
from eventproc.api.deps import After, Cases, Limit, Principal, keyset
from eventproc.api.gate import KeyFirst
from eventproc.api.models import Body
from eventproc.errors import InvalidInput
from eventproc.model import SECOND_US, from_datetime, isoformat
from eventproc.model.annotations import Aggregate, Annotation, AnnotationFilter
from eventproc.model.times import checked
from eventproc.registry.durations import parse_duration
from eventproc.service.aggregates import RANKING_HOURS, Ranking

router = APIRouter(route_class=KeyFirst)


class AnnotationIn(Body):
    timestamp: str | float = Field(description="When it was: ISO-8601, or seconds since 1970 UTC.")
    server: str = Field(description="A metric's resource.")
    device: str = ""
    user: str | None = Field(default=None, description="Who says so; else the key's owner.")
    metric: str | None = Field(default=None, description="A metric's name or uid.")
    message: str | None = None
    data: dict[str, Any] | None = None


class AnnotationChange(Body):
    timestamp: str | float | None = None
    server: str | None = None
    device: str | None = None
    user: str | None = None
    metric: str | None = None
    message: str | None = None
    data: dict[str, Any] | None = None


class AnnotationAnswer(Answer):
    uid: str
    timestamp: str = Field(description=TIME)
    created: str = Field(description=TIME)
    updated: str = Field(description=TIME)
    device: str
    user: str
    server: str
    metric: str | None
    message: str | None
    data: dict[str, Any] | None


class AggregateIn(Body):
    pattern: str | None = Field(default=None, description="Glob over the names of metrics.")
    tags: dict[str, str] = Field(default_factory=dict, description="Tags of metrics; a value may be a glob.")
    function: str = Field(default="mean", description="mean, sum, count, min, max")
    period: float | str = Field(default=300.0, description="Seconds, or `5m`.")
    wait: float | str | None = Field(default=None, description="For late members; a fifth of the period unless given.")


class PausedIn(Body):
    paused: bool


class AggregateAnswer(Answer):
    name: str
    pattern: str | None
    tags: dict[str, str]
    function: str
    period_s: float
    wait_s: float
    paused: bool
    created_at: str
    members: int
    periods: int = Field(description="Closed so far.")
    next_at: str | None = Field(description="Beginning of the open period.")
    message: str | None


class MemberAnswer(Answer):
    uid: str
    name: str
    resource: str


class RankedAnswer(Answer):
    uid: str
    name: str
    resource: str
    score: float = Field(description="Sum over 24 bars of each one's highest display value.")
    anomaly: float = Field(description="Highest anomaly likelihood.")
    rows: int = Field(description="Samples at 0.9 or above.")
    last_at: str


class RankingAnswer(Answer):
    hours: float
    start_at: str | None
    end_at: str | None
    items: list[RankedAnswer]


def annotation(value: Annotation) -> dict[str, Any]:
    return {
        "uid": value.uid,
        "timestamp": isoformat(value.time_us),
        "created": isoformat(value.created_us),
        "updated": isoformat(value.updated_us),
        "device": value.device,
        "user": value.user,
        "server": value.server,
        "metric": value.metric,
        "message": value.message,
        "data": None if value.data is None else dict(value.data),
    }


def aggregate(value: Aggregate) -> dict[str, Any]:
    return {
        "name": value.name,
        "pattern": value.pattern,
        "tags": dict(value.tags),
        "function": value.function.value,
        "period_s": value.period_us / SECOND_US,
        "wait_s": value.wait_us / SECOND_US,
        "paused": value.paused,
        "created_at": isoformat(value.created_us),
        "members": value.members,
        "periods": value.periods,
        "next_at": shapes.time_or_none(value.next_us),
        "message": value.message,
    }


def ranking(value: Ranking) -> dict[str, Any]:
    return {
        "hours": value.hours,
        "start_at": isoformat(value.start_us) if value.end_us else None,
        "end_at": isoformat(value.end_us) if value.end_us else None,
        "items": [
            {
                "uid": one.uid,
                "name": one.name,
                "resource": one.resource,
                "score": one.score,
                "anomaly": one.worst,
                "rows": one.rows,
                "last_at": isoformat(one.last_us),
            }
            for one in value.metrics
        ],
    }


def _time_us(given: str | float, name: str) -> int:
    try:
        if isinstance(given, str):
            return checked(from_datetime(dt.datetime.fromisoformat(given)))
        return from_datetime(dt.datetime.fromtimestamp(given, dt.UTC))
    except (ValueError, OverflowError, OSError):
        raise InvalidInput(
            f"{name!r} must be an ISO time or seconds since 1970, not {given!r:.60}", path=name
        ) from None


@router.get("/annotations", tags=["annotations"], summary="List annotations", responses=answers(Page[AnnotationAnswer]))
def annotations_(
    principal: Principal,
    cases: Cases,
    *,
    device: str | None = None,
    user: str | None = None,
    server: str | None = None,
    metric: str | None = None,
    start: Annotated[str | None, Query(alias="from", description="ISO-8601")] = None,
    end: Annotated[str | None, Query(alias="to", description="ISO-8601; not itself")] = None,
    after: After = None,
    limit: Limit = 100,
) -> Response:
    which = AnnotationFilter(
        device=device,
        user=user,
        server=server,
        metric=metric,
        start_us=shapes.parse_time(start, "from"),
        end_us=shapes.parse_time(end, "to"),
    )
    found = cases.annotations.page(principal, which, after=keyset(after), limit=limit)
    return shapes.page(found, annotation, limit=limit, cursor=lambda one: one.id)


@router.post(
    "/annotations",
    tags=["annotations"],
    summary="Add an annotation",
    status_code=201,
    responses=answers(AnnotationAnswer, status=201),
)
def add_annotation(principal: Principal, cases: Cases, body: AnnotationIn) -> Response:
    given = body.model_dump(exclude={"timestamp"})
    added = cases.annotations.add(principal, time_us=_time_us(body.timestamp, "timestamp"), **given)
    return shapes.answer(annotation(added), status=201)


@router.get("/annotations/{uid}", tags=["annotations"], summary="One annotation", responses=answers(AnnotationAnswer))
def one_annotation(principal: Principal, cases: Cases, uid: str) -> Response:
    return shapes.answer(annotation(cases.annotations.get(principal, uid)))


@router.patch(
    "/annotations/{uid}", tags=["annotations"], summary="Change an annotation", responses=answers(AnnotationAnswer)
)
def change_annotation(principal: Principal, cases: Cases, uid: str, body: AnnotationChange) -> Response:
    changes = body.model_dump(exclude_unset=True)
    when = changes.pop("timestamp", None)
    if when is not None:
        changes["time_us"] = _time_us(when, "timestamp")
    for name in ("server", "device", "user"):
        if changes.get(name, "") is None:
            del changes[name]
    return shapes.answer(annotation(cases.annotations.change(principal, uid, changes)))


@router.delete("/annotations/{uid}", tags=["annotations"], summary="Delete an annotation")
def delete_annotation(principal: Principal, cases: Cases, uid: str) -> Response:
    cases.annotations.delete(principal, uid)
    return shapes.answer({"uid": uid, "deleted": True})


@router.get("/aggregates", tags=["aggregates"], summary="List aggregates", responses=answers(Page[AggregateAnswer]))
def aggregates_(principal: Principal, cases: Cases) -> Response:
    return shapes.everything(cases.aggregates.all(principal), aggregate)


@router.post(
    "/aggregate-previews",
    tags=["aggregates"],
    summary="List the metrics an aggregate would be made of",
    responses=answers(Page[MemberAnswer]),
)
def preview(principal: Principal, cases: Cases, body: AggregateIn) -> Response:
    found = cases.aggregates.preview(principal, pattern=body.pattern, tags=body.tags)
    return shapes.everything(found, lambda one: {"uid": one.uid, "name": one.name, "resource": one.resource})


@router.put(
    "/aggregates/{name:path}",
    tags=["aggregates"],
    summary="Make a metric of others",
    status_code=201,
    responses=answers(AggregateAnswer, status=201),
)
def add_aggregate(principal: Principal, cases: Cases, name: str, body: AggregateIn) -> Response:
    made = cases.aggregates.add(
        principal,
        name,
        pattern=body.pattern,
        tags=body.tags,
        function=body.function,
        period_s=parse_duration(body.period, "period"),
        wait_s=None if body.wait is None else _wait(body.wait),
    )
    return shapes.answer(aggregate(made), status=201)


def _wait(given: float | str) -> float:
    return 0.0 if given in (0, "0", "0s") else parse_duration(given, "wait")


@router.get("/aggregates/{name:path}", tags=["aggregates"], summary="One aggregate", responses=answers(AggregateAnswer))
def one_aggregate(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(aggregate(cases.aggregates.get(principal, name)))


@router.patch(
    "/aggregates/{name:path}",
    tags=["aggregates"],
    summary="Pause or resume an aggregate",
    responses=answers(AggregateAnswer),
)
def pause_aggregate(principal: Principal, cases: Cases, name: str, body: PausedIn) -> Response:
    return shapes.answer(aggregate(cases.aggregates.pause(principal, name, paused=body.paused)))


@router.delete("/aggregates/{name:path}", tags=["aggregates"], summary="Delete an aggregate; its metric stays")
def delete_aggregate(principal: Principal, cases: Cases, name: str) -> Response:
    cases.aggregates.delete(principal, name)
    return shapes.answer({"name": name, "deleted": True})


@router.get("/anomalies", tags=["anomalies"], summary="The most unusual metrics", responses=answers(RankingAnswer))
def anomalies(
    principal: Principal,
    cases: Cases,
    *,
    hours: Annotated[float, Query(gt=0, description=f"Usual are {', '.join(map(str, RANKING_HOURS))}.")] = 24,
    end: Annotated[str | None, Query(description="ISO-8601; else the newest sample.")] = None,
    by: Literal["metric", "resource"] = "metric",
    limit: Limit = 100,
) -> Response:
    found = cases.anomalies.ranking(
        principal, hours=hours, end_us=shapes.parse_time(end, "end"), by_resource=by == "resource", limit=limit
    )
    return shapes.answer(ranking(found))


@router.get("/parameters/{which:path}", tags=["anomalies"], summary="Parameters found for a stored metric")
def parameters(principal: Principal, cases: Cases, which: str) -> Response:
    return shapes.answer(cases.anomalies.parameters(principal, which).to_json())
