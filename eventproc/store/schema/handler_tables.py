"""Hooks, handlers and their versions, packages, workers, schedules."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from eventproc.store.schema.base import Big, metadata, serial

hooks = Table(
    "hooks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("summary", Text, nullable=False),
    Column("schema_json", Text, nullable=False),
    Column("sample_json", Text, nullable=False),
    Column("keep_s", Big),
    Column("keep_idle_s", Big),
    Column("source", Text, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("updated_us", Big, nullable=False),
    Column("updated_by", Text, nullable=False),
    Column("owner_id", Big),
)

# `live` is true, or null once deregistered: nulls are distinct, so dead handlers may share a name.
handlers = Table(
    "handlers",
    metadata,
    serial(),
    Column("hook", Text, nullable=False),
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
    Column("deregistered_us", Big),
    UniqueConstraint("hook", "name", "live"),
    sqlite_autoincrement=True,
)

handler_versions = Table(
    "handler_versions",
    metadata,
    Column("handler_id", Big, ForeignKey("handlers.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("size", Big, nullable=False),
    Column("python", Text, nullable=False),
    Column("dill", Text, nullable=False),
    Column("source", Text),
    Column("filename", Text),
    Column("qualname", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("globals_json", Text, nullable=False),
    Column("tags_json", Text, nullable=False),
    Column("notify_on_success", Text),
    Column("notify_on_failure", Text),
    Column("options_json", Text, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("environment", Text),
    Column("blob", LargeBinary, nullable=False),
    PrimaryKeyConstraint("handler_id", "version"),
)

# Locks of packages, by the hash of Python and lock: `handler_versions.environment`.
environments = Table(
    "environments",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("python", Text, nullable=False),
    Column("requirements_json", Text, nullable=False),
    Column("lock", Text, nullable=False),
    Column("created_us", Big, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pythons_json", Text, nullable=False),
    Column("unused_json", Text, nullable=False),
    Column("seen_us", Big, nullable=False),
)

# What a registration waits for: a worker tries the handler.
preparations = Table(
    "preparations",
    metadata,
    serial(),
    Column("python", Text, nullable=False),
    Column("request_json", Text, nullable=False),
    Column("blob", LargeBinary, nullable=False),
    Column("worker", Text),
    Column("until_us", Big, nullable=False),
    Column("answer_json", Text),
    Column("created_us", Big, nullable=False),
    sqlite_autoincrement=True,
)

schedules = Table(
    "schedules",
    metadata,
    serial(),
    Column("name", Text, nullable=False),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("hook", Text, nullable=False),
    Column("tags_json", Text, nullable=False),
    Column("payload_json", Text, nullable=False),
    Column("next_us", Big, nullable=False, index=True),
    Column("paused", Boolean, nullable=False),
    Column("user_id", Big),
    UniqueConstraint("name"),
    sqlite_autoincrement=True,
)
