"""winchester.db on a database of winchester's own."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from eventproc.client import Connection
from eventproc.compat.winchester.modules import timex
from eventproc.compat.winchester.modules.interface import (
    DatabaseConnectionError,
    DBInterface,
    DuplicateError,
    LockError,
    NoSuchEventError,
    NoSuchStreamError,
    Stream,
    read_mark,
    write_mark,
)
from eventproc.compat.winchester.modules.models import InvalidTraitType, StreamState
from eventproc.errors import Conflict, StoreUnavailable
from eventproc.store.winchester import RawEngine, Tagged, WinchesterDatabase

logger = logging.getLogger("winchester.db")

Expression = Callable[..., Any]  # of first and last; its result has a timestamp


class OwnInterface(DBInterface):
    """
    winchester's DBInterface, on its own tables. Each call is one transaction, or part of its `session`.

    What it does differently: an unknown event type is not made by looking for it, and streams come by their ids.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, *, connection: Connection | None = None) -> None:
        del connection  # an interface with one is the platform's
        self.config = dict(config or {})
        self.db_url = str(self.config["url"])
        self.echo_sql = bool(self.config.get("echo_sql", False))
        self._tables = WinchesterDatabase(self.db_url, echo=self.echo_sql)

    @property
    def engine(self) -> RawEngine:
        return self._tables.engine

    def close(self) -> None:
        """Close the connections."""
        self._tables.close()

    @contextlib.contextmanager
    def in_session(self) -> Iterator[Any]:
        """One transaction, for several calls. Raises DuplicateError and DatabaseConnectionError."""
        try:
            with self._tables.in_session() as session:
                yield session
        except Conflict as error:
            raise DuplicateError(error.message) from error
        except StoreUnavailable as error:
            raise DatabaseConnectionError(error.message) from error

    def _in(self, session: Any) -> contextlib.AbstractContextManager[Any]:
        return self.in_session() if session is None else contextlib.nullcontext(session)

    # ------------------------------------------------------------------ events

    def get_event_type(self, description: str, session: Any = None) -> SimpleNamespace:
        """Return an event type (id, desc), made if it is not there."""
        with self._in(session) as within:
            number = self._tables.event_type(within, description, make=True)
        return SimpleNamespace(id=number, desc=description)

    def create_event(
        self,
        message_id: str,
        event_type: str,
        generated: dt.datetime,
        traits: Mapping[str, Any] | None = None,
        session: Any = None,
    ) -> None:
        """Store an event; traits of other types than text, number and datetime are left out, with a line in the log."""
        tagged = {}
        for name, value in (traits or {}).items():
            try:
                if value is not None:
                    tagged[name] = tag(value)
            except InvalidTraitType as error:
                logger.error("Invalid trait for %s: %s (%s)", message_id, name, error)  # noqa: TRY400 - no fault of ours
        with self._in(session) as within:
            self._tables.add_event(within, message_id, event_type, generated, tagged)

    def get_event_by_message_id(self, message_id: str, session: Any = None) -> dict[str, Any]:
        """Return an event. Raises NoSuchEventError."""
        with self._in(session) as within:
            found = self._tables.events(within, message_id=message_id)
        if not found:
            raise NoSuchEventError(f"No event found with message_id {message_id}!")
        return _event(found[0])

    def find_older_events(self, purge_date: dt.datetime, batch_size: int, session: Any = None) -> list[int]:
        """Return the ids of the oldest events before a time."""
        with self._in(session) as within:
            return self._tables.older_events(within, purge_date, batch_size)

    def purge_events(self, event_ids: Sequence[int], session: Any = None) -> None:
        """Delete events, also out of their streams."""
        with self._in(session) as within:
            self._tables.purge_events(within, list(event_ids))

    def find_events(  # noqa: PLR0917 - winchester's signature
        self,
        from_datetime: dt.datetime | None = None,
        to_datetime: dt.datetime | None = None,
        event_name: str | None = None,
        traits: Mapping[str, Any] | None = None,
        mark: str | None = None,
        limit: int | None = None,
        session: Any = None,
        count: bool = False,  # noqa: FBT001, FBT002 - winchester's signature
    ) -> list[dict[str, Any]]:
        """Return events later than `from_datetime`, not later than `to_datetime`, the newest first, or their count."""
        after, upwards = read_mark(mark)
        with self._in(session) as within:
            found = self._tables.events(
                within,
                since=from_datetime,
                until=to_datetime,
                event_type=event_name,
                traits=_tagged(traits),
                after=after,
                oldest_first=upwards,
                limit=None if count else limit,
            )
        if count:
            return [{"count": len(found)}]
        return [{**_event(row), "_mark": write_mark(row["id"], upwards=upwards)} for row in found]

    # ------------------------------------------------------------------ streams

    def get_stream_by_id(self, stream_id: int, session: Any = None) -> Stream:
        """Return a stream. Raises NoSuchStreamError."""
        with self._in(session) as within:
            found = self._tables.streams(within, stream=stream_id)
        if not found:
            raise NoSuchStreamError(f"No stream found with id {stream_id}!")
        return _stream(found[0])

    def create_stream(
        self,
        trigger_name: str,
        initial_event: Mapping[str, Any],
        dist_traits: Mapping[str, Any],
        expire_expr: Expression,
        session: Any = None,
    ) -> Stream:
        """Store a stream that holds an event which is stored already."""
        when = initial_event["timestamp"]
        values = {
            "name": trigger_name,
            "first_event": when,
            "last_event": when,
            "expire_timestamp": expire_expr(first=when, last=when).timestamp,
        }
        with self._in(session) as within:
            number = self._tables.add_stream(within, values, _tagged(dist_traits))
            self._link(within, number, initial_event["message_id"])
            return self.get_stream_by_id(number, session=within)

    def add_event_stream(
        self, stream: Stream, event: Mapping[str, Any], expire_expr: Expression, session: Any = None
    ) -> None:
        """Put an event, which is stored already, into a stream; `stream` tells its new times afterwards."""
        when = event["timestamp"]
        first, last = min(stream.first_event, when), max(stream.last_event, when)
        expires = expire_expr(first=first, last=last).timestamp
        with self._in(session) as within:
            values = {"first_event": first, "last_event": last, "expire_timestamp": expires}
            self._tables.change_stream(within, stream.id, values, serial=None)
            self._link(within, stream.id, event["message_id"])
        stream.first_event, stream.last_event, stream.expire_timestamp = first, last, expires

    def _link(self, session: Any, stream_id: int, message_id: str) -> None:
        if not self._tables.link(session, stream_id, message_id):
            raise NoSuchEventError(f"No event found with message_id {message_id}!")

    def stream_has_dist_trait(
        self, stream_id: int, name: str, value: Any = None, session: Any = None
    ) -> dict[str, Any] | None:
        """Return the distinguishing trait if the stream has it (with that value, unless None), else None."""
        traits = None if value is None else _tagged({name: value})
        with self._in(session) as within:
            found = self._tables.streams(within, stream=stream_id, traits=traits)
        if not found or name not in found[0]["traits"]:
            return None
        return {name: _value(found[0]["traits"][name])}

    def get_stream_events(self, stream: Stream, session: Any = None) -> list[dict[str, Any]]:
        """Return the events of a stream by their times."""
        with self._in(session) as within:
            return [_event(row) for row in self._tables.events(within, stream=stream.id)]

    def get_active_stream(
        self, name: str, dist_traits: Mapping[str, Any], current_time: dt.datetime, session: Any = None
    ) -> Stream | None:
        """Return the stream that an event of these traits joins, if there is one."""
        with self._in(session) as within:
            found = self._tables.streams(
                within,
                name=name,
                states=[StreamState.active],
                expires_after=current_time,
                traits=_tagged(dist_traits),
                oldest_first=True,
                limit=1,
            )
        return _stream(found[0]) if found else None

    def stream_ready_to_fire(self, stream: Stream, timestamp: dt.datetime, session: Any = None) -> None:
        """Note when a stream fires."""
        with self._in(session) as within:
            self._tables.change_stream(within, stream.id, {"fire_timestamp": timestamp}, serial=None)
        stream.fire_timestamp = timestamp

    def get_ready_streams(
        self,
        batch_size: int,
        current_time: dt.datetime,
        expire: bool = False,  # noqa: FBT001, FBT002 - winchester's signature
        session: Any = None,
    ) -> list[Stream]:
        """Return streams that are to fire, or to expire."""
        with self._in(session) as within:
            found = self._tables.streams(
                within,
                states=[StreamState.active, StreamState.retry_expire if expire else StreamState.retry_fire],
                expires_before=current_time if expire else None,
                fires_before=None if expire else current_time,
                oldest_first=True,
                limit=batch_size,
            )
        return [_stream(row) for row in found]

    def set_stream_state(self, stream: Stream, state: StreamState) -> Stream:
        """Change the state, in a transaction of its own; return the stream as it is then. Raises LockError."""
        values = {"state": int(state), "state_serial_no": stream.state_serial_no + 1}
        with self.in_session() as session:
            if not self._tables.change_stream(session, stream.id, values, serial=stream.state_serial_no):
                raise LockError("Optimistic Lock failed!")
        return self.get_stream_by_id(stream.id)

    def reset_stream(self, stream: Stream) -> Stream:
        """Make error retry_fire and expire_error retry_expire; return the stream as it is then."""
        retry = {StreamState.error: StreamState.retry_fire, StreamState.expire_error: StreamState.retry_expire}
        return self.set_stream_state(stream, retry[stream.state]) if stream.state in retry else stream

    def find_streams(  # noqa: PLR0917 - winchester's signature
        self,
        count: bool = False,  # noqa: FBT001, FBT002 - winchester's signature
        stream_id: int | None = None,
        state: StreamState | int | None = None,
        older_than: dt.datetime | None = None,
        younger_than: dt.datetime | None = None,
        name: str | None = None,
        distinguishing_traits: Mapping[str, Any] | None = None,
        session: Any = None,
        include_events: bool = False,  # noqa: FBT001, FBT002 - the same
        limit: int | None = None,
        mark: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return streams as dicts, the newest first (oldest with a mark that begins with +), or their count."""
        after, upwards = read_mark(mark)
        with self._in(session) as within:
            found = self._tables.streams(
                within,
                stream=stream_id,
                name=name,
                states=None if state is None else [int(state)],
                older_than=older_than,
                younger_than=younger_than,
                traits=_tagged(distinguishing_traits),
                after=after,
                oldest_first=upwards,
                limit=None if count else limit,
            )
            if count:
                return [{"count": len(found)}]
            streams = [_stream(row) for row in found]
            return [
                {
                    **stream.as_dict,
                    "_mark": write_mark(stream.id, upwards=upwards),
                    **({"events": self.get_stream_events(stream, session=within)} if include_events else {}),
                }
                for stream in streams
            ]

    def purge_stream(self, stream: Stream, session: Any = None) -> None:
        """Delete a stream; its events stay."""
        with self._in(session) as within:
            self._tables.purge_stream(within, stream.id)


def tag(value: Any) -> Tagged:
    """Return a value with winchester's name of its type. Raises InvalidTraitType."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "ignore")
    if hasattr(value, "begin") and hasattr(value, "end"):  # timex's own, or what stands in for it
        return ("datetime", value.begin) if value.begin == value.end else ("timerange", (value.begin, value.end))
    kinds = {str: "string", int: "int", float: "float", dt.datetime: "datetime"}
    if type(value) not in kinds:  # exactly these: a bool is no int to winchester
        raise InvalidTraitType(f"a {type(value).__name__} is none of text, int, float and datetime")
    return kinds[type(value)], value


def _tagged(traits: Mapping[str, Any] | None) -> dict[str, Tagged]:
    return {name: tag(value) for name, value in (traits or {}).items()}


def _value(value: Any) -> Any:
    return _time_range()(*value) if isinstance(value, tuple) else value


def _time_range() -> Any:
    try:
        return importlib.import_module("timex").TimeRange
    except ImportError:
        return timex.TimeRange


def _event(row: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: row[name] for name in ("message_id", "event_type", "timestamp")}
    return {**row["traits"], **own}


def _stream(row: Mapping[str, Any]) -> Stream:
    plain = ("id", "name", "state_serial_no", "first_event", "last_event", "fire_timestamp", "expire_timestamp")
    return Stream(
        **{name: row[name] for name in plain},
        state=StreamState(row["state"]),
        distinguished_by_dict={name: _value(value) for name, value in row["traits"].items()},
    )
