"""Anomaly models, and the workers that share them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Integer, LargeBinary, Table, Text, UniqueConstraint

from eventproc.store.schema.base import Big, metadata, partial, serial

# Of models that have their parameters and wait to be made.
UNDEFINED: Final = "defined_us IS NULL AND params_json IS NOT NULL"

# `metric_id` is the metric's; `id` is another one whenever the metric is monitored anew.
models = Table(
    "models",
    metadata,
    serial(),
    Column("metric_id", Big, nullable=False),
    Column("spec_json", Text, nullable=False),
    Column("params_json", Text),
    Column("likelihood_json", Text),
    Column("command_id", Text, nullable=False),
    Column("owner_id", Big),
    Column("created_us", Big, nullable=False),
    Column("defined_us", Big),
    Column("origin_rowid", Big, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("retry_us", Big),
    Column("message", Text),
    UniqueConstraint("metric_id"),
    partial("ix_models_undefined", "metric_id", where=UNDEFINED),
    sqlite_autoincrement=True,
)

# A model's state as of a row; the samples behind it bring it up to date.
model_checkpoints = Table(
    "model_checkpoints",
    metadata,
    Column("metric_id", Big, primary_key=True, autoincrement=False),
    Column("model_id", Big, nullable=False),
    Column("rowid", Big, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

# A metric's share is its id modulo the number of rows here.
model_shards = Table(
    "model_shards",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("owner", Text),
    Column("token", Big, nullable=False),
    Column("lease_until_us", Big, nullable=False),
)

model_workers = Table(
    "model_workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("beat_us", Big, nullable=False),
)
