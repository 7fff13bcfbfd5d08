"""Triggers, the streams that they collect, and the pipelines that work on those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response

from eventproc.abc import Check
from eventproc.api import shapes
from eventproc.api.deps import After, Cases, Id, Limit, Principal, keyset
from eventproc.api.gate import KeyFirst, needs
from eventproc.api.models import PipelineDryRunIn, PipelineIn, StreamsIn, TriggersIn
from eventproc.codec.bundle import bundle_from_json
from eventproc.codec.records import event_of
from eventproc.errors import EventprocError, InvalidInput
from eventproc.model import HandlerRecord, NewEvent, Role, Stream, StreamFilter, StreamState, TriggerRecord, isoformat
from eventproc.registry.documents import hint
from eventproc.registry.traits import parse_trait
from eventproc.service.changing import Changed
from eventproc.service.pipelines import part_from_json

pipelines = APIRouter(prefix="/pipelines", tags=["pipelines"], route_class=KeyFirst)
triggers = APIRouter(prefix="/triggers", tags=["triggers"], route_class=KeyFirst)
streams = APIRouter(prefix="/streams", tags=["streams"], route_class=KeyFirst)

# ---------------------------------------------------------------------------------------------------- pipelines


def _pipeline(record: HandlerRecord) -> dict[str, Any]:
    return shapes.handler(record)


@pipelines.post("", summary="Register a pipeline, or its next version")
@needs(Role.DEVELOPER, "registering pipelines")
def register(principal: Principal, cases: Cases, body: PipelineIn) -> Response:
    limit = cases.context.settings.max_blob_bytes
    parts = []
    for given in body.handlers:
        bundle = given.get("bundle")
        parts.append(part_from_json(given, bundle_from_json(bundle, max_bytes=limit) if bundle is not None else None))
    record = cases.pipelines.register(
        principal,
        name=body.name,
        handlers=parts,
        notify_on_success=body.notify_on_success,
        notify_on_failure=body.notify_on_failure,
        options=body.options,
        naive=body.naive,
        setup=body.setup,
    )
    return shapes.answer(_pipeline(record))


@pipelines.post("/{name:path}/dry-run", summary="Run on one stream, or on events, with nothing committed")
@needs(Role.DEVELOPER, "dry runs")
def dry_run(principal: Principal, cases: Cases, name: str, body: PipelineDryRunIn) -> Response:
    events = None if body.events is None else [_given_event(place, item) for place, item in enumerate(body.events)]
    trial = cases.trials.dry_run_pipeline(principal, name, stream_id=body.stream, events=events)
    return shapes.answer(trial.to_json())


def _given_event(place: int, item: Mapping[str, Any]) -> NewEvent:
    try:
        return event_of(item)
    except (msgspec.MsgspecError, EventprocError) as error:
        raise InvalidInput(f"event {place}: {error}", path=f"$.events[{place}]") from error


@pipelines.get("", summary="List the pipelines")
def list_pipelines(principal: Principal, cases: Cases) -> Response:
    return shapes.everything(cases.pipelines.all(principal), _pipeline)


@pipelines.get("/{name:path}", summary="One pipeline with its handlers")
def pipeline(principal: Principal, cases: Cases, name: str) -> Response:
    record, handlers = cases.pipelines.get(principal, name)
    return shapes.answer({**_pipeline(record), "handlers": handlers})


@pipelines.delete("/{name:path}", summary="Deregister: streams that wait for it end in error")
def deregister(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(_pipeline(cases.pipelines.deregister(principal, name)))


@pipelines.post("/{name:path}/pause", summary="Let the pipeline's streams wait")
def pause_pipeline(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(_pipeline(cases.pipelines.set_paused(principal, name, paused=True)))


@pipelines.post("/{name:path}/resume", summary="Let the pipeline's streams go on")
def resume_pipeline(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(_pipeline(cases.pipelines.set_paused(principal, name, paused=False)))


# ---------------------------------------------------------------------------------------------------- triggers


def _trigger(record: TriggerRecord) -> dict[str, Any]:
    definition = record.definition
    return {
        "id": record.id,
        "name": record.name,
        "version": record.version,
        "paused": record.paused,
        "distinguished_by": definition.distinguished_by,
        "expiration": definition.expiration,
        "fire_delay": definition.fire_delay_s,
        "fire_pipeline": definition.fire_pipeline,
        "expire_pipeline": definition.expire_pipeline,
        "match_criteria": definition.match_criteria,
        "fire_criteria": definition.fire_criteria,
        "debug_level": definition.debug_level,
        "created_at": isoformat(record.created_us),
        "created_by": record.created_by,
        "updated_at": isoformat(record.updated_us),
        "updated_by": record.updated_by,
    }


def _checks(checks: Sequence[Check]) -> list[dict[str, Any]]:
    return [{"kind": each.kind, "name": each.name, "checks": each.checks, "passed": each.passed} for each in checks]


@triggers.post("", summary="Store triggers: all of a file, or none")
@needs(Role.DEVELOPER, "storing triggers")
def push(principal: Principal, cases: Cases, body: TriggersIn) -> Response:
    if (body.text is None) == (body.definition is None):
        raise InvalidInput("say one of 'text' and 'definition'", path="$")
    if body.text is not None:
        done = cases.triggers.push(principal, body.text, name=body.name, lenient=body.lenient)
    else:
        done = cases.triggers.put_one(principal, body.definition)
    return shapes.answer(
        {
            "triggers": [_trigger(record) for record in done.triggers],
            "changed": done.changed,
            "warnings": done.warnings,
        }
    )


@triggers.get("", summary="List the triggers")
def list_triggers(principal: Principal, cases: Cases) -> Response:
    return shapes.everything(cases.triggers.all(principal), _trigger)


# Names may hold slashes, so what follows a name stands before the routes of the name alone.


@triggers.get(
    "/{name:path}/explain", summary="Why it does or does not collect an event, and what its stream lacks to fire"
)
def explain(
    principal: Principal, cases: Cases, name: str, event: Annotated[str, Query(description="An event's id.")]
) -> Response:
    found = cases.triggers.explain(principal, name, event)
    return shapes.answer(
        {
            "matches": found.matches,
            "distinguished_by": found.distinguished_by,
            "reasons": found.reasons,
            "fire_criteria": found.fire_criteria,
            "streams": found.streams,
        }
    )


@triggers.delete("/{name:path}/checks", summary="Let the counters begin anew")
def clear_checks(principal: Principal, cases: Cases, name: str) -> Response:
    cases.triggers.clear_checks(principal, name)
    return shapes.answer({"cleared": name})


@triggers.get("/{name:path}", summary="One trigger, and what its checks came to")
def trigger(principal: Principal, cases: Cases, name: str) -> Response:
    record, checks = cases.triggers.get(principal, name)
    return shapes.answer({**_trigger(record), "checks": _checks(checks)})


@triggers.delete("/{name:path}", summary="Delete a trigger; its streams still fire and expire")
def delete_trigger(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(_trigger(cases.triggers.delete(principal, name)))


@triggers.post("/{name:path}/pause", summary="Collect nothing for now")
def pause_trigger(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(_trigger(cases.triggers.set_paused(principal, name, paused=True)))


@triggers.post("/{name:path}/resume", summary="Collect again")
def resume_trigger(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(_trigger(cases.triggers.set_paused(principal, name, paused=False)))


# ---------------------------------------------------------------------------------------------------- streams


def _stream(value: Stream) -> dict[str, Any]:
    return {
        "id": value.id,
        "trigger": value.name,
        "state": value.state.label,
        "distinguished_by": value.distinguished_by,
        "events": value.events,
        "first_event": isoformat(value.first_us),
        "last_event": isoformat(value.last_us),
        "fire_at": shapes.time_or_none(value.fire_us),
        "expire_at": isoformat(value.expire_us),
        "matched": value.matched,
        "joinable": value.joinable,
        "attempts": value.attempts,
        "serial": value.serial,
        "run": value.run_id,
        "failure": shapes.failure(value.failure),
        "created_at": isoformat(value.created_us),
        "updated_at": isoformat(value.updated_us),
    }


def _states(names: Sequence[str] | None) -> tuple[StreamState, ...]:
    known = {state.label: state for state in StreamState}
    for name in names or ():
        if name not in known:
            raise InvalidInput(f"there is no state {name[:50]!r} of streams; {hint(name, known)}", path="state")
    return tuple(known[name] for name in names or ())


@streams.get("", summary="List streams, newest first")
def list_streams(
    principal: Principal,
    cases: Cases,
    *,
    trigger: str | None = None,
    state: Annotated[list[str] | None, Query(description="active, firing, error, …; repeatable.")] = None,
    trait: Annotated[list[str] | None, Query(description="`name:value` of a distinguishing trait; repeatable.")] = None,
    older_than: Annotated[str | None, Query(description="ISO-8601; the first event is older.")] = None,
    younger_than: Annotated[str | None, Query(description="ISO-8601; the last event is younger.")] = None,
    oldest_first: bool = False,
    after: After = None,
    limit: Limit = 100,
) -> Response:
    which = StreamFilter(
        name=trigger or None,
        states=_states(state),
        distinguished_by=dict(parse_trait(text) for text in trait or ()),
        older_than_us=shapes.parse_time(older_than, "older_than"),
        younger_than_us=shapes.parse_time(younger_than, "younger_than"),
    )
    found = cases.streams.page(principal, which, after=keyset(after), limit=limit, newest_first=not oldest_first)
    return shapes.page(found, _stream, limit=limit, cursor=lambda stream: stream.id)


@streams.get("/counts", summary="How many streams are in each state but completed")
def counts(principal: Principal, cases: Cases) -> Response:
    return shapes.answer({state.label: number for state, number in cases.streams.counts(principal).items()})


@streams.get("/{stream_id}", summary="One stream; with `events=true` all that it holds")
def stream(principal: Principal, cases: Cases, stream_id: Id, *, events: bool = False) -> Response:
    found, held = cases.streams.get(principal, stream_id, events=events)
    more = {"held": [shapes.event(event) for event in held]} if events else {}
    return shapes.answer({**_stream(found), **more})


@streams.post("/reset", summary="Send streams in error through their pipeline again")
def reset(principal: Principal, cases: Cases, body: StreamsIn) -> Response:
    return _changed(cases.streams.reset(principal, _which(body), everything=body.all))


@streams.post("/delete", summary="Delete streams; their events stay")
def delete(principal: Principal, cases: Cases, body: StreamsIn) -> Response:
    return _changed(cases.streams.delete(principal, _which(body), everything=body.all))


def _which(body: StreamsIn) -> StreamFilter | list[int]:
    which = StreamFilter(
        name=body.trigger,
        states=_states(body.state),
        distinguished_by=body.traits or {},
        older_than_us=shapes.parse_time(body.older_than, "older_than"),
        younger_than_us=shapes.parse_time(body.younger_than, "younger_than"),
    )
    if body.ids is None:
        return which
    if which != StreamFilter():
        raise InvalidInput("give either 'ids' or a filter, not both", path="$.ids")
    return body.ids


def _changed(done: Changed) -> Response:
    refused = [{"id": stream_id, "reason": why.message} for stream_id, why in done.refused]
    return shapes.answer({"count": done.count, "ids": done.ids, "refused": refused})
