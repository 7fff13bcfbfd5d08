"""
POST /events: the busiest route.

The body is decoded with msgspec in one pass, straight into events. Only where that fails is it looked at again, event
by event, so that a bad one is refused by itself and its neighbours live.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.answers import Accepted, EmittedMany, answers
from eventproc.api.deps import ERRORS, SECURED, use_cases
from eventproc.api.gate import admitted
from eventproc.api.models import SCHEMAS
from eventproc.engine.accept import Result
from eventproc.errors import EventprocError, InvalidInput
from eventproc.model import NewEvent, Role, User, from_datetime
from eventproc.service.facade import UseCases

router = APIRouter(tags=["events"])

SMALL_BYTES = 16 << 10  # bodies up to this are decoded in the event loop: quicker than a change of thread


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    hook: str
    payload: dict[str, Any] = {}
    id: str | None = None
    source: str | None = None
    time: dt.datetime | None = None
    tags: list[str] | None = None
    key: str | None = None
    traceparent: str | None = None

    def to_model(self) -> NewEvent:
        return NewEvent(
            hook=self.hook,
            payload=self.payload,
            id=self.id,
            source=self.source,
            time_us=None if self.time is None else from_datetime(self.time),
            tags=self.tags or (),
            key=self.key,
            trace_parent=self.traceparent,
        )


class _Events(msgspec.Struct, forbid_unknown_fields=True):
    events: list[_Event]


class _RawEvents(msgspec.Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


_one = msgspec.json.Decoder(_Event)
_many = msgspec.json.Decoder(_Events)
_raw = msgspec.json.Decoder(_RawEvents)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

Read = NewEvent | EventprocError


def read_events(body: bytes) -> tuple[list[Read], bool]:
    """Return the body's events, or why each can not be read, and whether it was a list. Raises InvalidInput."""
    # A single event, or something is wrong: the slower way below says what.
    with contextlib.suppress(*_UNREADABLE):
        return [event.to_model() for event in _many.decode(body).events], True
    try:
        names = _fields.decode(body)
        if "events" not in names:
            return [_one.decode(body).to_model()], False
        raw = _raw.decode(body).events
    except _UNREADABLE as error:
        raise _refusal(error, "$") from error
    return [_read_one(item, f"$.events[{index}]") for index, item in enumerate(raw)], True


def _read_one(raw: msgspec.Raw, path: str) -> Read:
    try:
        return _one.decode(raw).to_model()
    except _UNREADABLE as error:
        return _refusal(error, path)


def _refusal(error: Exception, path: str) -> InvalidInput:
    """Say it in the caller's terms: `Expected `str`, got `int` - at `$.tags[0]`` becomes a path and a reason."""
    reason, _, place = str(error).partition(" - at ")
    where = path + place.strip("`").removeprefix("$")
    if isinstance(error, UnicodeDecodeError):
        reason = "not UTF-8"
    elif isinstance(error, RecursionError):
        reason = "nested too deeply"
    elif not isinstance(error, msgspec.ValidationError):
        reason = f"not JSON: {reason}"
    return InvalidInput(f"{where}: {reason}", path=where)


@router.post(
    "/events",
    summary="Emit one event, or many",
    description='One event, or `{"events": […]}`. Of many, each is accepted or refused by itself: the answer holds, in '
    "order, what became of it. The same id with the same content again changes nothing; with other content it is "
    "refused as a conflict.",
    dependencies=SECURED,
    responses={**ERRORS, **answers(Accepted | EmittedMany)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"anyOf": [{"$ref": f"{SCHEMAS}EventIn"}, {"$ref": f"{SCHEMAS}EventsIn"}]},
                }
            },
        }
    },
)
async def emit(request: Request) -> Response:
    cases = use_cases(request)
    principal = await admitted(request, Role.EMITTER, "emitting events")
    body = await request.body()
    if len(body) <= SMALL_BYTES:
        events, many = read_events(body)
    else:
        events, many = await run_in_threadpool(read_events, body)
    results = await _accept(cases, principal, events)
    if many:
        return shapes.answer({"items": [shapes.accepted(result) for result in results]})
    if isinstance(results[0], EventprocError):
        raise results[0]
    return shapes.answer(shapes.accepted(results[0]))


async def _accept(cases: UseCases, principal: User, events: list[Read]) -> list[Result]:
    """Accept those that could be read, and put each verdict in its place."""
    good = [event for event in events if isinstance(event, NewEvent)]
    results = await asyncio.wrap_future(cases.events.submit(principal, good))
    verdicts = iter(results)
    return [next(verdicts) if isinstance(event, NewEvent) else event for event in events]
