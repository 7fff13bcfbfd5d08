"""Series, metrics and their samples, and what is made of and noted about them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from eventproc.store.schema.base import Big, metadata, partial, serial

# Of metrics that are monitored in any way and have rows to be scored; of samples that are worth to be found by time.
BEHIND: Final = "status > 0 AND scored_rowid < last_rowid"
ENOUGH: Final = "status = 8 AND last_rowid >= 288"  # waits for a day of five-minute samples, and has them
UNUSUAL: Final = "anomaly_score >= 0.9"

series = Table(
    "series",
    metadata,
    Column("uuid", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("collection", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("tags_json", Text, nullable=False),
    Column("annotations_json", Text, nullable=False),
    Column("layout", Text, nullable=False),
    Column("points", Big, nullable=False),
    Column("earliest_ns", Big),
    Column("latest_ns", Big),
    Column("created_us", Big, nullable=False),
    Column("owner_id", Big),
    Index("ix_series_collection_name", "collection", "name"),
    Index("ix_series_name", "name"),
)

series_chunks = Table(
    "series_chunks",
    metadata,
    Column("series", Text, ForeignKey("series.uuid", ondelete="CASCADE"), nullable=False),
    Column("start_ns", Big, nullable=False),
    Column("end_ns", Big, nullable=False),
    Column("points", Big, nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("series", "start_ns"),
)

# Called `notes` here, for `annotations` is what `from __future__` brings.
notes = Table(
    "annotations",
    metadata,
    serial(),
    Column("uid", Text, nullable=False),
    Column("time_us", Big, nullable=False),
    Column("device", Text, nullable=False),
    Column("user_name", Text, nullable=False),
    Column("server", Text, nullable=False),
    Column("metric_uid", Text),
    Column("message", Text),
    Column("data_json", Text),
    Column("created_us", Big, nullable=False),
    Column("updated_us", Big, nullable=False),
    Column("owner_id", Big),
    UniqueConstraint("uid"),
    Index("ix_annotations_server_time_us", "server", "time_us"),
    sqlite_autoincrement=True,
)

aggregates = Table(
    "aggregates",
    metadata,
    serial(),
    Column("name", Text, nullable=False),
    Column("pattern", Text),
    Column("tags_json", Text, nullable=False),
    Column("function", Text, nullable=False),
    Column("period_us", Big, nullable=False),
    Column("wait_us", Big, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("owner_id", Big),
    Column("next_us", Big),
    Column("newest_us", Big),
    Column("seen_us", Big),
    Column("members", Integer, nullable=False),
    Column("periods", Big, nullable=False),
    Column("message", Text),
    UniqueConstraint("name"),
    sqlite_autoincrement=True,
)

# Who a metric is. What changes with every batch of samples is in `metric_states`, so that a busy table has few indexes.
metrics = Table(
    "metrics",
    metadata,
    serial(),
    Column("uid", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("tags_json", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("owner_id", Big),
    UniqueConstraint("uid"),
    UniqueConstraint("name"),
    Index("ix_metrics_resource", "resource"),
    sqlite_autoincrement=True,
)

# `id` is the metric's. A deleted metric has a state until all of its samples are deleted.
metric_states = Table(
    "metric_states",
    metadata,
    Column("id", Big, primary_key=True, autoincrement=False),
    Column("status", Integer, nullable=False),
    Column("last_rowid", Big, nullable=False),
    Column("last_time_us", Big),
    Column("scored_rowid", Big, nullable=False),
    Column("rejected", Big, nullable=False),
    partial("ix_metric_states_behind", "status", "id", where=BEHIND),
    partial("ix_metric_states_enough", "id", where=ENOUGH),
    partial("ix_metric_states_deleted", "id", where="status = -1"),
)

# Rows of a metric have no gaps, and their times grow with `rowid`: a time is found by bisection, without an index.
metric_samples = Table(
    "metric_samples",
    metadata,
    Column("metric_id", Big, nullable=False),
    Column("rowid", Big, nullable=False),
    Column("time_us", Big, nullable=False),
    Column("value", Double, nullable=False),
    Column("raw_score", Double),
    Column("anomaly_score", Double),
    Column("display_value", Double),
    Column("predictions_json", Text),
    PrimaryKeyConstraint("metric_id", "rowid"),
    partial("ix_metric_samples_unusual", "time_us", where=UNUSUAL),
    sqlite_with_rowid=False,
)

metric_rejects = Table(
    "metric_rejects",
    metadata,
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("rejected", Big, nullable=False),
    Column("first_us", Big, nullable=False),
    Column("last_us", Big, nullable=False, index=True),
    Column("examples_json", Text, nullable=False),
    PrimaryKeyConstraint("reason", "source", "metric"),
)
