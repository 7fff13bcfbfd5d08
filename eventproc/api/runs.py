"""Runs and their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.answers import Page, Run, answers
from eventproc.api.deps import After, Cases, Id, Limit, Number, Principal, keyset
from eventproc.api.gate import KeyFirst
from eventproc.api.models import RequeueIn, RunsIn, RunsRequeueIn
from eventproc.errors import InvalidInput
from eventproc.model import DEAD_STATES, RunFilter, RunState
from eventproc.registry.globs import is_pattern
from eventproc.service.changing import Changed, Part

router = APIRouter(prefix="/runs", tags=["runs"], route_class=KeyFirst)

DEAD = "dead"  # short for failed and commit_failed


def states_from(texts: Sequence[str] | str | None) -> tuple[RunState, ...]:
    """Read states from repeated or comma separated texts; `dead` is failed and commit_failed."""
    given = [texts] if isinstance(texts, str) else texts or ()
    words = [word.strip() for text in given for word in text.split(",") if word.strip()]
    found: list[RunState] = []
    for word in words:
        if word == DEAD:
            found += sorted(DEAD_STATES)
        elif word in RunState.__members__.values():
            found.append(RunState(word))
        else:
            raise InvalidInput(f"unknown state {word!r}; there are: {', '.join(RunState)}, {DEAD}", path="state")
    return tuple(dict.fromkeys(found))


def _filter(body: RunsIn) -> RunFilter:
    handler = body.handler
    if isinstance(handler, str):
        if not handler.isdecimal() or len(handler) > 18:
            raise InvalidInput(f"'handler' must be a handler's id, not {handler[:100]!r}", path="$.handler")
        handler = int(handler)
    if body.hook and is_pattern(body.hook):
        raise InvalidInput(
            f"'hook' must be the name of one hook, not the pattern {body.hook!r}; give the handler that is on it",
            path="$.hook",
        )
    return RunFilter(
        hook=body.hook or None,
        handler_id=handler,
        event_id=body.event or None,
        states=states_from(body.state),
        since_us=shapes.parse_time(body.since, "since"),
        until_us=shapes.parse_time(body.until, "until"),
    )


def _which(body: RunsIn) -> RunFilter | list[int]:
    which = _filter(body)
    if body.ids is None:
        return which
    if which != RunFilter():
        raise InvalidInput("give either 'ids' or a filter, not both", path="$.ids")
    return body.ids


def _part(body: RunsIn) -> Part:
    """Read how far one request goes. Ids are a part already."""
    if body.ids is not None and (body.after is not None or body.limit is not None):
        raise InvalidInput("'after' and 'limit' go with a filter or 'all', not with 'ids'", path="$.ids")
    return Part(after=keyset(body.after), limit=body.limit)


@router.get("", summary="List runs, newest first", responses=answers(Page[Run]))
def runs(
    principal: Principal,
    cases: Cases,
    *,
    state: Annotated[list[str] | None, Query(description="May be repeated or separated by commas; `dead` too.")] = None,
    hook: str | None = None,
    handler: Number | None = None,
    event: str | None = None,
    since: str | None = None,
    until: str | None = None,
    after: After = None,
    limit: Limit = 100,
) -> Response:
    which = _filter(RunsIn(state=state, hook=hook, handler=handler, event=event, since=since, until=until))
    found = cases.runs.page(principal, which, after=keyset(after), limit=limit)
    return shapes.page(found, shapes.run, limit=limit, cursor=lambda run: run.id)


@router.get("/counts", summary="How many runs wait, run, and are dead")
def counts(principal: Principal, cases: Cases) -> Response:
    return shapes.answer(cases.runs.counts(principal))


@router.post("/cancel", summary="Cancel many runs, by ids or by a filter")
def cancel_many(principal: Principal, cases: Cases, body: RunsIn) -> Response:
    done = cases.runs.cancel_many(principal, _which(body), everything=body.all, part=_part(body))
    return shapes.answer({"cancelled": done.count - done.asked, "asked": done.asked, **_rest(done)})


@router.post("/requeue", summary="Requeue many runs, by ids or by a filter")
def requeue_many(principal: Principal, cases: Cases, body: RunsRequeueIn) -> Response:
    done = cases.runs.requeue_many(principal, _which(body), everything=body.all, current=body.current, part=_part(body))
    return shapes.answer({"requeued": done.count, **_rest(done)})


def _rest(done: Changed) -> dict[str, object]:
    refused = [{"id": run_id, "reason": why.message} for run_id, why in done.refused]
    return {"ids": done.ids, "refused": refused, "next": None if done.next is None else str(done.next)}


@router.get("/{run_id}", summary="One run", responses=answers(Run))
def run(principal: Principal, cases: Cases, run_id: Id) -> Response:
    return shapes.answer(shapes.run(cases.runs.get(principal, run_id)))


@router.get("/{run_id}/logs", summary="What a run printed and logged, oldest first")
def logs(principal: Principal, cases: Cases, run_id: Id, after: After = None, limit: Limit = 1000) -> Response:
    run, chunks = cases.runs.logs(principal, run_id, after=keyset(after) or 0, limit=limit)
    more = str(chunks[-1].id) if len(chunks) >= limit else None
    return shapes.answer(
        {"items": [shapes.log_chunk(chunk) for chunk in chunks], "next": more, "state": run.state.value}
    )


@router.get("/{run_id}/files", summary="The files a run uploaded")
def files(principal: Principal, cases: Cases, run_id: Id) -> Response:
    base_url = cases.context.settings.base_url
    return shapes.everything(cases.runs.files(principal, run_id), lambda record: shapes.file(record, base_url=base_url))


@router.post("/{run_id}/cancel", summary="Cancel a run; one that is executing is asked to end", responses=answers(Run))
def cancel(principal: Principal, cases: Cases, run_id: Id) -> Response:
    return shapes.answer(shapes.run(cases.runs.cancel(principal, run_id)))


@router.post("/{run_id}/requeue", summary="Run a failed or cancelled run again", responses=answers(Run))
def requeue(principal: Principal, cases: Cases, run_id: Id, body: RequeueIn | None = None) -> Response:
    current = body.current if body else False
    return shapes.answer(shapes.run(cases.runs.requeue(principal, run_id, current=current)))
