"""winchester.db on a running platform: looks at, resets and deletes; the engine does the rest by itself."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from eventproc.client import Connection
from eventproc.compat.winchester.modules.interface import (
    LIMIT,
    DBInterface,
    DuplicateError,
    LockError,
    NoSuchEventError,
    NoSuchStreamError,
    Stream,
    read_mark,
    write_mark,
)
from eventproc.compat.winchester.modules.models import DBException, StreamState
from eventproc.compat.winchester.modules.trigger_manager import new_event
from eventproc.errors import Conflict, NotFound
from eventproc.ingress.distiller.definitions import parse_time
from eventproc.model import DATETIMES

_ENGINE = "the platform's engine does that by itself, in the transaction that accepts an event (`eventproc serve`)"
_RETENTION = "how long events stay is the platform's retention (EVENTPROC_RETENTION__EVENTS)"
GONE = {
    **dict.fromkeys(
        (
            "create_stream",
            "add_event_stream",
            "get_active_stream",
            "stream_ready_to_fire",
            "get_ready_streams",
            "set_stream_state",
        ),
        _ENGINE,
    ),
    **dict.fromkeys(("find_older_events", "purge_events"), _RETENTION),
    "get_event_type": "event types are hooks (`eventproc hooks list`)",
    **dict.fromkeys(("engine", "get_session", "sessioned"), "the tables are the platform's own; use its HTTP API"),
}


class PlatformInterface(DBInterface):
    """winchester's questions about events and streams, put to a running platform; its key is the environment's."""

    def __init__(self, config: Mapping[str, Any] | None = None, *, connection: Connection | None = None) -> None:
        self.config = dict(config or {})
        url = str(self.config.get("url") or "")
        named = url if url.startswith(("http://", "https://")) else None
        self._connection = connection or Connection(named)

    def __getattr__(self, name: str) -> NoReturn:
        if name in GONE:
            raise AttributeError(f"DBInterface.{name} is not here: {GONE[name]}")
        raise AttributeError(f"DBInterface has no {name!r}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # ------------------------------------------------------------------ events

    def create_event(
        self, message_id: str, event_type: str, generated: dt.datetime, traits: Mapping[str, Any] | None = None
    ) -> None:
        """Send an event; triggers see it too. Raises DuplicateError."""
        said = {**(traits or {}), "message_id": message_id, "event_type": event_type, "timestamp": generated}
        (answer,) = self._connection.emit_many([new_event(said)])
        error = answer.get("error")
        if answer.get("duplicate") or (error is not None and error["code"] == "event_conflict"):
            raise DuplicateError(f"Duplicate event: {message_id}")
        if error is not None:
            raise Conflict(error["message"], **error.get("details", {}))

    def get_event_by_message_id(self, message_id: str) -> dict[str, Any]:
        """Return an event. Raises NoSuchEventError."""
        try:
            return _event(self._connection.event(message_id))
        except NotFound as error:
            raise NoSuchEventError(f"No event found with message_id {message_id}") from error

    def find_events(  # noqa: PLR0917 - winchester's signature
        self,
        from_datetime: dt.datetime | None = None,
        to_datetime: dt.datetime | None = None,
        event_name: str | None = None,
        traits: Mapping[str, Any] | None = None,
        mark: str | None = None,
        limit: int | None = None,
        count: bool = False,  # noqa: FBT001, FBT002 - winchester's signature
    ) -> list[dict[str, Any]]:
        """Return events later than `from_datetime`, not later than `to_datetime`, the newest first, or their count."""
        after, oldest_first = read_mark(mark)
        if oldest_first:
            raise DBException(f"mark {mark!r}: events are listed newest first; leave the + out")
        params = {
            "hook": event_name,
            "since": _iso(from_datetime, later_us=1),
            "until": _iso(to_datetime, later_us=1),
            "trait": _traits(traits),
            "after": None if after is None else str(after),
        }
        found = self._list("/events", params, limit=None if count else limit or LIMIT)
        if count:
            return [{"count": len(found)}]
        return [{**_event(event), "_mark": write_mark(event["seq"], upwards=False)} for event in found]

    # ------------------------------------------------------------------ streams

    def get_stream_by_id(self, stream_id: int) -> Stream:
        """Return a stream. Raises NoSuchStreamError."""
        return _stream(self._shape(stream_id))

    def stream_has_dist_trait(self, stream_id: int, name: str, value: Any = None) -> dict[str, Any] | None:
        """Return the distinguishing trait if the stream has it (with that value, unless None), else None."""
        traits = self._shape(stream_id)["distinguished_by"]
        if name not in traits or (value is not None and traits[name] != value):
            return None
        return {name: traits[name]}

    def get_stream_events(self, stream: Stream) -> list[dict[str, Any]]:
        """Return the events of a stream by their times. Raises NoSuchStreamError."""
        return [_event(event) for event in self._shape(stream.id, events=True)["held"]]

    def find_streams(  # noqa: PLR0917 - winchester's signature
        self,
        count: bool = False,  # noqa: FBT001, FBT002 - winchester's signature
        stream_id: int | None = None,
        state: StreamState | str | None = None,
        older_than: dt.datetime | None = None,
        younger_than: dt.datetime | None = None,
        name: str | None = None,
        distinguishing_traits: Mapping[str, Any] | None = None,
        include_events: bool = False,  # noqa: FBT001, FBT002 - the same
        limit: int | None = None,
        mark: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return streams as dicts, the newest first (oldest with a mark that begins with +), or their count."""
        after, oldest_first = read_mark(mark)
        if stream_id is not None:
            try:
                found = [self._shape(stream_id)]
            except NoSuchStreamError:
                found = []
        else:
            params = {
                "trigger": name,
                "state": state if state is None or isinstance(state, str) else StreamState(state).name,
                "older_than": _iso(older_than),
                "younger_than": _iso(younger_than),
                "trait": _traits(distinguishing_traits),
                "oldest_first": "true" if oldest_first else None,
                "after": None if after is None else str(after),
            }
            found = self._list("/streams", params, limit=None if count else limit or LIMIT)
        if count:
            return [{"count": len(found)}]
        return [self._as_dict(shape, upwards=oldest_first, events=include_events) for shape in found]

    def reset_stream(self, stream: Stream) -> Stream:
        """Make error retry_fire and expire_error retry_expire; return the stream as it is then."""
        self._shape(stream.id)
        self._connection.reset_streams(stream.id)
        return self.get_stream_by_id(stream.id)

    def purge_stream(self, stream: Stream) -> None:
        """Delete a stream; its events stay. Raises NoSuchStreamError, and LockError while a pipeline works on it."""
        self._shape(stream.id)
        refused = self._connection.delete_streams(stream.id)["refused"]
        if refused:
            raise LockError(refused[0]["reason"])

    def _shape(self, stream_id: int, *, events: bool = False) -> dict[str, Any]:
        try:
            return self._connection.stream(stream_id, events=events)
        except NotFound as error:
            raise NoSuchStreamError(f"No stream found with id {stream_id}") from error

    def _list(self, path: str, params: Mapping[str, Any], *, limit: int | None) -> list[dict[str, Any]]:
        return list(self._connection.pages(path, params, limit))

    def _as_dict(self, shape: Mapping[str, Any], *, upwards: bool, events: bool) -> dict[str, Any]:
        stream = _stream(shape)
        found = {**stream.as_dict, "_mark": write_mark(stream.id, upwards=upwards)}
        return {**found, "events": self.get_stream_events(stream)} if events else found


def _traits(traits: Mapping[str, Any] | None) -> list[str] | None:
    return [f"{name}:{json.dumps(value)}" for name, value in (traits or {}).items()] or None


def _iso(moment: dt.datetime | None, *, later_us: int = 0) -> str | None:
    if moment is None:
        return None
    aware = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment
    return (aware + dt.timedelta(microseconds=later_us)).isoformat()


def _naive(text: str) -> dt.datetime:
    return parse_time(text).replace(tzinfo=None)


def _stream(shape: Mapping[str, Any]) -> Stream:
    return Stream(
        id=shape["id"],
        name=shape["trigger"],
        state=StreamState[shape["state"]],
        state_serial_no=shape["serial"],
        first_event=_naive(shape["first_event"]),
        last_event=_naive(shape["last_event"]),
        fire_timestamp=_naive(shape["fire_at"]) if shape["fire_at"] else None,
        expire_timestamp=_naive(shape["expire_at"]),
        distinguished_by_dict=shape["distinguished_by"],
    )


def _event(shape: Mapping[str, Any]) -> dict[str, Any]:
    traits = dict(shape["payload"]) if isinstance(shape["payload"], Mapping) else {}
    for name in traits.pop(DATETIMES, ()):
        traits[name] = _naive(traits[name])
    own = {"message_id": shape["id"], "event_type": shape["hook"], "timestamp": _naive(shape["time"])}
    return {**traits, **own}
