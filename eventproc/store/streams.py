"""Streams: joined in batches, due by time, in step with the runs that they were given to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Integer, Text, bindparam, case, func, literal_column, select, text
from sqlalchemy.types import TypeEngine

from eventproc.abc import Handover, Joinable
from eventproc.model import Event, Stream, StreamFilter, StreamState
from eventproc.store.base import BulkUpdate, IntList, Rows, any_of, to_json
from eventproc.store.events import event_of
from eventproc.store.failures import failure_from_json, failure_to_json
from eventproc.store.schema import EXPIRES, FIRES, UNCOMPLETED, events, stream_events, streams

_JOINABLE = (
    select(
        streams.c.id,
        streams.c.join_key,
        streams.c.trigger_id,
        streams.c.trigger_version,
        streams.c.first_us,
        streams.c.last_us,
        streams.c.events,
        streams.c.matched,
        streams.c.hops,
        streams.c.fire_us,
        streams.c.expire_us,
    )
    .where(any_of(streams.c.join_key, "keys"))
    .order_by(streams.c.join_key)  # two transactions never wait for each other in a circle
    .with_for_update()
)
_CHANGED: Final[dict[str, TypeEngine[Any]]] = {
    "join_key": Text(),
    "trigger_version": Integer(),
    "first_us": BigInteger(),
    "last_us": BigInteger(),
    "events": BigInteger(),
    "matched": Text(),
    "hops": Integer(),
    "fire_us": BigInteger(),
    "expire_us": BigInteger(),
    "updated_us": BigInteger(),
}
_CHANGE = BulkUpdate(table=streams, params=_CHANGED, values=lambda param: {name: param(name) for name in _CHANGED})
_HAND_OVER = BulkUpdate(
    table=streams,
    params={
        "state": Integer(),
        "expiring": Boolean(),
        "given": Integer(),
        "run_id": BigInteger(),
        "failure_json": Text(),
        "updated_us": BigInteger(),
    },
    values=lambda param: {
        "state": param("state"),
        "expiring": param("expiring"),
        "join_key": None,
        "serial": streams.c.serial + 1,
        "attempts": streams.c.attempts + param("given"),
        "run_id": func.coalesce(param("run_id"), streams.c.run_id),
        "failure_json": param("failure_json"),
        "updated_us": param("updated_us"),
    },
)
_EVENTS = (
    select(stream_events.c.stream_id, *events.c)
    .join_from(stream_events, events, events.c.seq == stream_events.c.event_seq)
    .where(any_of(stream_events.c.stream_id, "ids"))
    .order_by(stream_events.c.stream_id, events.c.time_us, events.c.seq)
)
_OF_EVENTS = select(stream_events.c.event_seq, stream_events.c.stream_id).where(
    any_of(stream_events.c.event_seq, "seqs")
)
_SKIP = {"sqlite": "", "postgresql": " FOR UPDATE SKIP LOCKED"}
_NAMES: Final = ", ".join(column.name for column in streams.c)


def _due(dialect: str, *, expiring: bool) -> Any:
    column, which = ("expire_us", EXPIRES) if expiring else ("fire_us", FIRES)
    return text(
        f"SELECT {_NAMES} FROM streams WHERE {which} AND {column} <= :now_us"  # noqa: S608 - constants
        f" ORDER BY {column}, id LIMIT :wanted{_SKIP[dialect]}"
    )


_DUE = {(dialect, expiring): _due(dialect, expiring=expiring) for dialect in _SKIP for expiring in (False, True)}
_NEXT_DUE = text(
    f"SELECT (SELECT min(fire_us) FROM streams WHERE {FIRES}), (SELECT min(expire_us) FROM streams WHERE {EXPIRES})"  # noqa: S608
)
# What a run's state means for its stream. A run that waits for its callbacks only has completed the stream before.
_FOLLOWED = (
    "SELECT s.id AS stream_id, s.state AS stream_state, s.expiring, r.state, r.failure_json FROM streams s"
    " JOIN runs r ON r.id = s.run_id WHERE s.run_id IS NOT NULL AND s.run_id"
)
_FOLLOW = {
    dialect: text(f"{_FOLLOWED} {these}").bindparams(bindparam("ids", type_=IntList()))
    for dialect, these in (
        ("sqlite", "IN (SELECT value FROM json_each(:ids))"),
        ("postgresql", "= ANY (:ids) ORDER BY s.id FOR UPDATE OF s"),
    )
}
_IN_STEP = BulkUpdate(
    table=streams,
    params={"state": Integer(), "failure_json": Text(), "updated_us": BigInteger()},
    values=lambda param: {
        "state": param("state"),
        "serial": streams.c.serial + 1,
        "failure_json": param("failure_json"),
        "updated_us": param("updated_us"),
    },
)
_OUT_OF_STEP = text(
    "SELECT r.id FROM streams s JOIN runs r ON r.id = s.run_id"  # noqa: S608 - our own constants
    f" WHERE s.state IN ({StreamState.FIRING:d}, {StreamState.EXPIRING:d}) AND s.{UNCOMPLETED}"  # names the index
    " AND r.state IN ('succeeded', 'failed', 'commit_failed', 'cancelled') ORDER BY r.id LIMIT :wanted"
)
_RESETTABLE = (
    select(streams.c.id)
    .where(any_of(streams.c.id, "ids"), streams.c.state.in_((StreamState.ERROR, StreamState.EXPIRE_ERROR)))
    .order_by(streams.c.id)
    .with_for_update()
)


def _is(state: StreamState) -> Any:
    return streams.c.state == literal_column(str(int(state)))


def _due_again(column: Any, state: StreamState, now_us: Any) -> Any:
    """Return when one in that error is due: now, or still when it was, for the time of events may be long ago."""
    later = (column.is_(None)) | (column > now_us)
    return case((_is(state) & later, now_us), else_=column)


_RESET = BulkUpdate(
    table=streams,
    params={"now_us": BigInteger()},
    values=lambda param: {
        "state": case(
            (_is(StreamState.ERROR), literal_column(str(int(StreamState.RETRY_FIRE)))),
            else_=literal_column(str(int(StreamState.RETRY_EXPIRE))),
        ),
        "serial": streams.c.serial + 1,
        "fire_us": _due_again(streams.c.fire_us, StreamState.ERROR, param("now_us")),
        "expire_us": _due_again(streams.c.expire_us, StreamState.EXPIRE_ERROR, param("now_us")),
        "updated_us": param("now_us"),
    },
)
_IDLE = (
    select(streams.c.id)
    .where(any_of(streams.c.id, "ids"), streams.c.state.not_in((StreamState.FIRING, StreamState.EXPIRING)))
    .order_by(streams.c.id)
    .with_for_update()
)
_DELETE_LINKS = stream_events.delete().where(any_of(stream_events.c.stream_id, "ids"))
_DELETE = streams.delete().where(any_of(streams.c.id, "ids"))
_GET = select(streams).where(streams.c.id == bindparam("id"))
_COUNTS = select(streams.c.state, func.count()).where(text(UNCOMPLETED)).group_by(streams.c.state)

_OPEN = frozenset({"queued", "running", "retrying"})
_DONE = frozenset({"committing", "succeeded"})


def _matched(text_: str) -> list[int]:
    return [int(number) for number in text_.split(",")] if text_ else []


def _stream(row: Any) -> Stream:
    return Stream(
        id=row.id,
        trigger_id=row.trigger_id,
        trigger_version=row.trigger_version,
        name=row.name,
        distinguished_by=json.loads(row.traits_json),
        state=StreamState(row.state),
        serial=row.serial,
        joinable=row.join_key is not None,
        first_us=row.first_us,
        last_us=row.last_us,
        events=row.events,
        matched=tuple(_matched(row.matched)),
        fire_us=row.fire_us,
        expire_us=row.expire_us,
        hops=row.hops,
        attempts=row.attempts,
        run_id=row.run_id,
        failure=failure_from_json(row.failure_json),
        created_us=row.created_us,
        updated_us=row.updated_us,
    )


class SqlStreams(Rows):
    """Streams by id."""

    # ---------------------------------------------------------------------------------------- joining

    def joinable(self, keys: Sequence[str]) -> dict[str, Joinable]:
        """Return the streams that events with these keys join, locked until the end of the transaction."""
        return {
            row[1]: Joinable(
                row[0], row[1], row[2], row[3], row[4], row[5], row[6], _matched(row[7]), row[8], row[9], row[10]
            )
            for row in self._all(_JOINABLE, {"keys": list(keys)})
        }

    def add(self, new: Sequence[Joinable], *, now_us: int) -> set[str]:
        """Insert streams and give them their ids; return the keys of those inserted."""
        if not new:
            return set()
        work = self.work
        for stream, number in zip(new, work.bulk.serials(work.conn, streams, len(new)), strict=True):
            stream.id = number
        rows = [_new_values(stream, now_us) for stream in new]
        if work.bulk.name != "sqlite":  # see SqlEvents.add: no waiting in a circle
            rows.sort(key=lambda row: row["join_key"] or "")
        return work.bulk.insert_new(work.conn, streams, rows, "join_key")

    def change(self, changed: Sequence[Joinable], *, now_us: int) -> None:
        """Write back what joining changed."""
        rows = [
            {
                "id": stream.id,
                "join_key": stream.key,
                "trigger_version": stream.trigger_version,
                "first_us": stream.first_us,
                "last_us": stream.last_us,
                "events": stream.events,
                "matched": ",".join(map(str, stream.matched)),
                "hops": stream.hops,
                "fire_us": stream.fire_us,
                "expire_us": stream.expire_us,
                "updated_us": now_us,
            }
            for stream in changed
        ]
        if rows:
            self.work.bulk.update(self.work.conn, _CHANGE, rows)

    def link(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Add events to streams, as (stream id, event seq)."""
        rows = [{"stream_id": stream_id, "event_seq": seq} for stream_id, seq in pairs]
        if rows:
            self.work.bulk.insert_new(self.work.conn, stream_events, rows, "event_seq")

    def events(self, stream_ids: Sequence[int]) -> dict[int, list[Event]]:
        """Return the streams' events by (time, seq)."""
        found: dict[int, list[Event]] = {stream_id: [] for stream_id in stream_ids}
        for row in self._all(_EVENTS, {"ids": list(stream_ids)}):
            found[row[0]].append(event_of(row[1:]))
        return found

    def of_events(self, seqs: Sequence[int]) -> dict[int, list[int]]:
        """Return, by event, the ids of the streams that it is in."""
        found: dict[int, list[int]] = {}
        for row in self._all(_OF_EVENTS, {"seqs": list(seqs)}):
            found.setdefault(row.event_seq, []).append(row.stream_id)
        return found

    # ---------------------------------------------------------------------------------------- firing

    def due(self, *, now_us: int, limit: int, expiring: bool) -> list[Stream]:
        """Return streams that are to fire (or expire) by now, those due first, locked."""
        rows = self._all(_DUE[(self.work.bulk.name, expiring)], {"now_us": now_us, "wanted": limit})
        return [_stream(row) for row in rows]

    def next_due_us(self) -> int | None:
        """Return when the next stream fires or expires."""
        return min((time for time in self._first(_NEXT_DUE) if time is not None), default=None)

    def hand_over(self, handovers: Sequence[Handover], *, now_us: int) -> None:
        """Change the state of streams that are due; nothing joins them any more."""
        rows = [
            {
                "id": each.stream_id,
                "state": int(each.state),
                "expiring": each.expiring,
                "given": int(each.run_id is not None),
                "run_id": each.run_id,
                "failure_json": failure_to_json(each.failure),
                "updated_us": now_us,
            }
            for each in handovers
        ]
        if rows:
            self.work.bulk.update(self.work.conn, _HAND_OVER, rows)

    def follow(self, run_ids: Sequence[int], *, now_us: int) -> None:
        """Bring the streams that were given to these runs in step with them."""
        if not run_ids:
            return
        rows = []
        for row in self._all(_FOLLOW[self.work.bulk.name], {"ids": list(run_ids)}):
            state = _state_of(row)
            if state != row.stream_state:
                failure = None if state == StreamState.COMPLETED else row.failure_json
                rows.append({"id": row.stream_id, "state": int(state), "failure_json": failure, "updated_us": now_us})
        if rows:
            self.work.bulk.update(self.work.conn, _IN_STEP, rows)

    def out_of_step(self, *, limit: int) -> list[int]:
        """Return runs that ended while their streams are still firing or expiring."""
        return [row.id for row in self._all(_OUT_OF_STEP, {"wanted": limit})]

    def reset(self, stream_ids: Sequence[int], *, now_us: int) -> set[int]:
        """Make error retry_fire, due now, and expire_error retry_expire; return the ids of those changed."""
        ids = [row.id for row in self._all(_RESETTABLE, {"ids": list(stream_ids)})]
        if ids:
            self.work.bulk.update(self.work.conn, _RESET, [{"id": id_, "now_us": now_us} for id_ in ids])
        return set(ids)

    def delete(self, stream_ids: Sequence[int]) -> set[int]:
        """Delete streams that no run works on; return their ids. Their events stay."""
        ids = [row.id for row in self._all(_IDLE, {"ids": list(stream_ids)})]
        if ids:
            self._changed(_DELETE_LINKS, {"ids": ids})
            self._changed(_DELETE, {"ids": ids})
        return set(ids)

    # ---------------------------------------------------------------------------------------- looking

    def get(self, stream_id: int) -> Stream | None:
        row = self._first(_GET, {"id": stream_id})
        return _stream(row) if row else None

    def page(
        self, which: StreamFilter, *, after: int | None = None, limit: int = 100, newest_first: bool = True
    ) -> list[Stream]:
        """Return streams by id, starting behind id `after`."""
        query = select(streams)
        if which.name is not None:
            query = query.where(streams.c.name == which.name)
        if which.states:
            query = query.where(streams.c.state.in_([int(state) for state in which.states]))
        if which.older_than_us is not None:
            query = query.where(streams.c.first_us < which.older_than_us)
        if which.younger_than_us is not None:
            query = query.where(streams.c.last_us > which.younger_than_us)
        for name, value in which.distinguished_by.items():
            # The text is compact JSON, in which a quote inside a string is escaped: it can not be taken for another.
            member = f"{to_json(name)}:{json.dumps(value, ensure_ascii=False, separators=(',', ':'), sort_keys=True)}"
            ends = [func.replace(streams.c.traits_json, member + end, "") != streams.c.traits_json for end in ",}"]
            query = query.where(ends[0] | ends[1])
        if after is not None:
            query = query.where(streams.c.id < after if newest_first else streams.c.id > after)
        order = streams.c.id.desc() if newest_first else streams.c.id
        return [_stream(row) for row in self._all(query.order_by(order).limit(limit))]

    def counts(self) -> dict[StreamState, int]:
        """Return the number of streams in each state but completed."""
        return {StreamState(row[0]): row[1] for row in self._all(_COUNTS)}


def _state_of(row: Any) -> StreamState:
    if row.state in _OPEN:
        return StreamState.EXPIRING if row.expiring else StreamState.FIRING
    if row.state in _DONE:
        return StreamState.COMPLETED
    if row.state == "commit_failed":
        return StreamState.COMMIT_ERROR
    return StreamState.EXPIRE_ERROR if row.expiring else StreamState.ERROR


def _new_values(stream: Joinable, now_us: int) -> dict[str, Any]:
    return {
        "id": stream.id,
        "trigger_id": stream.trigger_id,
        "trigger_version": stream.trigger_version,
        "name": stream.name,
        "join_key": stream.key,
        "traits_json": stream.traits_json,
        "state": int(StreamState.ACTIVE),
        "serial": 0,
        "expiring": False,
        "first_us": stream.first_us,
        "last_us": stream.last_us,
        "events": stream.events,
        "matched": ",".join(map(str, stream.matched)),
        "hops": stream.hops,
        "fire_us": stream.fire_us,
        "expire_us": stream.expire_us,
        "attempts": 0,
        "created_us": now_us,
        "updated_us": now_us,
    }
