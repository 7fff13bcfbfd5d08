"""Handlers and their versions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.answers import Handler, Page, Registered, answers
from eventproc.api.deps import Cases, Id, Principal, Version, VersionNumber
from eventproc.api.gate import KeyFirst, needs
from eventproc.api.models import CurrentIn, DryRunIn, HandlerIn
from eventproc.codec.bundle import bundle_from_json
from eventproc.model import Role

router = APIRouter(prefix="/handlers", tags=["handlers"], route_class=KeyFirst)


@router.post("", summary="Register a handler, or its next version", responses=answers(Registered))
@needs(Role.DEVELOPER, "registering handlers")
def register(principal: Principal, cases: Cases, body: HandlerIn) -> Response:
    done = cases.handlers.register(
        principal,
        hook=body.hook,
        name=body.name,
        bundle=bundle_from_json(body.bundle, max_bytes=cases.context.settings.max_blob_bytes),
        tags=body.tags or (),
        notify_on_success=body.notify_on_success,
        notify_on_failure=body.notify_on_failure,
        options=body.options,
    )
    return shapes.answer(shapes.handler(done.handler, warnings=done.warnings))


@router.get("", summary="List the registered handlers", responses=answers(Page[Handler]))
def handlers(
    principal: Principal,
    cases: Cases,
    hook: Annotated[str | None, Query(description="Of this hook only; empty for all.")] = None,
) -> Response:
    return shapes.everything(cases.handlers.all(principal, hook=hook), shapes.handler)


@router.get("/{handler_id}", summary="One handler with its current version", responses=answers(Handler))
def handler(principal: Principal, cases: Cases, handler_id: Id) -> Response:
    return shapes.answer(shapes.handler(cases.handlers.get(principal, handler_id)))


@router.delete("/{handler_id}", summary="Deregister: its waiting runs are cancelled", responses=answers(Handler))
def deregister(principal: Principal, cases: Cases, handler_id: Id) -> Response:
    return shapes.answer(shapes.handler(cases.handlers.deregister(principal, handler_id)))


@router.get("/{handler_id}/versions", summary="All versions, without source")
def versions(principal: Principal, cases: Cases, handler_id: Id) -> Response:
    current = cases.handlers.get(principal, handler_id).current.version
    found = cases.handlers.versions(principal, handler_id)
    return shapes.everything(found, lambda version: shapes.version(version, current=current))


@router.get("/{handler_id}/versions/{version}", summary="One version with its source and packages")
def version(principal: Principal, cases: Cases, handler_id: Id, version: Version) -> Response:
    current = cases.handlers.get(principal, handler_id).current.version
    found = cases.handlers.version(principal, handler_id, version)
    environment = cases.handlers.environment(principal, found)
    return shapes.answer(shapes.version(found, current=current, full=True, environment=environment))


@router.get("/{handler_id}/diff", summary="Unified diff of two versions' sources")
def diff(principal: Principal, cases: Cases, handler_id: Id, old: VersionNumber, new: VersionNumber) -> Response:
    return shapes.answer({"diff": cases.handlers.diff(principal, handler_id, old, new)})


@router.post("/{handler_id}/current", summary="Make a version the one that runs", responses=answers(Handler))
def set_current(principal: Principal, cases: Cases, handler_id: Id, body: CurrentIn) -> Response:
    return shapes.answer(shapes.handler(cases.handlers.set_current(principal, handler_id, body.version)))


@router.post("/{handler_id}/pause", summary="Let the handler's runs wait", responses=answers(Handler))
def pause(principal: Principal, cases: Cases, handler_id: Id) -> Response:
    return shapes.answer(shapes.handler(cases.handlers.set_paused(principal, handler_id, paused=True)))


@router.post("/{handler_id}/resume", summary="Let the handler's runs go on", responses=answers(Handler))
def resume(principal: Principal, cases: Cases, handler_id: Id) -> Response:
    return shapes.answer(shapes.handler(cases.handlers.set_paused(principal, handler_id, paused=False)))


@router.post("/{handler_id}/dry-run", summary="Run on one event with nothing committed")
@needs(Role.DEVELOPER, "dry runs")
def dry_run(principal: Principal, cases: Cases, handler_id: Id, body: DryRunIn) -> Response:
    trial = cases.trials.dry_run(
        principal, handler_id, event_id=body.event_id, payload=body.payload, tags=body.tags or (), hook=body.hook
    )
    return shapes.answer(trial.to_json())
