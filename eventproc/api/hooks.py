"""Hooks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.answers import Hook, Page, answers
from eventproc.api.deps import Cases, Principal
from eventproc.api.gate import KeyFirst
from eventproc.api.models import HookIn

router = APIRouter(prefix="/hooks", tags=["hooks"], route_class=KeyFirst)


@router.get("", summary="List the hooks", responses=answers(Page[Hook]))
def hooks(principal: Principal, cases: Cases) -> Response:
    return shapes.everything(cases.hooks.all(principal), shapes.hook)


@router.get("/{name:path}", summary="One hook: its schema and sample", responses=answers(Hook))
def hook(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(shapes.hook(cases.hooks.get(principal, name)))


@router.put("/{name:path}", summary="Add or replace a hook of one's own", responses=answers(Hook))
def put_hook(principal: Principal, cases: Cases, name: str, body: HookIn) -> Response:
    definition = {
        "summary": body.summary,
        "schema": body.schema_,
        "sample": body.sample,
        "keep": body.keep if body.keep_s is None else body.keep_s,
        "keep_idle": body.keep_idle if body.keep_idle_s is None else body.keep_idle_s,
    }
    return shapes.answer(shapes.hook(cases.hooks.put(principal, name, definition)))


@router.delete("/{name:path}", summary="Delete a hook of one's own")
def delete_hook(
    principal: Principal,
    cases: Cases,
    name: str,
    *,
    force: Annotated[bool, Query(description="Deregister its handlers too (admin).")] = False,
) -> Response:
    cases.hooks.delete(principal, name, force=force)
    return shapes.answer({"name": name, "deleted": True})


@router.post(
    "/{name:path}/pause", summary="Let the hook's runs wait; events are still accepted", responses=answers(Hook)
)
def pause(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(shapes.hook(cases.hooks.set_paused(principal, name, paused=True)))


@router.post("/{name:path}/resume", summary="Let the hook's runs go on", responses=answers(Hook))
def resume(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(shapes.hook(cases.hooks.set_paused(principal, name, paused=False)))
