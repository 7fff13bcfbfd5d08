"""The outbox: messages to other systems that wait, or were given up."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.answers import Outgoing, OutgoingWithBody, Page, answers
from eventproc.api.deps import After, Cases, Id, Limit, Number, Principal, keyset
from eventproc.api.gate import KeyFirst
from eventproc.model import OutgoingState

router = APIRouter(tags=["outbox"], route_class=KeyFirst)


class RequeueIn(BaseModel):
    """The messages to try again."""

    model_config = ConfigDict(extra="forbid")
    ids: list[Number] = Field(min_length=1, max_length=1000)


@router.get("/outbox", summary="List messages to other systems, newest first", responses=answers(Page[Outgoing]))
def outbox(
    principal: Principal,
    cases: Cases,
    state: Annotated[OutgoingState | None, Query(description="Only those.")] = None,
    after: After = None,
    limit: Limit = 100,
) -> Response:
    found = cases.outbox.page(principal, state=state, after=keyset(after), limit=limit)
    return shapes.page(found, shapes.outgoing, limit=limit, cursor=lambda message: message.id)


@router.get("/outbox/{message_id}", summary="One message with its body", responses=answers(OutgoingWithBody))
def message(principal: Principal, cases: Cases, message_id: Id) -> Response:
    return shapes.answer(shapes.outgoing(cases.outbox.get(principal, message_id), full=True))


@router.post("/outbox/requeue", summary="Try given-up messages again")
def requeue(principal: Principal, cases: Cases, body: RequeueIn) -> Response:
    return shapes.answer({"requeued": cases.outbox.requeue(principal, body.ids)})


@router.delete("/outbox/{message_id}", summary="Delete a message")
def delete(principal: Principal, cases: Cases, message_id: Id) -> Response:
    cases.outbox.delete(principal, message_id)
    return shapes.answer({"id": message_id, "deleted": True})
