"""How things look as JSON: times are ISO-8601 in UTC, lists are `{"items", "next"}`."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response

from eventproc.engine.explain import Explanation
from eventproc.errors import EventprocError, InvalidInput
from eventproc.model import (
    Accepted,
    ApiKey,
    AuditEntry,
    Environment,
    Event,
    Failure,
    FileRecord,
    HandlerRecord,
    HandlerVersion,
    HookSpec,
    LogChunk,
    Notice,
    Outgoing,
    OutgoingState,
    Run,
    Schedule,
    Series,
    User,
    from_datetime,
    isoformat,
)
from eventproc.model.times import checked
from eventproc.registry.checks import storable
from eventproc.registry.options import options_to_json

T = TypeVar("T")
_encode = msgspec.json.Encoder(decimal_format="number").encode


def answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(_encode(value), status_code=status, headers=headers, media_type="application/json")


def error_json(error: EventprocError) -> dict[str, Any]:
    """Write an error in the one shape that clients rebuild it from."""
    return {"code": error.code, "message": storable(error.message), "details": jsonable(error.details)}


def jsonable(value: Any) -> Any:
    """Return what JSON can hold of details that some error carries."""
    try:
        return json.loads(storable(json.dumps(value, default=str, allow_nan=False, ensure_ascii=False)))
    except (TypeError, ValueError, RecursionError):
        return {}


def page(items: Sequence[T], shape: Callable[[T], Any], *, limit: int, cursor: Callable[[T], Any]) -> Response:
    """Return one page of a list; `next` is what `after` takes for the following one."""
    more = str(cursor(items[-1])) if items and len(items) >= limit else None
    return answer({"items": [shape(item) for item in items], "next": more})


def everything(items: Sequence[T], shape: Callable[[T], Any]) -> Response:
    """Return a list that is never cut."""
    return answer({"items": [shape(item) for item in items], "next": None})


def parse_time(text: str | None, name: str) -> int | None:
    """Read an ISO-8601 time (UTC unless it says otherwise) as microseconds."""
    if text is None or text == "":
        return None
    try:
        # A plus sign that was not escaped in a query arrives as a blank.
        return checked(from_datetime(dt.datetime.fromisoformat(text.replace(" 0", "+0") if "T" in text else text)))
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{name!r} must be a time such as 2026-01-02T03:04:05.678Z, not {text[:100]!r}", path=name
        ) from None


def parse_moment(text: str | None, name: str) -> int | None:
    """Read a time as ISO-8601, or as seconds since 1970, as microseconds."""
    if text and re.fullmatch(r"-?\d{1,12}(\.\d+)?", text):
        return round(float(text) * 1e6)
    return parse_time(text, name)


def json_or_none(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def time_or_none(us: int | None) -> str | None:
    return None if us is None else isoformat(us)


def user(value: User) -> dict[str, Any]:
    return {
        "id": value.id,
        "name": value.name,
        "role": value.role.value,
        "disabled": value.disabled,
        "created_at": isoformat(value.created_us),
    }


def api_key(value: ApiKey) -> dict[str, Any]:
    return {
        "prefix": value.prefix,
        "label": value.label,
        "created_at": isoformat(value.created_us),
        "revoked_at": time_or_none(value.revoked_us),
        "last_used_at": time_or_none(value.last_used_us),
    }


def audit_entry(value: AuditEntry) -> dict[str, Any]:
    return {
        "id": value.id,
        "at": isoformat(value.at_us),
        "user": value.user,
        "action": value.action,
        "object": value.object,
        "detail": value.detail,
    }


def hook(value: HookSpec) -> dict[str, Any]:
    return {
        "name": value.name,
        "summary": value.summary,
        "schema": value.schema,
        "sample": value.sample,
        "keep_s": value.keep_s,
        "keep_idle_s": value.keep_idle_s,
        "source": value.source,
        "owner": value.owner,
        "paused": value.paused,
    }


def handler(value: HandlerRecord, *, warnings: Sequence[str] | None = None) -> dict[str, Any]:
    current = value.current
    shape: dict[str, Any] = {
        "id": value.id,
        "name": value.name,
        "hook": value.hook,
        "version": current.version,
        "notify_on_success": current.notify_on_success,
        "notify_on_failure": current.notify_on_failure,
        "tags": list(current.tags),
        "created_at": isoformat(value.created_us),
        "created_by": value.created_by,
        "updated_at": isoformat(value.updated_us),
        "updated_by": value.updated_by,
        "paused": value.paused,
        "options": options_to_json(current.options),
        "deregistered_at": time_or_none(value.deregistered_us),
    }
    if warnings is not None:
        shape["warnings"] = list(warnings)
    return shape


def version(
    value: HandlerVersion, *, current: int | None = None, full: bool = False, environment: Environment | None = None
) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "handler_id": value.handler_id,
        "version": value.version,
        "current": value.version == current,
        "digest": value.digest,
        "size": value.size,
        "python": value.python,
        "dill": value.dill,
        "filename": value.filename,
        "qualname": value.qualname,
        "kind": value.kind,
        "globals": list(value.globals),
        "tags": list(value.tags),
        "notify_on_success": value.notify_on_success,
        "notify_on_failure": value.notify_on_failure,
        "options": options_to_json(value.options),
        "environment": value.environment,
        "created_at": isoformat(value.created_us),
        "created_by": value.created_by,
    }
    if full:
        shape["source"] = value.source
        shape["packages"] = list(environment.packages) if environment else []
        shape["lock"] = environment.lock if environment else None
    return shape


def event(value: Event) -> dict[str, Any]:
    return {
        "seq": value.seq,
        "id": value.id,
        "hook": value.hook,
        "source": value.source,
        "time": isoformat(value.time_us),
        "tags": list(value.tags),
        "key": value.key,
        "payload": msgspec.Raw(value.payload_json.encode()),
        "traceparent": value.trace_parent,
        "hops": value.hops,
        "accepted_at": isoformat(value.accepted_us),
        "caused_by_run": value.caused_by_run,
    }


def accepted(value: Accepted | EventprocError) -> dict[str, Any]:
    if isinstance(value, EventprocError):
        return {"error": error_json(value)}
    shape = {"id": value.id, "seq": value.seq, "duplicate": value.duplicate, "runs": value.runs}
    return shape | {"streams": value.streams} if value.streams else shape


def failure(value: Failure | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {
        "kind": value.kind,
        "message": value.message,
        "type": value.type,
        "traceback": value.traceback,
        "rolled_back": value.rolled_back,
    }


def run(value: Run) -> dict[str, Any]:
    return {
        "id": value.id,
        "state": value.state.value,
        "event_id": value.event_id,
        "event_seq": value.event_seq,
        "hook": value.hook,
        "handler_id": value.handler_id,
        "handler_name": value.handler_name,
        "version": value.version,
        "attempt": value.attempt,
        "interruptions": value.interruptions,
        "round": value.round,
        "created_at": isoformat(value.created_us),
        "due_at": isoformat(value.due_us),
        "started_at": time_or_none(value.started_us),
        "finished_at": time_or_none(value.finished_us),
        "order_key": value.order_key,
        "result": None if value.result_json is None else msgspec.Raw(value.result_json.encode()),
        "failure": failure(value.failure),
        "worker": value.worker,
        "sandbox": value.sandbox,
        "cpu_us": value.cpu_us,
        "memory_bytes": value.memory_bytes,
        "callbacks_only": value.callbacks_only,
    }


def log_chunk(value: LogChunk) -> dict[str, Any]:
    return {
        "id": value.id,
        "attempt": value.attempt,
        "stream": value.stream,
        "at": isoformat(value.at_us),
        "text": value.text,
    }


def explanation(value: Explanation) -> dict[str, Any]:
    reasons = [{"check": reason.check, "ok": reason.ok, "text": reason.text} for reason in value.reasons]
    return {"verdict": value.verdict, "reasons": reasons, "runs": [run(found) for found in value.runs]}


def file(value: FileRecord, *, base_url: str) -> dict[str, Any]:
    return {
        "code": value.code,
        "run": value.run_id,
        "name": value.name,
        "size": value.size,
        "digest": value.digest,
        "created_at": isoformat(value.created_us),
        "url": f"{base_url.rstrip('/')}/{value.code}",
    }


def schedule(value: Schedule) -> dict[str, Any]:
    return {
        "name": value.name,
        "cron": value.cron,
        "timezone": value.timezone,
        "hook": value.hook,
        "tags": list(value.tags),
        "payload": value.payload,
        "next_at": isoformat(value.next_us),
        "paused": value.paused,
    }


def notice(value: Notice, *, full: bool = False) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "id": value.id,
        "run": value.run_id,
        "outcome": value.outcome,
        "serial": value.serial,
        "recipients": list(value.recipients),
        "refused": list(value.refused),
        "state": value.state.value,
        "attempts": value.attempts,
        "due_at": isoformat(value.due_us),
        "created_at": isoformat(value.created_us),
        "sent_at": time_or_none(value.sent_us),
        "error": value.error,
        "message_id": value.message_id,
        "subject": value.subject,
    }
    if full:
        shape["mail"] = None if value.mail is None else _mail_text(value.mail)
    return shape


def outgoing(value: Outgoing, *, full: bool = False) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "id": value.id,
        "kind": value.kind,
        "target": value.target,
        "state": value.state.value,
        "bytes": len(value.body),
        "attempts": value.attempts,
        "due_at": isoformat(value.due_us) if value.state is OutgoingState.PENDING else None,
        "created_at": isoformat(value.created_us),
        "error": value.error,
    }
    if full:
        shape["headers"] = {name: "…" if name == "login.key" else text for name, text in value.headers.items()}
        shape["body"] = value.body.decode("utf-8", "replace")
    return shape


def _mail_text(mail: bytes) -> str:
    try:
        return mail.decode()
    except UnicodeDecodeError:
        return mail.decode("latin-1")


def series(value: Series) -> dict[str, Any]:
    return {
        "uuid": value.uuid,
        "name": value.name,
        "collection": value.collection,
        "unit": value.unit,
        "tags": value.tags,
        "annotations": value.annotations,
        "layout": value.layout,
        "count": value.count,
        "earliest": value.earliest_ns,
        "latest": value.latest_ns,
        "created_at": isoformat(value.created_us),
    }
