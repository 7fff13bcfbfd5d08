"""
Pages of events.

Hook, tag and key have indexes in the order of acceptance. A range of times has one of its own: times are what senders
say, so they may come in any order. A page in a range is looked for among the nearest events first, which finds it for
recent times; otherwise through the index of times, at a cost that depends on the range and not on all of history.
Traits are compared in the payloads, in those blocks of history that may hold them (`trait_blocks`).
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import Boolean, ColumnElement, Connection, Select, Text, and_, exists, literal, select, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from eventproc.store import trait_blocks
from eventproc.store.base import to_json
from eventproc.store.schema import event_tags, events

NEAREST: Final = 2000  # events
MERGED: Final = 100  # hooks, at most, whose events are read each by itself

_HOOKS = text(
    "WITH RECURSIVE names (hook) AS (SELECT min(hook) FROM events UNION ALL"
    " SELECT (SELECT min(hook) FROM events WHERE events.hook > names.hook) FROM names WHERE names.hook IS NOT NULL)"
    " SELECT hook FROM names WHERE hook IS NOT NULL"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Which:
    """What events to list; what is None does not restrict."""

    hooks: tuple[str, ...] | None
    tag: str | None
    key: str | None
    since_us: int | None
    until_us: int | None
    traits: tuple[tuple[str, Any], ...] = ()  # members of the payload and their values

    @property
    def timed(self) -> bool:
        return self.since_us is not None or self.until_us is not None

    def covers(self, time_us: int) -> bool:
        since, until = self.since_us, self.until_us
        return (since is None or time_us >= since) and (until is None or time_us < until)


def hooks_of(conn: Connection) -> list[str]:
    """Return the hooks that events are of; each costs a probe of the index."""
    return list(conn.execute(_HOOKS).scalars())


def page_of_seqs(conn: Connection, which: Which, *, after: int | None, limit: int, newest_first: bool) -> list[int]:
    """Return the seqs of a page, in order."""
    if which.hooks == ():
        return []
    if which.traits:
        return _by_blocks(conn, which, after, limit, newest_first=newest_first)
    merged = _is_merged(which)
    wanted = max(limit, NEAREST) if which.timed and not merged else limit
    nearest = (_merged if merged else _nearest)(conn, which, after, wanted, newest_first)
    if not which.timed:
        return [row.seq for row in nearest]
    fit = [row.seq for row in nearest if which.covers(row.time_us)]
    if len(fit) >= limit or len(nearest) < wanted:
        return fit[:limit]
    return list(conn.execute(_by_time(which, after, newest_first=newest_first).limit(limit)).scalars())


def _is_merged(which: Which) -> bool:
    alone = which.tag is None and which.key is None
    return alone and which.hooks is not None and 1 < len(which.hooks) <= MERGED


def _nearest(conn: Connection, which: Which, after: int | None, limit: int, newest_first: bool) -> list[Any]:  # noqa: FBT001 - of this module
    return list(conn.execute(_by_seq(which, after, newest_first=newest_first).limit(limit)))


def _merged(conn: Connection, which: Which, after: int | None, limit: int, newest_first: bool) -> list[Any]:  # noqa: FBT001 - of this module
    """Read the events of each hook by itself: rare ones are found without walking through history."""
    found: list[Any] = []
    for hook in which.hooks or ():
        found += _nearest(conn, replace(which, hooks=(hook,)), after, limit, newest_first)
    pick = heapq.nlargest if newest_first else heapq.nsmallest
    return pick(limit, found, key=attrgetter("seq"))


def _by_blocks(conn: Connection, which: Which, after: int | None, limit: int, *, newest_first: bool) -> list[int]:
    """Look at those parts of history only that may hold events with the traits."""
    parts = trait_blocks.ranges(
        conn,
        dict(which.traits),
        hook=which.hooks[0] if which.hooks is not None and len(which.hooks) == 1 else None,
        since_us=which.since_us,
        until_us=which.until_us,
        after=after,
        newest_first=newest_first,
    )
    found: list[int] = []
    query = _by_seq(which, after, newest_first=newest_first)
    if which.since_us is not None:
        query = query.where(events.c.time_us >= which.since_us)
    if which.until_us is not None:
        query = query.where(events.c.time_us < which.until_us)
    for first, end in parts:
        part = query.where(events.c.seq >= first)
        part = part if end is None else part.where(events.c.seq < end)
        found += conn.execute(part.limit(limit - len(found))).scalars()
        if len(found) >= limit:
            break
    return found


def _by_seq(which: Which, after: int | None, *, newest_first: bool) -> Select[Any]:
    query = select(events.c.seq, events.c.time_us)
    position: Any = events.c.seq
    if which.tag is not None:
        position = event_tags.c.event_seq
        query = query.join_from(event_tags, events, events.c.seq == position).where(event_tags.c.tag == which.tag)
    if which.hooks is not None:
        single = len(which.hooks) == 1
        query = query.where(events.c.hook == which.hooks[0] if single else (events.c.hook + "").in_(which.hooks))
    if which.key is not None:
        query = query.where(events.c.key == which.key)
    query = query.where(*_traits(which))
    if after is not None:
        query = query.where(position < after if newest_first else position > after)
    return query.order_by(position.desc() if newest_first else position)


def _by_time(which: Which, after: int | None, *, newest_first: bool) -> Select[Any]:
    # An expression instead of the column keeps the planner from walking through history in the order of `seq`.
    seq = events.c.seq + 0
    query = select(events.c.seq)
    if which.since_us is not None:
        query = query.where(events.c.time_us >= which.since_us)
    if which.until_us is not None:
        query = query.where(events.c.time_us < which.until_us)
    if which.hooks is not None:
        query = query.where((events.c.hook + "").in_(which.hooks))
    if which.key is not None:
        query = query.where(events.c.key + "" == which.key)
    if which.tag is not None:
        tagged = and_(event_tags.c.tag == which.tag, event_tags.c.event_seq == events.c.seq)
        query = query.where(exists().where(tagged))
    if after is not None:
        query = query.where(seq < after if newest_first else seq > after)
    return query.order_by(seq.desc() if newest_first else seq)


class _HasTrait(FunctionElement[bool]):
    """Whether a payload has a member with a value, both given as JSON."""

    type = Boolean()
    inherit_cache = True
    name = "has_trait"

    def self_group(self, against: Any = None) -> Any:
        """Stay as it is: there is nothing to compare it with."""
        del against
        return self


class _Contains(_HasTrait):
    """Whether a text holds another."""

    inherit_cache = True
    name = "contains"


@compiles(_Contains, "sqlite")
def _contains_sqlite(element: _Contains, compiler: Any, **kw: Any) -> str:
    text, part = [compiler.process(each, **kw) for each in element.clauses]
    return f"(instr({text}, {part}) > 0)"


@compiles(_Contains, "postgresql")
def _contains_postgresql(element: _Contains, compiler: Any, **kw: Any) -> str:
    text, part = [compiler.process(each, **kw) for each in element.clauses]
    return f"(strpos({text}, ({part})::text) > 0)"


@compiles(_HasTrait, "sqlite")
def _has_trait_sqlite(element: _HasTrait, compiler: Any, **kw: Any) -> str:
    payload, name, value = [compiler.process(part, **kw) for part in element.clauses]
    return (
        f"EXISTS (SELECT 1 FROM json_each({payload}) m, json_each(json_array(json({value}))) w"  # noqa: S608 - compiled
        f" WHERE m.key = {name} AND m.value = w.value AND m.type = w.type)"
    )


@compiles(_HasTrait, "postgresql")
def _has_trait_postgresql(element: _HasTrait, compiler: Any, **kw: Any) -> str:
    payload, name, value = [compiler.process(part, **kw) for part in element.clauses]
    return f"(({payload})::jsonb -> ({name})::text = ({value})::jsonb)"


def _traits(which: Which) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    for name, value in which.traits:
        if isinstance(value, str):
            # Payloads are canonical JSON: most of them need not be parsed to see that they lack the member.
            found.append(_Contains(events.c.payload_json, literal(f"{to_json(name)}:{to_json(value)}", Text)))
        found.append(_HasTrait(events.c.payload_json, literal(name, Text), literal(json.dumps(value), Text)))
    return found
