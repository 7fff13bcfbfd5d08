"""Detectors of users."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.deps import Cases, Principal
from eventproc.api.gate import KeyFirst, needs
from eventproc.api.models import Body
from eventproc.codec.bundle import bundle_from_json
from eventproc.model import Role

router = APIRouter(prefix="/detectors", tags=["models"], route_class=KeyFirst)


class DetectorIn(Body):
    made_storable = frozenset({"bundle"})
    name: str
    bundle: dict[str, Any] = Field(description="The pickled class, as for handlers, with the kind `detector`.")
    options: dict[str, Any] | None = Field(default=None, description="timeout, cpu, memory, requirements, …")


@router.post("", summary="Register a detector, or its next version")
@needs(Role.DEVELOPER, "registering detectors")
def register(principal: Principal, cases: Cases, body: DetectorIn) -> Response:
    limit = cases.context.settings.max_blob_bytes
    bundle = bundle_from_json(body.bundle, max_bytes=limit)
    record = cases.detectors.register(principal, name=body.name, bundle=bundle, options=body.options)
    return shapes.answer(shapes.handler(record))


@router.get("", summary="List the detectors that users registered")
def detectors(principal: Principal, cases: Cases) -> Response:
    return shapes.everything(cases.detectors.all(principal), shapes.handler)


@router.get("/{name:path}", summary="One detector with its current version")
def detector(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(shapes.handler(cases.detectors.get(principal, name)))


@router.delete("/{name:path}", summary="Deregister: no new model can have it, those that have it go on")
def deregister(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.answer(shapes.handler(cases.detectors.deregister(principal, name)))
