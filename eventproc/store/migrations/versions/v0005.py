"""Triggers and their streams. Pipelines are handlers, and their runs are runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _triggers()
    _streams()
    op.create_table(
        "stream_events",
        sa.Column("stream_id", BIG, nullable=False),
        sa.Column("event_seq", BIG, nullable=False),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name="fk_stream_events_stream_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["event_seq"], ["events.seq"], name="fk_stream_events_event_seq"),
        sa.PrimaryKeyConstraint("stream_id", "event_seq", name="pk_stream_events"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_stream_events_event_seq", "stream_events", ["event_seq"])


def _triggers() -> None:
    op.create_table(
        "triggers",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("live", sa.Boolean()),
        sa.Column("owner_id", BIG, nullable=False),
        sa.Column("current_version", sa.Integer(), nullable=False),
        sa.Column("last_version", sa.Integer(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("updated_us", BIG, nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.Column("deleted_us", BIG),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name="fk_triggers_owner_id"),
        sa.PrimaryKeyConstraint("id", name="pk_triggers"),
        sa.UniqueConstraint("name", "live", name="uq_triggers_name_live"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "trigger_versions",
        sa.Column("trigger_id", BIG, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("definition_json", sa.Text(), nullable=False),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["trigger_id"], ["triggers.id"], name="fk_trigger_versions_trigger_id"),
        sa.PrimaryKeyConstraint("trigger_id", "version", name="pk_trigger_versions"),
    )
    op.create_table(
        "trigger_counts",
        sa.Column("trigger_id", BIG, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("checks", BIG, nullable=False),
        sa.Column("passed", BIG, nullable=False),
        sa.ForeignKeyConstraint(["trigger_id"], ["triggers.id"], name="fk_trigger_counts_trigger_id"),
        sa.PrimaryKeyConstraint("trigger_id", "kind", "name", name="pk_trigger_counts"),
    )


def _streams() -> None:
    op.create_table(
        "streams",
        sa.Column("id", BIG, primary_key=True, autoincrement=True),
        sa.Column("trigger_id", BIG, nullable=False),
        sa.Column("trigger_version", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("join_key", sa.Text()),
        sa.Column("traits_json", sa.Text(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("serial", sa.Integer(), nullable=False),
        sa.Column("expiring", sa.Boolean(), nullable=False),
        sa.Column("first_us", BIG, nullable=False),
        sa.Column("last_us", BIG, nullable=False),
        sa.Column("events", BIG, nullable=False),
        sa.Column("matched", sa.Text(), nullable=False),
        sa.Column("hops", sa.Integer(), nullable=False),
        sa.Column("fire_us", BIG),
        sa.Column("expire_us", BIG, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("run_id", BIG),
        sa.Column("failure_json", sa.Text()),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("updated_us", BIG, nullable=False),
        sa.ForeignKeyConstraint(["trigger_id"], ["triggers.id"], name="fk_streams_trigger_id"),
        sa.PrimaryKeyConstraint("id", name="pk_streams"),
        sa.UniqueConstraint("join_key", name="uq_streams_join_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_streams_name_id", "streams", ["name", "id"])
    for name, columns, where in (
        ("ix_streams_fire_us", ["fire_us", "id"], "state IN (1, 7) AND fire_us IS NOT NULL"),
        ("ix_streams_expire_us", ["expire_us", "id"], "(state = 8 OR (state = 1 AND fire_us IS NULL))"),
        ("ix_streams_run_id", ["run_id"], "run_id IS NOT NULL"),
        ("ix_streams_uncompleted", ["state", "id"], "state <> 6"),
        ("ix_streams_completed", ["updated_us", "id"], "state = 6"),
    ):
        condition = sa.text(where)
        op.create_index(name, "streams", columns, sqlite_where=condition, postgresql_where=condition)
