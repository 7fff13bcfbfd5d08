"""Events that were accepted: looking at them, and sending them through again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.answers import Event, Page, answers
from eventproc.api.deps import After, Cases, Limit, Number, Principal, keyset
from eventproc.api.gate import KeyFirst, needs
from eventproc.api.models import ReplayIn
from eventproc.errors import InvalidInput
from eventproc.model import Role
from eventproc.registry.traits import parse_trait

router = APIRouter(prefix="/events", tags=["events"], route_class=KeyFirst)


@router.get("", summary="List events, newest first", responses=answers(Page[Event]))
def events(
    principal: Principal,
    cases: Cases,
    *,
    hook: Annotated[
        str | None, Query(description="A name, or a pattern such as `stream.*`; `!stream.*` means all others.")
    ] = None,
    tag: str | None = None,
    key: str | None = None,
    since: Annotated[str | None, Query(description="ISO-8601; compared with the events' own time.")] = None,
    until: str | None = None,
    trait: Annotated[
        list[str] | None, Query(description="`name:value` of a payload member; a number, true, or a text. Repeatable.")
    ] = None,
    after: After = None,
    limit: Limit = 100,
) -> Response:
    found = cases.events.page(
        principal,
        hook=hook or None,
        tag=tag or None,
        key=key or None,
        since_us=shapes.parse_time(since, "since"),
        until_us=shapes.parse_time(until, "until"),
        after=keyset(after),
        limit=limit,
        traits=dict(parse_trait(text) for text in trait or ()),
    )
    return shapes.page(found, shapes.event, limit=limit, cursor=lambda event: event.seq)


@router.post("/replay", summary="Run handlers on past events again")
@needs(Role.DEVELOPER, "replaying events")
def replay(principal: Principal, cases: Cases, body: ReplayIn) -> Response:
    since, until = shapes.parse_time(body.since, "since"), shapes.parse_time(body.until, "until")
    if since is None or until is None:
        raise InvalidInput("'since' and 'until' must be times", path="$.since" if since is None else "$.until")
    done = cases.trials.replay(
        principal,
        hook=body.hook,
        since_us=since,
        until_us=until,
        pattern=body.filter,
        handler_id=body.handler,
        current=body.current,
    )
    return shapes.answer({"events": done.events, "runs": done.runs})


# Ids may hold slashes; the routes that end in a word come first.
@router.get("/{event_id:path}/why", summary="Why a handler did or did not run on an event")
def why(principal: Principal, cases: Cases, event_id: str, handler: Number) -> Response:
    return shapes.answer(shapes.explanation(cases.trials.why(principal, event_id, handler)))


@router.get("/{event_id:path}", summary="One event", responses=answers(Event))
def event(principal: Principal, cases: Cases, event_id: str) -> Response:
    return shapes.answer(shapes.event(cases.events.get(principal, event_id)))
