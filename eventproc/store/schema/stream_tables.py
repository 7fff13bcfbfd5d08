"""Triggers, and the streams of events that they collect."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, PrimaryKeyConstraint, Table, Text, UniqueConstraint

from eventproc.store.schema.base import Big, metadata, partial, serial

# Streams by the numbers of model.StreamState: what may fire or expire, and what is not completed.
FIRES: Final = "state IN (1, 7) AND fire_us IS NOT NULL"
EXPIRES: Final = "(state = 8 OR (state = 1 AND fire_us IS NULL))"
UNCOMPLETED: Final = "state <> 6"

triggers = Table(
    "triggers",
    metadata,
    serial(),
    Column("name", Text, nullable=False),
    Column("live", Boolean),
    Column("owner_id", Big, ForeignKey("users.id"), nullable=False),
    Column("current_version", Integer, nullable=False),
    Column("last_version", Integer, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("updated_us", Big, nullable=False),
    Column("updated_by", Text, nullable=False),
    Column("deleted_us", Big),
    UniqueConstraint("name", "live"),
    sqlite_autoincrement=True,
)

trigger_versions = Table(
    "trigger_versions",
    metadata,
    Column("trigger_id", Big, ForeignKey("triggers.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("definition_json", Text, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("created_by", Text, nullable=False),
    PrimaryKeyConstraint("trigger_id", "version"),
)

# What checks of a trigger came to; `kind` is Match, Fire or Counter, `name` a reason, "" for the checks themselves.
trigger_counts = Table(
    "trigger_counts",
    metadata,
    Column("trigger_id", Big, ForeignKey("triggers.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("checks", Big, nullable=False),
    Column("passed", Big, nullable=False),
    PrimaryKeyConstraint("trigger_id", "kind", "name"),
)

# `join_key` names trigger and distinguishing traits while further events may join; nulls are distinct. `state` is a
# number of model.StreamState. `run_id` is the run it was given to last: that may be pruned, so it is no reference.
streams = Table(
    "streams",
    metadata,
    serial(),
    Column("trigger_id", Big, ForeignKey("triggers.id"), nullable=False),
    Column("trigger_version", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("join_key", Text),
    Column("traits_json", Text, nullable=False),
    Column("state", Integer, nullable=False),
    Column("serial", Integer, nullable=False),
    Column("expiring", Boolean, nullable=False),
    Column("first_us", Big, nullable=False),
    Column("last_us", Big, nullable=False),
    Column("events", Big, nullable=False),
    Column("matched", Text, nullable=False),
    Column("hops", Integer, nullable=False),
    Column("fire_us", Big),
    Column("expire_us", Big, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("run_id", Big),
    Column("failure_json", Text),
    Column("created_us", Big, nullable=False),
    Column("updated_us", Big, nullable=False),
    UniqueConstraint("join_key"),
    Index("ix_streams_name_id", "name", "id"),
    partial("ix_streams_fire_us", "fire_us", "id", where=FIRES),
    partial("ix_streams_expire_us", "expire_us", "id", where=EXPIRES),
    partial("ix_streams_run_id", "run_id", where="run_id IS NOT NULL"),
    partial("ix_streams_uncompleted", "state", "id", where=UNCOMPLETED),
    partial("ix_streams_completed", "updated_us", "id", where="state = 6"),
    sqlite_autoincrement=True,
)

stream_events = Table(
    "stream_events",
    metadata,
    Column("stream_id", Big, ForeignKey("streams.id", ondelete="CASCADE"), nullable=False),
    Column("event_seq", Big, ForeignKey("events.seq"), nullable=False, index=True),
    PrimaryKeyConstraint("stream_id", "event_seq"),
    sqlite_with_rowid=False,
)
