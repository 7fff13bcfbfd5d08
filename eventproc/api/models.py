"""The bodies of requests; FastAPI checks them and writes them into the OpenAPI description."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_PAGE = 1000
MAX_ID = (1 << 63) - 1
MAX_VERSION = (1 << 31) - 1

SCHEMAS = "#/components/schemas/"

Id = Annotated[int, Field(ge=0, le=MAX_ID)]


def has_half_character(value: Any) -> bool:
    """Say whether a text or name in a JSON value is no Unicode: half of a surrogate pair, which JSON can spell."""
    left = [value]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            left += node.keys()
            left += node.values()
        elif isinstance(node, list):
            left += node
        elif isinstance(node, str) and not node.isascii() and any("\ud800" <= char <= "\udfff" for char in node):
            return True
    return False


class Body(BaseModel):
    """A JSON body; what is not known is refused, so that a typing error is not silently ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)
    made_storable: ClassVar[frozenset[str]] = frozenset()  # members whose texts are mended, as they are only shown

    @model_validator(mode="after")
    def _storable(self) -> Self:
        """Refuse what no database can hold as text: NUL, and halves of characters, these at any depth."""
        for name, value in self:
            if isinstance(value, str) and "\x00" in value:
                raise ValueError(f"{name!r} holds the character NUL")
            if isinstance(value, dict | list) and name not in self.made_storable and has_half_character(value):
                raise ValueError(f"{name!r} holds a lone surrogate (half of a character)")
        return self


class ErrorBody(BaseModel):
    code: str = Field(description="Which error: `invalid`, `unknown_hook`, `forbidden`, …")
    message: str = Field(description="What was wrong, where, and what to do.")
    details: dict[str, Any] = Field(description="The same for machines; `path` is the JSON path in the request.")


class ErrorAnswer(BaseModel):
    error: ErrorBody


class HookIn(Body):
    summary: str = ""
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema", description="JSON Schema of the payload.")
    sample: dict[str, Any] = Field(default_factory=dict, description="A payload that keeps to the schema.")
    keep: float | str | None = Field(default=None, description="How long events stay: seconds, or `7d`, `12h`.")
    keep_idle: float | str | None = Field(default=None, description="The same for events that caused no run.")
    keep_s: int | None = Field(default=None, description="`keep` in seconds.")
    keep_idle_s: int | None = Field(default=None, description="`keep_idle` in seconds.")


class HandlerIn(Body):
    made_storable = frozenset({"bundle"})
    hook: str
    name: str
    tags: list[str] | None = Field(default=None, description="None and [] match all events.")
    notify_on_success: str | None = Field(default=None, description="Mail addresses, separated by commas.")
    notify_on_failure: str | None = None
    options: dict[str, Any] | None = Field(default=None, description="timeout, retries, filter, isolation, …")
    bundle: dict[str, Any] = Field(
        description="The pickled callable: blob (base64), digest (SHA-256), python, dill, source, filename, qualname, "
        "kind, globals."
    )


class PipelineIn(Body):
    made_storable = frozenset({"handlers"})
    name: str
    handlers: list[dict[str, Any]] = Field(
        description="In order: name, params, and one of bundle (as for handlers), import (`module:Class`) and handler "
        "(the name of a registered one)."
    )
    notify_on_success: str | None = Field(default=None, description="Mail addresses, separated by commas.")
    notify_on_failure: str | None = None
    naive: bool = Field(default=False, description="Handlers see naive datetimes, in UTC.")
    setup: list[str] = Field(default_factory=list, description="`module:function`, called before anything is imported.")
    options: dict[str, Any] | None = Field(default=None, description="timeout, retries, isolation, …")


class TriggersIn(Body):
    text: str | None = Field(default=None, description="The text of a triggers.yaml.")
    name: str = Field(default="triggers.yaml", description="Of the file, for messages.")
    lenient: bool = Field(default=False, description="Pass over keys that winchester passes over, with a warning.")
    definition: dict[str, Any] | None = Field(default=None, description="Or one trigger with the same keys.")


class StreamsIn(Body):
    ids: list[Id] | None = None
    trigger: str | None = None
    state: list[str] | None = None
    older_than: str | None = Field(default=None, description="ISO-8601; compared with the first event.")
    younger_than: str | None = Field(default=None, description="ISO-8601; compared with the last event.")
    traits: dict[str, Any] | None = Field(default=None, description="Values of distinguishing traits.")
    all: bool = Field(default=False, description="All of them, with no ids and no filter.")


class CurrentIn(Body):
    version: Annotated[int, Field(ge=0, le=MAX_VERSION)]


class DryRunIn(Body):
    event_id: str | None = Field(default=None, description="A stored event.")
    payload: dict[str, Any] | None = Field(default=None, description="Or a payload.")
    tags: list[str] | None = None
    hook: str | None = Field(default=None, description="Of the payload, where the handler is on a pattern of names.")


class PipelineDryRunIn(Body):
    stream: Id | None = Field(default=None, description="A stored stream.")
    events: list[dict[str, Any]] | None = Field(
        default=None, description="Or events: {hook, payload, id, time}, or flat as pipelines see them."
    )


class ReplayIn(Body):
    hook: str
    since: str = Field(description="ISO-8601 time; compared with the events' own time.")
    until: str
    filter: dict[str, Any] | None = Field(default=None, description="Pattern on the payload.")
    handler: Id | None = Field(default=None, description="Only this handler.")
    current: bool = Field(default=True, description="With the handlers' current versions.")


class RequeueIn(Body):
    current: bool = Field(default=False, description="With the handler's current version instead of the run's own.")


class RunsIn(Body):
    """Runs by their ids, or by a filter as in GET /runs."""

    ids: list[Id] | None = None
    state: str | list[str] | None = None
    hook: str | None = None
    handler: Id | str | None = None
    event: str | None = None
    since: str | None = None
    until: str | None = None
    all: bool = Field(default=False, description="All of them, with no ids and no filter.")
    after: str | None = Field(default=None, description="The `next` of the answer before, with the same filter.")
    limit: Annotated[int, Field(ge=1, le=MAX_ID)] | None = Field(
        default=None, description="Of a filter or `all`: look at no more runs; `next` says where to go on."
    )


class RunsRequeueIn(RunsIn):
    current: bool = False


class UserIn(Body):
    name: str
    role: str = Field(description="viewer, emitter, developer or admin")


class UserChange(Body):
    role: str | None = None
    disabled: bool | None = None


class KeyIn(Body):
    label: str = ""


class ScheduleIn(Body):
    cron: str = Field(description="Five fields, as in crontab.", examples=["*/5 * * * *"])
    timezone: str = "UTC"
    hook: str = "schedule.tick"
    tags: list[str] | None = None
    payload: dict[str, Any] | None = None
    paused: bool = False


class EventIn(Body):
    hook: str = Field(examples=["inference.batch_done"])
    payload: dict[str, Any] = Field(default_factory=dict)
    id: str | None = Field(default=None, description="Up to 255 characters; the same id and content is accepted once.")
    source: str | None = None
    time: str | None = Field(default=None, description="ISO-8601, UTC unless it says otherwise; now if left out.")
    tags: list[str] | None = None
    key: str | None = Field(default=None, description="Events of one key are handled in order.")
    traceparent: str | None = Field(default=None, description="W3C trace context.")


class EventsIn(Body):
    events: list[EventIn]


def schemas_by_hand() -> dict[str, Any]:
    """Return the schemas of bodies that FastAPI does not see, because their route decodes them itself."""
    return {
        model.__name__: {
            key: value
            for key, value in model.model_json_schema(ref_template=f"{SCHEMAS}{{model}}").items()
            if key != "$defs"
        }
        for model in (EventIn, EventsIn)
    }
