"""Users, their keys and secrets, the audit log, and what the database says of itself."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, LargeBinary, PrimaryKeyConstraint, Table, Text, UniqueConstraint

from eventproc.store.schema.base import Big, metadata, serial

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# "revision": grows with every change of hooks, handlers or users.
counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Big, nullable=False),
)

users = Table(
    "users",
    metadata,
    serial(),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created_us", Big, nullable=False),
    UniqueConstraint("name"),
    sqlite_autoincrement=True,
)

api_keys = Table(
    "api_keys",
    metadata,
    serial(),
    Column("user_id", Big, ForeignKey("users.id"), nullable=False, index=True),
    Column("prefix", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("revoked_us", Big),
    Column("last_used_us", Big),
    UniqueConstraint("prefix"),
    sqlite_autoincrement=True,
)

secrets = Table(
    "secrets",
    metadata,
    Column("user_id", Big, ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("value_encrypted", LargeBinary, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("updated_us", Big, nullable=False),
    PrimaryKeyConstraint("user_id", "name"),
)

audit = Table(
    "audit",
    metadata,
    serial(),
    Column("at_us", Big, nullable=False, index=True),
    Column("user_name", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("detail_json", Text, nullable=False),
    sqlite_autoincrement=True,
)
