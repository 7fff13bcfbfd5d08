"""Metrics and their samples, what was refused of them, and the outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    create_metrics()
    create_metric_states()
    create_metric_samples()
    create_metric_rejects()
    create_outbox()


def partial(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def create_metrics() -> None:
    op.create_table(
        "metrics",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("tags_json", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("owner_id", BIG),
        sa.PrimaryKeyConstraint("id", name="pk_metrics"),
        sa.UniqueConstraint("uid", name="uq_metrics_uid"),
        sa.UniqueConstraint("name", name="uq_metrics_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_metrics_resource", "metrics", ["resource"])


def create_metric_states() -> None:
    op.create_table(
        "metric_states",
        sa.Column("id", BIG, autoincrement=False, nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("last_rowid", BIG, nullable=False),
        sa.Column("last_time_us", BIG),
        sa.Column("scored_rowid", BIG, nullable=False),
        sa.Column("rejected", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_metric_states"),
    )
    where = "status > 0 AND scored_rowid < last_rowid"
    partial("ix_metric_states_behind", "metric_states", ["status", "id"], where)
    partial("ix_metric_states_enough", "metric_states", ["id"], "status = 8 AND last_rowid >= 288")
    partial("ix_metric_states_deleted", "metric_states", ["id"], "status = -1")


def create_metric_samples() -> None:
    op.create_table(
        "metric_samples",
        sa.Column("metric_id", BIG, nullable=False),
        sa.Column("rowid", BIG, nullable=False),
        sa.Column("time_us", BIG, nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("raw_score", sa.Double()),
        sa.Column("anomaly_score", sa.Double()),
        sa.Column("display_value", sa.Double()),
        sa.Column("predictions_json", sa.Text()),
        sa.PrimaryKeyConstraint("metric_id", "rowid", name="pk_metric_samples"),
        sqlite_with_rowid=False,
    )
    partial("ix_metric_samples_unusual", "metric_samples", ["time_us"], "anomaly_score >= 0.9")


def create_metric_rejects() -> None:
    op.create_table(
        "metric_rejects",
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("rejected", BIG, nullable=False),
        sa.Column("first_us", BIG, nullable=False),
        sa.Column("last_us", BIG, nullable=False),
        sa.Column("examples_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("reason", "source", "metric", name="pk_metric_rejects"),
    )
    op.create_index("ix_metric_rejects_last_us", "metric_rejects", ["last_us"])


def create_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("headers_json", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_us", BIG, nullable=False),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sqlite_autoincrement=True,
    )
    partial("ix_outbox_kind_due_us", "outbox", ["kind", "due_us", "id"], "state = 'pending'")
    partial("ix_outbox_failed", "outbox", ["created_us"], "state = 'failed'")
