"""Users, keys and the audit log."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.answers import Page, User, answers
from eventproc.api.deps import After, Cases, Limit, Principal, keyset
from eventproc.api.gate import KeyFirst
from eventproc.api.models import KeyIn, UserChange, UserIn

router = APIRouter(tags=["users"], route_class=KeyFirst)


@router.get("/me", summary="Who am I", responses=answers(User))
def me(principal: Principal) -> Response:
    return shapes.answer(shapes.user(principal))


@router.get("/users", summary="List the users (admin)", responses=answers(Page[User]))
def users(principal: Principal, cases: Cases) -> Response:
    return shapes.everything(cases.users.all(principal), shapes.user)


@router.post("/users", summary="Add a user (admin)", status_code=201, responses=answers(User, status=201))
def add_user(principal: Principal, cases: Cases, body: UserIn) -> Response:
    return shapes.answer(shapes.user(cases.users.add(principal, name=body.name, role=body.role)), status=201)


@router.patch("/users/{name}", summary="Change a user's role, disable or enable them (admin)", responses=answers(User))
def change_user(principal: Principal, cases: Cases, name: str, body: UserChange) -> Response:
    return shapes.answer(shapes.user(cases.users.update(principal, name, role=body.role, disabled=body.disabled)))


@router.get("/users/{name}/keys", summary="List a user's keys (one's own, or admin)")
def keys(principal: Principal, cases: Cases, name: str) -> Response:
    return shapes.everything(cases.users.keys(principal, name), shapes.api_key)


@router.post("/users/{name}/keys", summary="Issue a key; it is shown this once", status_code=201)
def add_key(principal: Principal, cases: Cases, name: str, body: KeyIn | None = None) -> Response:
    key, prefix = cases.users.add_key(principal, name, label=body.label if body else "")
    return shapes.answer({"key": key, "prefix": prefix}, status=201)


@router.delete("/keys/{prefix}", summary="Revoke a key (one's own, or admin)")
def revoke_key(principal: Principal, cases: Cases, prefix: str) -> Response:
    cases.users.revoke_key(principal, prefix)
    return shapes.answer({"prefix": prefix, "revoked": True})


@router.get("/audit", summary="Who changed what, newest first (admin)")
def audit(principal: Principal, cases: Cases, after: After = None, limit: Limit = 100) -> Response:
    entries = cases.users.audit(principal, after=keyset(after), limit=limit)
    return shapes.page(entries, shapes.audit_entry, limit=limit, cursor=lambda entry: entry.id)
