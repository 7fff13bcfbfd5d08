"""The bodies of the main answers, for the OpenAPI description; `shapes` writes them, tests compare the two."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from eventproc.api.models import ErrorBody
from eventproc.model import RunState

T = TypeVar("T")
TIME = "ISO-8601, UTC, microseconds"


class Answer(BaseModel):
    """All members are always there."""

    model_config = ConfigDict(extra="forbid", title=None)


class Page(Answer, Generic[T]):
    items: list[T]
    next: str | None = Field(description="What `after` takes for the following page; null at the end.")


class Accepted(Answer):
    id: str
    seq: int = Field(description="Its number in the order of acceptance.")
    duplicate: bool = Field(description="The same id with the same content had been accepted before.")
    runs: list[int] = Field(description="The runs that it caused.")


class Refused(Answer):
    error: ErrorBody


class EmittedMany(Answer):
    """In order, what became of each."""

    items: list[Accepted | Refused]


class Event(Answer):
    seq: int
    id: str
    hook: str
    source: str
    time: str = Field(description=TIME)
    tags: list[str]
    key: str | None
    payload: dict[str, Any]
    traceparent: str | None
    hops: int = Field(description="How many events before it in a chain that handlers caused.")
    accepted_at: str
    caused_by_run: int | None


class Failure(Answer):
    kind: str = Field(description="exception, timeout, limit, exit, signal, result, load, sandbox, …")
    message: str
    type: str | None
    traceback: str | None
    rolled_back: bool | None = Field(description="Null where there was nothing to roll back.")


class Run(Answer):
    id: int
    state: RunState
    event_id: str
    event_seq: int
    hook: str
    handler_id: int
    handler_name: str
    version: int
    attempt: int
    interruptions: int = Field(description="Times that its worker was lost.")
    round: int = Field(description="0 for the event's own run, then one more with each replay.")
    created_at: str = Field(description=TIME)
    due_at: str
    started_at: str | None
    finished_at: str | None
    order_key: str | None
    result: Any
    failure: Failure | None
    worker: str | None
    sandbox: str | None = Field(description="The layers that were in force.")
    cpu_us: int | None
    memory_bytes: int | None
    callbacks_only: bool


class Handler(Answer):
    id: int
    name: str
    hook: str
    version: int
    notify_on_success: str | None
    notify_on_failure: str | None
    tags: list[str]
    created_at: str = Field(description=TIME)
    created_by: str
    updated_at: str
    updated_by: str
    paused: bool
    options: dict[str, Any]
    deregistered_at: str | None


class Registered(Handler):
    warnings: list[str]


class Hook(Answer):
    name: str
    summary: str
    schema_: dict[str, Any] = Field(alias="schema")
    sample: dict[str, Any]
    keep_s: int | None = Field(description="How many seconds its events stay; null: as the settings say.")
    keep_idle_s: int | None
    source: str
    owner: str | None = Field(description="Who added it and may change it; null: the platform, or whoever sets it up.")
    paused: bool


class Notice(Answer):
    id: int
    run: int
    outcome: Literal["success", "failure"]
    serial: int
    recipients: list[str]
    refused: list[str] = Field(description="Recipients that the mail server refused for good.")
    state: Literal["pending", "sent", "failed"]
    attempts: int
    due_at: str
    created_at: str
    sent_at: str | None
    error: str | None
    message_id: str | None
    subject: str | None


class NoticeWithMail(Notice):
    mail: str | None


class Outgoing(Answer):
    id: int
    kind: Literal["amqp", "http"]
    target: str
    state: Literal["pending", "failed"]
    bytes: int
    attempts: int
    due_at: str | None
    created_at: str
    error: str | None


class OutgoingWithBody(Outgoing):
    headers: dict[str, str]
    body: str


class User(Answer):
    id: int
    name: str
    role: str
    disabled: bool
    created_at: str


class Schedule(Answer):
    name: str
    cron: str
    timezone: str
    hook: str
    tags: list[str]
    payload: dict[str, Any]
    next_at: str
    paused: bool


def answers(model: Any, *, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """Return the argument `responses` of a route that answers with the model."""
    return {status: {"model": model}}
