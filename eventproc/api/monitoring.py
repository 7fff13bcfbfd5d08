"""Models of metrics over HTTP. A metric is named by its name (which may hold slashes) or its uid."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.answers import Answer, Page, answers
from eventproc.api.deps import Cases, Limit, Principal
from eventproc.api.gate import KeyFirst
from eventproc.api.metrics import End, Start
from eventproc.api.models import Body
from eventproc.model import isoformat
from eventproc.models.specs import DATASOURCE
from eventproc.service.monitoring import EXPORT_DAYS, ModelView

router = APIRouter(tags=["models"], route_class=KeyFirst)


class MetricIn(Body):
    name: str
    resource: str | None = None


class RetryIn(Body):
    fresh: bool = Field(default=False, description="Give up what the model has learnt and train a new one.")


class CheckpointAnswer(Answer):
    rowid: int
    bytes: int


class ModelAnswer(Answer):
    uid: str
    name: str
    datasource: str
    description: str
    resource: str
    location: str
    tags: dict[str, str]
    status: str = Field(description="UNMONITORED, PENDING_DATA, CREATE_PENDING, ACTIVE or ERROR")
    status_code: int = Field(description="htmengine's number: 0, 8, 2, 1, 4")
    message: str | None = Field(description="Why it is in ERROR, or what went wrong last.")
    parameters: dict[str, Any] | None = Field(description="The specification it was monitored with.")
    model_params: dict[str, Any] | None
    last_rowid: int
    scored_rowid: int
    waiting: int = Field(description="Samples that are to be scored.")
    last_timestamp: str | None
    created_at: str | None
    defined_at: str | None
    failures: int
    retry_at: str | None
    checkpoint: CheckpointAnswer | None


class StatusAnswer(Answer):
    metrics: dict[str, int]
    waiting: int
    oldest: str | None
    workers: dict[str, int] = Field(description="Shares of 64, by worker.")
    compiling: bool = Field(description="Models of this machine are slow for half a minute: kernels are compiled.")


def model(view: ModelView, *, full: bool = True) -> dict[str, Any]:
    metric, found = view.metric, view.model
    params = None
    if found is not None and found.params is not None and full:
        params = {**found.params}
        if found.likelihood:
            params["anomalyLikelihoodParams"] = dict(found.likelihood)
    return {
        "uid": metric.uid,
        "name": metric.name,
        "datasource": DATASOURCE,
        "description": metric.description,
        "resource": metric.resource,
        "location": "",
        "tags": dict(metric.tags),
        "status": view.status.name,
        "status_code": int(view.status),
        "message": None if found is None else found.message,
        "parameters": None if found is None else dict(found.spec),
        "model_params": params,
        "last_rowid": metric.last_rowid,
        "scored_rowid": metric.scored_rowid,
        "waiting": view.waiting,
        "last_timestamp": shapes.time_or_none(metric.last_time_us),
        "created_at": None if found is None else isoformat(found.created_us),
        "defined_at": None if found is None else shapes.time_or_none(found.defined_us),
        "failures": 0 if found is None else found.failures,
        "retry_at": None if found is None else shapes.time_or_none(found.retry_us),
        "checkpoint": None if view.checkpoint is None else dict(zip(("rowid", "bytes"), view.checkpoint, strict=True)),
    }


@router.get("/models", summary="List the monitored metrics, by name", responses=answers(Page[ModelAnswer]))
def models(
    principal: Principal,
    cases: Cases,
    status: str | None = None,
    *,
    name: Annotated[str | None, Query(description="A name, or a glob such as `web.*`.")] = None,
    after: str | None = None,
    limit: Limit = 100,
) -> Response:
    found = cases.monitoring.page(principal, status=status, name=name, after=after, limit=limit)
    return shapes.page(found, lambda view: model(view, full=False), limit=limit, cursor=lambda view: view.metric.name)


@router.post("/models", summary="Monitor a metric", status_code=201, responses=answers(ModelAnswer, status=201))
def monitor(principal: Principal, cases: Cases, body: dict[str, Any]) -> Response:
    return shapes.answer(model(cases.monitoring.monitor(principal, body)), status=201)


@router.post("/metrics", summary="Create a metric", status_code=201, responses=answers(ModelAnswer, status=201))
def create(principal: Principal, cases: Cases, body: MetricIn) -> Response:
    return shapes.answer(model(cases.monitoring.create(principal, body.name, resource=body.resource)), status=201)


@router.get("/models/status", summary="All models at a glance", responses=answers(StatusAnswer))
def status(principal: Principal, cases: Cases) -> Response:
    found = cases.monitoring.status(principal)
    return shapes.answer(
        {
            "metrics": dict(found.metrics),
            "waiting": found.waiting,
            "oldest": found.oldest,
            "workers": dict(found.workers),
            "compiling": found.compiling,
        }
    )


@router.post("/models/import", summary="Make a model of an export", responses=answers(ModelAnswer))
def import_(principal: Principal, cases: Cases, body: dict[str, Any]) -> Response:
    return shapes.answer(model(cases.monitoring.import_(principal, body)))


@router.get("/models/{which:path}/export", summary="A model's specification and its metric's last samples")
def export(
    principal: Principal,
    cases: Cases,
    which: str,
    *,
    days: Annotated[
        float | None,
        Query(ge=0, description=f"Before now: {EXPORT_DAYS} if no start or end is given. 0: all samples."),
    ] = None,
    start: Start = None,
    end: End = None,
) -> Response:
    start_us, end_us = shapes.parse_moment(start, "start"), shapes.parse_moment(end, "end")
    return shapes.answer(cases.monitoring.export(principal, which, days=days, start_us=start_us, end_us=end_us))


@router.post("/models/{which:path}/activate", summary="Do not wait for 288 samples", responses=answers(ModelAnswer))
def activate(principal: Principal, cases: Cases, which: str) -> Response:
    return shapes.answer(model(cases.monitoring.activate(principal, which)))


@router.post("/models/{which:path}/retry", summary="Take a metric out of ERROR", responses=answers(ModelAnswer))
def retry(principal: Principal, cases: Cases, which: str, body: RetryIn | None = None) -> Response:
    return shapes.answer(model(cases.monitoring.retry(principal, which, fresh=bool(body and body.fresh))))


@router.get("/models/{which:path}", summary="One metric and its model", responses=answers(ModelAnswer))
def one_model(principal: Principal, cases: Cases, which: str) -> Response:
    return shapes.answer(model(cases.monitoring.get(principal, which)))


@router.delete("/models/{which:path}", summary="Take a metric's model away", responses=answers(ModelAnswer))
def unmonitor(principal: Principal, cases: Cases, which: str) -> Response:
    return shapes.answer(model(cases.monitoring.unmonitor(principal, which)))


@router.delete("/metrics/{which:path}", summary="Delete a metric, its model and its samples")
def delete(principal: Principal, cases: Cases, which: str) -> Response:
    metric = cases.monitoring.delete_metric(principal, which)
    return shapes.answer({"uid": metric.uid, "name": metric.name, "deleted": True})
