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
