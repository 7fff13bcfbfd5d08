"""Events: each stored once by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, literal, null, select

from eventproc.abc.traits import Horizon, TraitBlock
from eventproc.model import Event
from eventproc.store import trait_blocks
from eventproc.store.base import Rows, any_of, tuple_from_json, tuple_to_json
from eventproc.store.event_pages import Which, hooks_of, page_of_seqs
from eventproc.store.schema import event_tags, events, pruned_events

_BY_SEQ = select(events).where(any_of(events.c.seq, "seqs"))
_GET = select(events).where(events.c.id == bindparam("id"))
# Those that are there, and those of which only id and digest are left: one statement, as every event asks for both.
_LEFT_OF_PRUNED = {"seq": literal(0), "id": pruned_events.c.id, "digest": pruned_events.c.digest}
_KNOWN = (
    select(events)
    .where(any_of(events.c.id, "ids"))
    .union_all(
        select(*[_LEFT_OF_PRUNED.get(column.name, null()).label(column.name) for column in events.c]).where(
            any_of(pruned_events.c.id, "ids")
        )
    )
)


def event_of(row: Any) -> Event:
    """Build the value from a row of the table."""
    return Event(
        seq=row[0],
        id=row[1],
        hook=row[2],
        source=row[3],
        time_us=row[4],
        tags=tuple_from_json(row[5]),
        key=row[6],
        payload_json=row[7],
        digest=row[8],
        trace_parent=row[9],
        hops=row[10],
        accepted_us=row[11],
        user_id=row[12],
        caused_by_run=row[13],
    )


def _values(event: Event, seq: int) -> dict[str, Any]:
    return {
        "seq": seq,
        "id": event.id,
        "hook": event.hook,
        "source": event.source,
        "time_us": event.time_us,
        "tags_json": tuple_to_json(event.tags),
        "key": event.key,
        "payload_json": event.payload_json,
        "digest": event.digest,
        "trace_parent": event.trace_parent,
        "hops": event.hops,
        "accepted_us": event.accepted_us,
        "user_id": event.user_id,
        "caused_by_run": event.caused_by_run,
    }


def _numbered(event: Event, seq: int) -> Event:
    # dataclasses.replace takes five times as long, for every event there is.
    return Event(
        seq=seq,
        id=event.id,
        hook=event.hook,
        source=event.source,
        time_us=event.time_us,
        tags=event.tags,
        key=event.key,
        payload_json=event.payload_json,
        digest=event.digest,
        trace_parent=event.trace_parent,
        hops=event.hops,
        accepted_us=event.accepted_us,
        user_id=event.user_id,
        caused_by_run=event.caused_by_run,
    )


class SqlEvents(Rows):
    """Events in the order of acceptance."""

    def add(self, events_: Sequence[Event]) -> list[tuple[Event, bool]]:
        """Insert events (their `seq` is ignored), each once by id; a batch costs a constant number of statements."""
        if not events_:
            return []
        known = self._known(events_)
        fresh: dict[str, Event] = {}
        for event in events_:
            if event.id not in known:
                fresh.setdefault(event.id, event)
        inserted = self._insert(fresh)
        if len(inserted) < len(fresh):  # somebody else was quicker with these ids
            known |= self._known([event for id_, event in fresh.items() if id_ not in inserted])
        result = []
        for event in events_:
            new = inserted.get(event.id)
            stored = new or known[event.id]
            # An id that stands twice in the batch is new once.
            result.append((stored, new is not None and fresh.pop(event.id, None) is not None))
        return result

    def _known(self, wanted: Sequence[Event]) -> dict[str, Event]:
        ids = {"ids": [event.id for event in wanted]}
        rows = self._all(_KNOWN, ids)
        if not rows:
            return {}
        known = {row.id: event_of(row) for row in rows if row.seq}
        digests = {row.id: row.digest for row in rows if not row.seq}
        for event in wanted:
            if event.id in digests and event.id not in known:
                known[event.id] = replace(event, seq=0, digest=digests[event.id])
        return known

    def _insert(self, fresh: dict[str, Event]) -> dict[str, Event]:
        if not fresh:
            return {}
        work = self.work
        seqs = work.bulk.serials(work.conn, events, len(fresh))
        stored = {event.id: _numbered(event, seq) for event, seq in zip(fresh.values(), seqs, strict=True)}
        # In the order of the id: two transactions with the same ids never wait for each other in a circle.
        rows = [_values(event, event.seq) for event in stored.values()]
        if work.bulk.name != "sqlite":
            rows.sort(key=lambda row: row["id"])
        new = work.bulk.insert_new(work.conn, events, rows, "id")
        if len(new) < len(stored):
            stored = {id_: event for id_, event in stored.items() if id_ in new}
        work.new_events.update({event.seq: event.hook for event in stored.values()})
        tags = [
            {"tag": tag, "event_seq": event.seq} for event in stored.values() if event.tags for tag in set(event.tags)
        ]
        if tags:
            work.bulk.insert_new(work.conn, event_tags, tags, "event_seq")
        return stored

    def get(self, event_id: str) -> Event | None:
        row = self._first(_GET, {"id": event_id})
        return event_of(row) if row else None

    def by_seq(self, seqs: Sequence[int]) -> dict[int, Event]:
        if not seqs:
            return {}
        return {row[0]: event_of(row) for row in self._all(_BY_SEQ, {"seqs": list(seqs)})}

    def horizon(self) -> Horizon | None:
        """Return the newest event, and which transactions are under way; None while there are no events."""
        return trait_blocks.horizon(self.work.conn)

    def passed(self, past: Horizon) -> bool:
        """Tell whether all transactions have ended that were under way then."""
        return trait_blocks.passed(self.work.conn, past)

    def next_block(self, up_to: int) -> TraitBlock | None:
        return trait_blocks.next_block(self.work.conn, up_to)

    def keep_block(self, block: TraitBlock) -> None:
        trait_blocks.keep(self.work.conn, block)

    def hooks(self) -> list[str]:
        return hooks_of(self.work.conn)

    def page(
        self,
        *,
        hook: str | Sequence[str] | None = None,
        tag: str | None = None,
        key: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        after: int | None = None,
        limit: int = 100,
        newest_first: bool = True,
        traits: Mapping[str, Any] | None = None,
    ) -> list[Event]:
        """Return events by seq, starting behind seq `after` (keyset paging); since/until compare `time_us`."""
        hooks = (hook,) if isinstance(hook, str) else hook if hook is None else tuple(hook)
        which = Which(
            hooks=hooks, tag=tag, key=key, since_us=since_us, until_us=until_us, traits=tuple((traits or {}).items())
        )
        seqs = page_of_seqs(self.work.conn, which, after=after, limit=limit, newest_first=newest_first)
        found = self.by_seq(seqs)
        return [found[seq] for seq in seqs if seq in found]
