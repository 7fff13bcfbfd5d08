"""Secrets of users: names and times; values come in and never go out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import SecretStr
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.deps import Cases, Principal
from eventproc.api.gate import KeyFirst
from eventproc.api.models import Body
from eventproc.model import SecretRecord, isoformat

router = APIRouter(tags=["secrets"], route_class=KeyFirst)
Owner = Annotated[str | None, Query(description="Whose; your own if left out, others' as an admin.")]


class SecretIn(Body):
    value: SecretStr


def _shape(secret: SecretRecord) -> dict[str, Any]:
    return {
        "name": secret.name,
        "created_at": isoformat(secret.created_us),
        "updated_at": isoformat(secret.updated_us),
    }


@router.get("/secrets", summary="List the names of secrets")
def secrets(principal: Principal, cases: Cases, user: Owner = None) -> Response:
    return shapes.everything(cases.secrets.all(principal, user=user), _shape)


@router.put("/secrets/{name}", summary="Set a secret of your own; it can not be read again")
def put_secret(principal: Principal, cases: Cases, name: str, body: SecretIn) -> Response:
    kept = cases.secrets.put(principal, name, body.value.get_secret_value())
    return shapes.answer({**_shape(kept.secret), "warnings": list(kept.warnings)})


@router.delete("/secrets/{name}", summary="Delete a secret")
def delete_secret(principal: Principal, cases: Cases, name: str, user: Owner = None) -> Response:
    cases.secrets.delete(principal, name, user=user)
    return shapes.answer({"name": name, "deleted": True})


@router.post("/secrets/rotate", summary="Encrypt all secrets anew with the first key (admin)")
def rotate(principal: Principal, cases: Cases) -> Response:
    return shapes.answer({"rotated": cases.secrets.rotate(principal)})
