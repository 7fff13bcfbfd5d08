"""
Retention: what is past its time goes, a limited number of rows at a time.

A run goes when it is final, past its time and has no notice to be sent; its log goes with it or before. An event goes
when it is past its hook's time and no run of it is left. Where the hook itself says how long (`keep_s`), its done runs
go with the event; failed ones keep it. An event in a stream that is not completed stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, delete, select, text

from eventproc.abc import RetentionPolicy
from eventproc.model import SECOND_US
from eventproc.model.quiet import OWN_SOURCES
from eventproc.store.base import IntList, Rows, any_of
from eventproc.store.keeping import Keep, keeps
from eventproc.store.schema import (
    DEAD,
    DONE,
    audit,
    event_tags,
    events,
    files,
    notices,
    pruned_events,
    runs,
    stream_events,
    streams,
)

RATE_WINDOW_KEEP_US: Final = 86_400 * SECOND_US
SEARCH_FACTOR: Final = 5  # events looked at in one call, as a multiple of those that may be deleted

_LOCK = {"sqlite": "", "postgresql": " FOR UPDATE OF r SKIP LOCKED"}
_LOCK_EVENTS = {"sqlite": "", "postgresql": " FOR UPDATE OF e SKIP LOCKED"}
_NO_NOTICE = "NOT EXISTS (SELECT 1 FROM notices n WHERE n.run_id = r.id AND n.state = 'pending')"


def _past_runs(dialect: str, state: str) -> Any:
    return text(
        f"SELECT r.id FROM runs r WHERE r.{state} AND r.finished_us < :before_us AND {_NO_NOTICE}"  # noqa: S608
        f" ORDER BY r.finished_us LIMIT :wanted{_LOCK[dialect]}"
    )


_PAST_RUNS = {(dialect, state): _past_runs(dialect, state) for dialect in _LOCK for state in (DONE, DEAD)}
_DELETE_RUNS = delete(runs).where(any_of(runs.c.id, "ids"))

# The logs of dead runs stay as long as the runs: they are what one looks for.
_DELETE_LOGS = text(
    "DELETE FROM run_logs WHERE id IN (SELECT l.id FROM run_logs l JOIN runs r ON r.id = l.run_id"  # noqa: S608
    f" WHERE l.at_us < :before_us AND r.{DONE} ORDER BY l.at_us LIMIT :wanted)"
)
_DELETE_NOTICES = delete(notices).where(
    notices.c.id.in_(
        select(notices.c.id)
        .where(notices.c.created_us < bindparam("before_us"), notices.c.state != "pending")
        .order_by(notices.c.created_us)
        .limit(bindparam("wanted"))
    )
)
_DELETE_AUDIT = delete(audit).where(
    audit.c.id.in_(
        select(audit.c.id)
        .where(audit.c.at_us < bindparam("before_us"))
        .order_by(audit.c.at_us)
        .limit(bindparam("wanted"))
    )
)
_DELETE_PRUNED = delete(pruned_events).where(
    pruned_events.c.id.in_(
        select(pruned_events.c.id)
        .where(pruned_events.c.accepted_us < bindparam("before_us"))
        .order_by(pruned_events.c.accepted_us)
        .limit(bindparam("wanted"))
    )
)
_DELETE_WINDOWS = text("DELETE FROM rate_windows WHERE end_us < :before_us")
_OLD_FILES = (
    select(files.c.code)
    .where(files.c.created_us < bindparam("before_us"))
    .order_by(files.c.created_us)
    .limit(bindparam("wanted"))
)
_DELETE_FILES = delete(files).where(any_of(files.c.code, "codes"))

_HOOK_NAMES = text(
    "WITH RECURSIVE names(hook) AS (SELECT min(hook) FROM events UNION ALL"
    " SELECT (SELECT min(events.hook) FROM events WHERE events.hook > names.hook) FROM names"
    " WHERE names.hook IS NOT NULL) SELECT hook FROM names WHERE hook IS NOT NULL"
)
_OLDEST = (
    select(
        events.c.seq,
        events.c.id,
        events.c.digest,
        events.c.accepted_us,
        events.c.source,
        events.c.user_id,
        events.c.caused_by_run,
    )
    .where(events.c.hook == bindparam("hook"), events.c.seq > bindparam("after"))
    .order_by(events.c.seq)
    .limit(bindparam("wanted"))
)
_RUNS_OF = select(runs.c.event_seq, runs.c.id, runs.c.state).where(any_of(runs.c.event_seq, "seqs"))
_NOTIFIED = select(notices.c.run_id).where(any_of(notices.c.run_id, "ids"), notices.c.state == "pending")
_LOCK_SEQS = {
    dialect: text(
        "SELECT e.seq FROM events e WHERE e.seq "  # noqa: S608 - constants
        + ("IN (SELECT value FROM json_each(:seqs))" if dialect == "sqlite" else "= ANY (:seqs)")
        + _LOCK_EVENTS[dialect]
    ).bindparams(bindparam("seqs", type_=IntList()))
    for dialect in _LOCK_EVENTS
}
_JOINED = (
    select(stream_events.c.event_seq, streams.c.state)
    .join_from(stream_events, streams, streams.c.id == stream_events.c.stream_id)
    .where(any_of(stream_events.c.event_seq, "seqs"))
)
_DELETE_JOINED = delete(stream_events).where(any_of(stream_events.c.event_seq, "seqs"))
_PAST_STREAMS = text(
    "SELECT s.id FROM streams s WHERE s.state = 6 AND s.updated_us < :before_us"
    " AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = s.run_id AND r.state = 'committing')"
    " ORDER BY s.updated_us LIMIT :wanted"
)
_DELETE_STREAM_EVENTS = delete(stream_events).where(any_of(stream_events.c.stream_id, "ids"))
# Once more: somebody may have reset it meanwhile.
_DELETE_STREAMS = delete(streams).where(any_of(streams.c.id, "ids"), text("state = 6"))
_DELETE_TAGS = delete(event_tags).where(any_of(event_tags.c.event_seq, "seqs"))
_DELETE_EVENTS = delete(events).where(any_of(events.c.seq, "seqs"))


def _own(row: Any) -> bool:
    """Tell whether the platform reported the event: some 300 a second with 100,000 models, 60 GB of ids in a week."""
    return row.user_id is None and row.caused_by_run is None and row.source in OWN_SOURCES


class SqlRetention(Rows):
    """Deletes of what is past its time."""

    def prune(self, policy: RetentionPolicy, *, now_us: int, limit: int) -> dict[str, int]:
        """Delete at most `limit` rows of each kind that are past their time; return how many of each."""

        def before(keep_s: int | None) -> dict[str, Any] | None:
            return None if keep_s is None else {"before_us": now_us - keep_s * SECOND_US, "wanted": limit}

        gone = {
            "logs": self._delete(_DELETE_LOGS, before(policy.logs_s)),
            "runs": self._runs(DONE, before(policy.runs_s)) + self._runs(DEAD, before(policy.failed_runs_s)),
            "streams": self._streams(before(policy.streams_s)),
            "events": self._events(policy, now_us, limit),
            "notices": self._delete(_DELETE_NOTICES, before(policy.notices_s)),
            "audit": self._delete(_DELETE_AUDIT, before(policy.audit_s)),
        }
        self._delete(_DELETE_PRUNED, before(policy.dedup_s))
        self._delete(_DELETE_WINDOWS, {"before_us": now_us - RATE_WINDOW_KEEP_US})
        return gone

    def _delete(self, statement: Any, params: Mapping[str, Any] | None) -> int:
        return 0 if params is None else self._changed(statement, params)

    def _runs(self, state: str, params: Mapping[str, Any] | None) -> int:
        if params is None:
            return 0
        ids = [row.id for row in self._all(_PAST_RUNS[(self.work.bulk.name, state)], params)]
        return self._changed(_DELETE_RUNS, {"ids": ids}) if ids else 0

    def _streams(self, params: Mapping[str, Any] | None) -> int:
        ids = [row.id for row in self._all(_PAST_STREAMS, params)] if params is not None else []
        if not ids:
            return 0
        self._changed(_DELETE_STREAM_EVENTS, {"ids": ids})
        return self._changed(_DELETE_STREAMS, {"ids": ids})

    def _events(self, policy: RetentionPolicy, now_us: int, limit: int) -> int:
        names = [row.hook for row in self._all(_HOOK_NAMES)]
        gone = 0
        for hook, keep in keeps(self.work.conn, names, policy).items():
            if keep.longest_s is None and keep.idle_s is None:
                continue
            gone += self._events_of(hook, keep, policy, now_us, limit - gone)
            if gone >= limit:
                break
        return gone

    def _events_of(self, hook: str, keep: Keep, policy: RetentionPolicy, now_us: int, limit: int) -> int:
        """
        Delete the oldest events of a hook, as far as they may go.

        Those that must stay are passed over; the place is remembered, so that many of them do not stop the rest.
        """
        places = self.work.caches.pruned
        place = places.get(hook, 0)
        gone = looked_at = 0
        while gone < limit and looked_at < limit * SEARCH_FACTOR:
            page = self._all(_OLDEST, {"hook": hook, "after": place, "wanted": limit - gone})
            past = [row for row in page if keep.may_go(row.accepted_us, now_us)]
            gone += self._drop(past, keep, policy, now_us) if past else 0
            looked_at += len(page)
            if len(past) < len(page) or len(page) < 1:  # the first that is not past its time, or the end
                place = 0
                break
            place = page[-1].seq
        places[hook] = place
        return gone

    def _drop(self, past: Sequence[Any], keep: Keep, policy: RetentionPolicy, now_us: int) -> int:
        rows = {row.seq: row for row in past}
        locked = [row.seq for row in self._all(_LOCK_SEQS[self.work.bulk.name], {"seqs": list(rows)})]
        runs_of: dict[int, list[Any]] = {}
        for row in self._all(_RUNS_OF, {"seqs": locked}):
            runs_of.setdefault(row.event_seq, []).append(row)
        joined: dict[int, list[int]] = {}
        for row in self._all(_JOINED, {"seqs": locked}):
            joined.setdefault(row.event_seq, []).append(row.state)
        doomed = [
            seq
            for seq in locked
            if keep.lets_go(rows[seq].accepted_us, now_us, runs_of.get(seq, ()), streams=joined.get(seq, ()))
        ]
        run_ids = {run.id: seq for seq in doomed for run in runs_of.get(seq, ())}
        if run_ids:
            kept = {run_ids[row.run_id] for row in self._all(_NOTIFIED, {"ids": list(run_ids)})}
            doomed = [seq for seq in doomed if seq not in kept]
            self._changed(_DELETE_RUNS, {"ids": [run_id for run_id, seq in run_ids.items() if seq not in kept]})
        if not doomed:
            return 0
        self._remember([rows[seq] for seq in doomed], now_us - policy.dedup_s * SECOND_US)
        self._changed(_DELETE_TAGS, {"seqs": doomed})
        if joined:
            self._changed(_DELETE_JOINED, {"seqs": doomed})
        return self._changed(_DELETE_EVENTS, {"seqs": doomed})

    def _remember(self, rows: Sequence[Any], since_us: int) -> None:
        ids = [
            {"id": row.id, "digest": row.digest, "accepted_us": row.accepted_us}
            for row in rows
            if row.accepted_us >= since_us and not _own(row)
        ]
        if ids:
            self.work.bulk.insert_new(self.work.conn, pruned_events, sorted(ids, key=lambda row: row["id"]), "id")

    def expired_files(self, *, now_us: int, policy: RetentionPolicy, limit: int) -> list[str]:
        if policy.files_s is None:
            return []
        params = {"before_us": now_us - policy.files_s * SECOND_US, "wanted": limit}
        codes = [row.code for row in self._all(_OLD_FILES, params)]
        if codes:
            self._changed(_DELETE_FILES, {"codes": codes})
        return codes
