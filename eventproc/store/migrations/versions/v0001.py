"""The tables of the core: hooks, handlers, events, runs, notices, files, series, users, audit, schedules."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    create_audit()
    create_counters()
    create_events()
    create_files()
    create_hooks()
    create_meta()
    create_notices()
    create_pruned_events()
    create_rate_windows()
    create_schedules()
    create_series()
    create_users()
    create_api_keys()
    create_event_tags()
    create_handlers()
    create_series_chunks()
    create_handler_versions()
    create_lanes()
    create_runs()
    create_run_logs()
    first_rows()


def first_rows() -> None:
    op.execute("INSERT INTO counters (name, value) VALUES ('revision', 1)")
    meta = sa.table("meta", sa.column("name"), sa.column("value"))
    op.bulk_insert(meta, [{"name": "store_id", "value": uuid.uuid4().hex}])


def create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("at_us", BIG, nullable=False),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("detail_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_at_us", "audit", ["at_us"], unique=False)


def create_counters() -> None:
    op.create_table(
        "counters",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
    )


def create_events() -> None:
    op.create_table(
        "events",
        sa.Column("seq", BIG, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("hook", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("time_us", BIG, nullable=False),
        sa.Column("tags_json", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("payload_json", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("trace_parent", sa.Text(), nullable=True),
        sa.Column("hops", sa.Integer(), nullable=False),
        sa.Column("accepted_us", BIG, nullable=False),
        sa.Column("user_id", BIG, nullable=True),
        sa.Column("caused_by_run", BIG, nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sa.UniqueConstraint("id", name="uq_events_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_hook_seq", "events", ["hook", "seq"], unique=False)
    op.create_index(
        "ix_events_key_seq",
        "events",
        ["key", "seq"],
        unique=False,
        sqlite_where=sa.text("key IS NOT NULL"),
        postgresql_where=sa.text("key IS NOT NULL"),
    )
    op.create_index("ix_events_time_us", "events", ["time_us"], unique=False)


def create_files() -> None:
    op.create_table(
        "files",
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("run_id", BIG, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size", BIG, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_us", BIG, nullable=False),
        sa.PrimaryKeyConstraint("code", name="pk_files"),
    )
    op.create_index("ix_files_created_us", "files", ["created_us"], unique=False)
    op.create_index("ix_files_run_id", "files", ["run_id"], unique=False)


def create_hooks() -> None:
    op.create_table(
        "hooks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("schema_json", sa.Text(), nullable=False),
        sa.Column("sample_json", sa.Text(), nullable=False),
        sa.Column("keep_s", BIG, nullable=True),
        sa.Column("keep_idle_s", BIG, nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("updated_us", BIG, nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.Column("owner_id", BIG, nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_hooks"),
    )


def create_meta() -> None:
    op.create_table(
        "meta",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_meta"),
    )


def create_notices() -> None:
    op.create_table(
        "notices",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("run_id", BIG, nullable=False),
        sa.Column("handler_id", BIG, nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("serial", sa.Integer(), nullable=False),
        sa.Column("recipients_json", sa.Text(), nullable=False),
        sa.Column("refused_json", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_us", BIG, nullable=False),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("sent_us", BIG, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("mail", sa.LargeBinary(), nullable=True),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_notices"),
        sa.UniqueConstraint("run_id", "outcome", "serial", name="uq_notices_run_id_outcome_serial"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_notices_created_us", "notices", ["created_us"], unique=False)
    op.create_index(
        "ix_notices_due_us",
        "notices",
        ["due_us", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "ix_notices_pending",
        "notices",
        ["handler_id", "outcome", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "ix_notices_sent",
        "notices",
        ["handler_id", "outcome", "sent_us"],
        unique=False,
        sqlite_where=sa.text("sent_us IS NOT NULL"),
        postgresql_where=sa.text("sent_us IS NOT NULL"),
    )


def create_pruned_events() -> None:
    op.create_table(
        "pruned_events",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("accepted_us", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pruned_events"),
    )
    op.create_index("ix_pruned_events_accepted_us", "pruned_events", ["accepted_us"], unique=False)


def create_rate_windows() -> None:
    op.create_table(
        "rate_windows",
        sa.Column("handler_id", BIG, nullable=False),
        sa.Column("rate_key", sa.Text(), nullable=False),
        sa.Column("end_us", BIG, nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("handler_id", "rate_key", name="pk_rate_windows"),
    )


def create_schedules() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("hook", sa.Text(), nullable=False),
        sa.Column("tags_json", sa.Text(), nullable=False),
        sa.Column("payload_json", sa.Text(), nullable=False),
        sa.Column("next_us", BIG, nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("user_id", BIG, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_schedules"),
        sa.UniqueConstraint("name", name="uq_schedules_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_schedules_next_us", "schedules", ["next_us"], unique=False)


def create_series() -> None:
    op.create_table(
        "series",
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("tags_json", sa.Text(), nullable=False),
        sa.Column("annotations_json", sa.Text(), nullable=False),
        sa.Column("layout", sa.Text(), nullable=False),
        sa.Column("points", BIG, nullable=False),
        sa.Column("earliest_ns", BIG, nullable=True),
        sa.Column("latest_ns", BIG, nullable=True),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("owner_id", BIG, nullable=True),
        sa.PrimaryKeyConstraint("uuid", name="pk_series"),
    )
    op.create_index("ix_series_collection_name", "series", ["collection", "name"], unique=False)
    op.create_index("ix_series_name", "series", ["name"], unique=False)


def create_users() -> None:
    op.create_table(
        "users",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created_us", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("name", name="uq_users_name"),
        sqlite_autoincrement=True,
    )


def create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("user_id", BIG, nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("revoked_us", BIG, nullable=True),
        sa.Column("last_used_us", BIG, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_api_keys_user_id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("prefix", name="uq_api_keys_prefix"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"], unique=False)


def create_event_tags() -> None:
    op.create_table(
        "event_tags",
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("event_seq", BIG, nullable=False),
        sa.ForeignKeyConstraint(["event_seq"], ["events.seq"], name="fk_event_tags_event_seq", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tag", "event_seq", name="pk_event_tags"),
    )
    op.create_index("ix_event_tags_event_seq", "event_tags", ["event_seq"], unique=False)


def create_handlers() -> None:
    op.create_table(
        "handlers",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("hook", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("live", sa.Boolean(), nullable=True),
        sa.Column("owner_id", BIG, nullable=False),
        sa.Column("current_version", sa.Integer(), nullable=False),
        sa.Column("last_version", sa.Integer(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("updated_us", BIG, nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.Column("deregistered_us", BIG, nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name="fk_handlers_owner_id"),
        sa.PrimaryKeyConstraint("id", name="pk_handlers"),
        sa.UniqueConstraint("hook", "name", "live", name="uq_handlers_hook_name_live"),
        sqlite_autoincrement=True,
    )


def create_series_chunks() -> None:
    op.create_table(
        "series_chunks",
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("start_ns", BIG, nullable=False),
        sa.Column("end_ns", BIG, nullable=False),
        sa.Column("points", BIG, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["series"], ["series.uuid"], name="fk_series_chunks_series", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("series", "start_ns", name="pk_series_chunks"),
    )


def create_handler_versions() -> None:
    op.create_table(
        "handler_versions",
        sa.Column("handler_id", BIG, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size", BIG, nullable=False),
        sa.Column("python", sa.Text(), nullable=False),
        sa.Column("dill", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("filename", sa.Text(), nullable=True),
        sa.Column("qualname", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("globals_json", sa.Text(), nullable=False),
        sa.Column("tags_json", sa.Text(), nullable=False),
        sa.Column("notify_on_success", sa.Text(), nullable=True),
        sa.Column("notify_on_failure", sa.Text(), nullable=True),
        sa.Column("options_json", sa.Text(), nullable=False),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["handler_id"], ["handlers.id"], name="fk_handler_versions_handler_id"),
        sa.PrimaryKeyConstraint("handler_id", "version", name="pk_handler_versions"),
    )


def create_lanes() -> None:
    op.create_table(
        "lanes",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("handler_id", BIG, nullable=False),
        sa.Column("hook", sa.Text(), nullable=False),
        sa.Column("isolation", sa.Text(), nullable=False),
        sa.Column("ordered", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["handler_id"], ["handlers.id"], name="fk_lanes_handler_id"),
        sa.PrimaryKeyConstraint("id", name="pk_lanes"),
        sa.UniqueConstraint(
            "handler_id", "hook", "isolation", "ordered", name="uq_lanes_handler_id_hook_isolation_ordered"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_lanes_hook", "lanes", ["hook"], unique=False)


def create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("event_seq", BIG, nullable=False),
        sa.Column("handler_id", BIG, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("lane_id", BIG, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("interruptions", sa.Integer(), nullable=False),
        sa.Column("serial", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("order_key", sa.Text(), nullable=True),
        sa.Column("limit_key", sa.Text(), nullable=True),
        sa.Column("rate_key", sa.Text(), nullable=True),
        sa.Column("created_us", BIG, nullable=False),
        sa.Column("due_us", BIG, nullable=False),
        sa.Column("started_us", BIG, nullable=True),
        sa.Column("finished_us", BIG, nullable=True),
        sa.Column("lease_until_us", BIG, nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("callbacks_only", sa.Boolean(), nullable=False),
        sa.Column("result_json", sa.Text(), nullable=True),
        sa.Column("failure_json", sa.Text(), nullable=True),
        sa.Column("sandbox", sa.Text(), nullable=True),
        sa.Column("cpu_us", BIG, nullable=True),
        sa.Column("memory_bytes", BIG, nullable=True),
        sa.ForeignKeyConstraint(["event_seq"], ["events.seq"], name="fk_runs_event_seq"),
        sa.ForeignKeyConstraint(
            ["handler_id", "version"],
            ["handler_versions.handler_id", "handler_versions.version"],
            name="fk_runs_handler_id_version",
        ),
        sa.ForeignKeyConstraint(["lane_id"], ["lanes.id"], name="fk_runs_lane_id"),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("event_seq", "handler_id", "round", name="uq_runs_event_seq_handler_id_round"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_runs_dead",
        "runs",
        ["finished_us", "id"],
        unique=False,
        sqlite_where=sa.text("state IN ('failed', 'commit_failed')"),
        postgresql_where=sa.text("state IN ('failed', 'commit_failed')"),
    )
    op.create_index(
        "ix_runs_done",
        "runs",
        ["finished_us", "id"],
        unique=False,
        sqlite_where=sa.text("state IN ('succeeded', 'cancelled')"),
        postgresql_where=sa.text("state IN ('succeeded', 'cancelled')"),
    )
    op.create_index("ix_runs_lane_id_id", "runs", ["lane_id", "id"], unique=False)
    op.create_index(
        "ix_runs_ordered",
        "runs",
        ["handler_id", "order_key", "id"],
        unique=False,
        sqlite_where=sa.text("order_key IS NOT NULL AND state IN ('queued', 'retrying', 'running', 'committing')"),
        postgresql_where=sa.text("order_key IS NOT NULL AND state IN ('queued', 'retrying', 'running', 'committing')"),
    )
    op.create_index(
        "ix_runs_ordered_leased",
        "runs",
        ["handler_id", "order_key"],
        unique=False,
        sqlite_where=sa.text("order_key IS NOT NULL AND state IN ('running', 'committing')"),
        postgresql_where=sa.text("order_key IS NOT NULL AND state IN ('running', 'committing')"),
    )
    op.create_index(
        "ix_runs_unsucceeded",
        "runs",
        ["state", "id"],
        unique=False,
        sqlite_where=sa.text("state <> 'succeeded'"),
        postgresql_where=sa.text("state <> 'succeeded'"),
    )
    op.create_index(
        "ix_runs_waiting",
        "runs",
        ["lane_id", "due_us", "id"],
        unique=False,
        sqlite_where=sa.text("state IN ('queued', 'retrying')"),
        postgresql_where=sa.text("state IN ('queued', 'retrying')"),
    )


def create_run_logs() -> None:
    op.create_table(
        "run_logs",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("run_id", BIG, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("at_us", BIG, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_logs_run_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_run_logs"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_run_logs_at_us", "run_logs", ["at_us"], unique=False)
    op.create_index("ix_run_logs_run_id_id", "run_logs", ["run_id", "id"], unique=False)
