"""Models of metrics, their checkpoints, and the shares of metrics that workers hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
UNDEFINED = sa.text("defined_us IS NULL AND params_json IS NOT NULL")


def upgrade() -> None:
    _models()
    _shares()
    _annotations()
    _aggregates()


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("metric_id", BIG, nullable=False),
        sa.Column("spec_json", sa.Text(), nullable=False),
        sa.Column("params_json", sa.Text()),
        sa.Column("likelihood_json", sa.Text()),
        sa.Column("command_id", sa.Text(), nullable=False),
        sa.Column("owner_id", BIG),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("defined_us", BIG),
        sa.Column("origin_rowid", BIG, nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_us", BIG),
        sa.Column("message", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("metric_id", name="uq_models_metric_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_models_undefined", "models", ["metric_id"], sqlite_where=UNDEFINED, postgresql_where=UNDEFINED)
    op.create_table(
        "model_checkpoints",
        sa.Column("metric_id", BIG, autoincrement=False, nullable=False),
        sa.Column("model_id", BIG, nullable=False),
        sa.Column("rowid", BIG, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("metric_id", name="pk_model_checkpoints"),
    )


def _shares() -> None:
    op.create_table(
        "model_shards",
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.Text()),
        sa.Column("token", BIG, nullable=False),
        sa.Column("lease_until_us", BIG, nullable=False),
        sa.PrimaryKeyConstraint("shard", name="pk_model_shards"),
    )
    op.create_table(
        "model_workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("beat_us", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_model_workers"),
    )


def _annotations() -> None:
    op.create_table(
        "annotations",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("time_us", BIG, nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("metric_uid", sa.Text()),
        sa.Column("message", sa.Text()),
        sa.Column("data_json", sa.Text()),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("updated_us", BIG, nullable=False),
        sa.Column("owner_id", BIG),
        sa.PrimaryKeyConstraint("id", name="pk_annotations"),
        sa.UniqueConstraint("uid", name="uq_annotations_uid"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_annotations_server_time_us", "annotations", ["server", "time_us"])


def _aggregates() -> None:
    op.create_table(
        "aggregates",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("pattern", sa.Text()),
        sa.Column("tags_json", sa.Text(), nullable=False),
        sa.Column("function", sa.Text(), nullable=False),
        sa.Column("period_us", BIG, nullable=False),
        sa.Column("wait_us", BIG, nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("owner_id", BIG),
        sa.Column("next_us", BIG),
        sa.Column("newest_us", BIG),
        sa.Column("seen_us", BIG),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("periods", BIG, nullable=False),
        sa.Column("message", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_aggregates"),
        sa.UniqueConstraint("name", name="uq_aggregates_name"),
        sqlite_autoincrement=True,
    )
