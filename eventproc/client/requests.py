"""Events on their way out: checked here, written as JSON once, sent in batches."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventproc.codec.events import payload_json
from eventproc.errors import EventprocError, InvalidInput
from eventproc.model import NewEvent, from_datetime, isoformat

BATCH_EVENTS = 500
BATCH_BYTES = 8 << 20  # of one request; the server takes more
_NO_LIMIT = 1 << 62  # payload sizes are the server's to judge

_FIELDS = ("hook", "payload", "id", "source", "time", "tags", "key", "traceparent")


@dataclass(frozen=True, slots=True)
class Ready:
    """An event as JSON text. `own_id` says that the id was made here, so that sending it twice does no harm."""

    id: str
    own_id: bool
    text: str


def timestamp(value: dt.datetime | str | None) -> str | None:
    """Return a time as the API reads it: ISO-8601 in UTC; a naive datetime is taken as UTC."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dt.datetime):
        return _written(from_datetime(value))
    raise InvalidInput(f"a time is a datetime or an ISO-8601 text, not {type(value).__name__}")


def _written(time_us: int) -> str:
    try:
        return isoformat(time_us)
    except OverflowError as error:
        raise InvalidInput(f"a time of {time_us} µs lies outside of the years 1 to 9999") from error


def ready(
    hook: str,
    payload: Mapping[str, Any],
    *,
    id: str | None = None,
    tags: Sequence[str] = (),
    key: str | None = None,
    time: dt.datetime | str | None = None,
    source: str | None = None,
    traceparent: str | None = None,
) -> Ready:
    """Check an event and write it. Raises InvalidPayload with the JSON path, InvalidInput for the rest."""
    if not isinstance(hook, str) or not hook:
        raise InvalidInput("emit: the hook's name comes first, then the payload")
    if isinstance(tags, str):
        raise InvalidInput(f"emit: tags is a list of texts; write tags=[{tags!r}]")
    if id is not None and (not isinstance(id, str) or not id):
        raise InvalidInput(f"emit: an id is a text, not {id!r:.60}")
    members: dict[str, Any] = {"hook": hook, "id": id or str(uuid.uuid4())}
    optional = {"source": source, "time": timestamp(time), "tags": list(tags), "key": key, "traceparent": traceparent}
    members.update({name: value for name, value in optional.items() if value})
    try:
        head = json.dumps(members, ensure_ascii=False, allow_nan=False)
        head.encode("utf-8", "strict")
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"emit: id, tags, key and source are texts: {error}") from error
    return Ready(members["id"], id is None, f'{head[:-1]},"payload":{payload_json(payload, max_bytes=_NO_LIMIT)}}}')


def read_item(item: Any) -> Ready | EventprocError:
    """Make one item of `emit_many` ready, or say what is wrong with it: its neighbours are sent all the same."""
    try:
        if isinstance(item, NewEvent):
            time = None if item.time_us is None else _written(item.time_us)
            return ready(
                item.hook,
                item.payload,
                id=item.id,
                tags=item.tags,
                key=item.key,
                time=time,
                source=item.source,
                traceparent=item.trace_parent,
            )
        if isinstance(item, Mapping):
            if unknown := [str(name) for name in item if name not in _FIELDS]:
                raise InvalidInput(f"emit_many: unknown member {unknown[0]!r}; there are {', '.join(_FIELDS)}")
            if "hook" not in item:
                raise InvalidInput("emit_many: an event without a hook")
            return ready(**{"payload": {}, **item})
        if isinstance(item, tuple) and len(item) == 2:
            return ready(*item)
        raise InvalidInput(f"emit_many: expected a dict, a (hook, payload) pair or a NewEvent, not {item!r:.60}")
    except EventprocError as error:
        return error


def batches(items: Iterable[Any]) -> Iterator[list[Ready | EventprocError]]:
    """Cut events into requests of bounded number and size."""
    batch: list[Ready | EventprocError] = []
    size = 0
    for item in items:
        event = read_item(item)
        length = len(event.text) if isinstance(event, Ready) else 0
        if batch and (len(batch) >= BATCH_EVENTS or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += length
    if batch:
        yield batch


def error_item(error: EventprocError) -> dict[str, Any]:
    """Return an error as the server reports one in a list."""
    return {"error": {"code": error.code, "message": error.message, "details": error.details}}
