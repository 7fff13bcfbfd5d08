"""Schedules, notices and series."""

from __future__ import annotations

import math

from fastapi import APIRouter
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.answers import Notice, NoticeWithMail, Page, Schedule, answers
from eventproc.api.deps import After, Cases, Id, Limit, Nanoseconds, Number, Principal, keyset
from eventproc.api.gate import KeyFirst
from eventproc.api.models import ScheduleIn

router = APIRouter(route_class=KeyFirst)


@router.get("/schedules", tags=["schedules"], summary="List the schedules", responses=answers(Page[Schedule]))
def schedules(principal: Principal, cases: Cases) -> Response:
    return shapes.everything(cases.schedules.all(principal), shapes.schedule)


@router.put(
    "/schedules/{name:path}", tags=["schedules"], summary="Add or replace a schedule", responses=answers(Schedule)
)
def put_schedule(principal: Principal, cases: Cases, name: str, body: ScheduleIn) -> Response:
    schedule = cases.schedules.put(
        principal,
        name,
        cron=body.cron,
        timezone=body.timezone,
        hook=body.hook,
        tags=body.tags or (),
        payload=body.payload,
        paused=body.paused,
    )
    return shapes.answer(shapes.schedule(schedule))


@router.get("/schedules/{name:path}", tags=["schedules"], summary="One schedule", responses=answers(Schedule))
def schedule(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(shapes.schedule(cases.schedules.get(principal, name)))


@router.delete("/schedules/{name:path}", tags=["schedules"], summary="Delete a schedule")
def delete_schedule(principal: Principal, cases: Cases, name: str) -> Response:
    cases.schedules.delete(principal, name)
    return shapes.answer({"name": name, "deleted": True})


@router.get("/notices", tags=["notices"], summary="List the notices, newest first", responses=answers(Page[Notice]))
def notices(
    principal: Principal, cases: Cases, run: Number | None = None, after: After = None, limit: Limit = 100
) -> Response:
    found = cases.notices.page(principal, run_id=run, after=keyset(after), limit=limit)
    return shapes.page(found, shapes.notice, limit=limit, cursor=lambda notice: notice.id)


@router.get(
    "/notices/{notice_id}", tags=["notices"], summary="One notice with its mail", responses=answers(NoticeWithMail)
)
def notice(principal: Principal, cases: Cases, notice_id: Id) -> Response:
    return shapes.answer(shapes.notice(cases.notices.get(principal, notice_id), full=True))


@router.get("/series", tags=["series"], summary="List series")
def series(
    principal: Principal,
    cases: Cases,
    collection: str | None = None,
    name: str | None = None,
    *,
    prefix: bool = False,
    limit: Limit = 1000,
) -> Response:
    found = cases.series.find(principal, name=name or None, collection=collection or None, prefix=prefix, limit=limit)
    return shapes.everything(found, shapes.series)


@router.get("/series/{uuid}", tags=["series"], summary="One series")
def one_series(principal: Principal, cases: Cases, uuid: str) -> Response:
    return shapes.answer(shapes.series(cases.series.get(principal, uuid)))


@router.get("/series/{uuid}/values", tags=["series"], summary="A series' values, times in nanoseconds")
def values(
    principal: Principal, cases: Cases, uuid: str, start: Nanoseconds | None = None, end: Nanoseconds | None = None
) -> Response:
    times, numbers = cases.series.values(principal, uuid, start_ns=start, end_ns=end)
    shown = [number if math.isfinite(number) else None for number in numbers.tolist()]
    return shapes.answer({"uuid": uuid, "count": len(shown), "times": times.tolist(), "values": shown})
