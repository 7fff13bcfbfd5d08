"""Events, the runs that they cause, and what comes of those: logs, notices, files, messages."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from eventproc.store.schema.base import Big, metadata, partial, serial

WAITING: Final = "state IN ('queued', 'retrying')"
LEASED: Final = "state IN ('running', 'committing')"
DONE: Final = "state IN ('succeeded', 'cancelled')"
DEAD: Final = "state IN ('failed', 'commit_failed')"
OPEN: Final = "state IN ('queued', 'retrying', 'running', 'committing')"
# In a statement, this lets the partial index of runs that did not succeed be used.
UNSUCCEEDED: Final = "state <> 'succeeded'"

events = Table(
    "events",
    metadata,
    serial("seq"),
    Column("id", Text, nullable=False),
    Column("hook", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("time_us", Big, nullable=False, index=True),
    Column("tags_json", Text, nullable=False),
    Column("key", Text),
    Column("payload_json", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("trace_parent", Text),
    Column("hops", Integer, nullable=False),
    Column("accepted_us", Big, nullable=False),
    Column("user_id", Big),
    Column("caused_by_run", Big),
    UniqueConstraint("id"),
    Index("ix_events_hook_seq", "hook", "seq"),
    partial("ix_events_key_seq", "key", "seq", where="key IS NOT NULL"),
    sqlite_autoincrement=True,
)

event_tags = Table(
    "event_tags",
    metadata,
    Column("tag", Text, nullable=False),
    Column("event_seq", Big, ForeignKey("events.seq", ondelete="CASCADE"), nullable=False, index=True),
    PrimaryKeyConstraint("tag", "event_seq"),
)

# Summaries of the events of consecutive seqs; see `store.trait_blocks`.
trait_blocks = Table(
    "trait_blocks",
    metadata,
    Column("first_seq", Big, primary_key=True, autoincrement=False),
    Column("first_us", Big, nullable=False),
    Column("last_us", Big, nullable=False),
    Column("bits", LargeBinary, nullable=False),
)

# What is left of a pruned event for the deduplication window.
pruned_events = Table(
    "pruned_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("accepted_us", Big, nullable=False, index=True),
)

# A lane is where runs of one handler on one hook wait in one kind of isolation, with or without an order key. A claim
# looks at lanes that have runs waiting, never at the runs of a paused lane.
lanes = Table(
    "lanes",
    metadata,
    serial(),
    Column("handler_id", Big, ForeignKey("handlers.id"), nullable=False),
    Column("hook", Text, nullable=False),
    Column("isolation", Text, nullable=False),
    Column("ordered", Boolean, nullable=False),
    UniqueConstraint("handler_id", "hook", "isolation", "ordered"),
    Index("ix_lanes_hook", "hook"),
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    serial(),
    Column("event_seq", Big, ForeignKey("events.seq"), nullable=False),
    Column("handler_id", Big, nullable=False),
    Column("version", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("lane_id", Big, ForeignKey("lanes.id"), nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("interruptions", Integer, nullable=False),
    Column("serial", Integer, nullable=False),
    Column("token", Integer, nullable=False),
    Column("order_key", Text),
    Column("limit_key", Text),
    Column("rate_key", Text),
    Column("created_us", Big, nullable=False),
    Column("due_us", Big, nullable=False),
    Column("started_us", Big),
    Column("finished_us", Big),
    Column("lease_until_us", Big),
    Column("worker", Text),
    Column("cancel_requested", Boolean, nullable=False),
    Column("callbacks_only", Boolean, nullable=False),
    Column("result_json", Text),
    Column("failure_json", Text),
    Column("sandbox", Text),
    Column("cpu_us", Big),
    Column("memory_bytes", Big),
    UniqueConstraint("event_seq", "handler_id", "round"),
    ForeignKeyConstraint(["handler_id", "version"], ["handler_versions.handler_id", "handler_versions.version"]),
    Index("ix_runs_lane_id_id", "lane_id", "id"),
    partial("ix_runs_waiting", "lane_id", "due_us", "id", where=WAITING),
    partial("ix_runs_unsucceeded", "state", "id", where=UNSUCCEEDED),
    partial("ix_runs_ordered", "handler_id", "order_key", "id", where=f"order_key IS NOT NULL AND {OPEN}"),
    partial("ix_runs_ordered_leased", "handler_id", "order_key", where=f"order_key IS NOT NULL AND {LEASED}"),
    partial("ix_runs_done", "finished_us", "id", where=DONE),
    partial("ix_runs_dead", "finished_us", "id", where=DEAD),
    sqlite_autoincrement=True,
)

run_logs = Table(
    "run_logs",
    metadata,
    serial(),
    Column("run_id", Big, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("stream", Text, nullable=False),
    Column("at_us", Big, nullable=False, index=True),
    Column("text", Text, nullable=False),
    Index("ix_run_logs_run_id_id", "run_id", "id"),
    sqlite_autoincrement=True,
)

# Starts within the present window of a rate limit; `rate_key` is "" for the whole handler, "=KEY" for one key.
rate_windows = Table(
    "rate_windows",
    metadata,
    Column("handler_id", Big, nullable=False),
    Column("rate_key", Text, nullable=False),
    Column("end_us", Big, nullable=False),
    Column("used", Integer, nullable=False),
    PrimaryKeyConstraint("handler_id", "rate_key"),
)

# A leased notice is a pending one whose `due_us` lies at the end of the lease. Notices and files may outlive their
# runs, so they do not reference them.
notices = Table(
    "notices",
    metadata,
    serial(),
    Column("run_id", Big, nullable=False),
    Column("handler_id", Big, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("serial", Integer, nullable=False),
    Column("recipients_json", Text, nullable=False),
    Column("refused_json", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_us", Big, nullable=False),
    Column("created_us", Big, nullable=False, index=True),
    Column("sent_us", Big),
    Column("error", Text),
    Column("message_id", Text),
    Column("subject", Text),
    Column("mail", LargeBinary),
    Column("token", Integer, nullable=False),
    UniqueConstraint("run_id", "outcome", "serial"),
    partial("ix_notices_due_us", "due_us", "id", where="state = 'pending'"),
    partial("ix_notices_pending", "handler_id", "outcome", "id", where="state = 'pending'"),
    partial("ix_notices_sent", "handler_id", "outcome", "sent_us", where="sent_us IS NOT NULL"),
    sqlite_autoincrement=True,
)

files = Table(
    "files",
    metadata,
    Column("code", Text, primary_key=True),
    Column("run_id", Big, nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("size", Big, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_us", Big, nullable=False, index=True),
)

# A leased message is a pending one whose `due_us` lies at the end of the lease; a delivered one is deleted.
outbox = Table(
    "outbox",
    metadata,
    serial(),
    Column("kind", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("headers_json", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_us", Big, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("error", Text),
    Column("token", Integer, nullable=False),
    Column("since_us", Big, nullable=False, server_default="0"),  # when it was written, or requeued
    Column("refusals", Integer, nullable=False, server_default="0"),  # one after another, that only a person ends
    partial("ix_outbox_kind_due_us", "kind", "due_us", "id", where="state = 'pending'"),
    partial("ix_outbox_failed", "since_us", where="state = 'failed'"),
    sqlite_autoincrement=True,
)
