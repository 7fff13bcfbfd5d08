"""
The tables. Migrations create them step by step; a test holds the two against each other.

Columns ending in `_us` are microseconds since 1970 UTC, in `_ns` nanoseconds, in `_json` JSON text.
No column is called `t`, `count` or `index`: SQLAlchemy's rows have methods of those names.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

# The revision of store/migrations that these tables correspond to.
REVISION: Final = "0006"

WAITING: Final = "state IN ('queued', 'retrying')"
LEASED: Final = "state IN ('running', 'committing')"
DONE: Final = "state IN ('succeeded', 'cancelled')"
DEAD: Final = "state IN ('failed', 'commit_failed')"
OPEN: Final = "state IN ('queued', 'retrying', 'running', 'committing')"

# In a statement, this lets the partial index of runs that did not succeed be used.
UNSUCCEEDED: Final = "state <> 'succeeded'"

# Of metrics that are monitored in any way and have rows to be scored; of samples that are worth to be found by time.
BEHIND: Final = "status > 0 AND scored_rowid < last_rowid"
ENOUGH: Final = "status = 8 AND last_rowid >= 288"  # waits for a day of five-minute samples, and has them
UNUSUAL: Final = "anomaly_score >= 0.9"
# Streams by the numbers of model.StreamState: what may fire or expire, and what is not completed.
FIRES: Final = "state IN (1, 7) AND fire_us IS NOT NULL"
EXPIRES: Final = "(state = 8 OR (state = 1 AND fire_us IS NULL))"
UNCOMPLETED: Final = "state <> 6"

# Of models that have their parameters and wait to be made.
UNDEFINED: Final = "defined_us IS NULL AND params_json IS NOT NULL"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts rows in "INTEGER PRIMARY KEY" only; its integers are 64 bits wide anyway.
Big = BigInteger().with_variant(Integer(), "sqlite")


def _partial(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


def _serial(name: str = "id") -> Column[int]:
    return Column(name, Big, primary_key=True, autoincrement=True)


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
    _serial(),
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
    _serial(),
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
    _serial(),
    Column("at_us", Big, nullable=False, index=True),
    Column("user_name", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("detail_json", Text, nullable=False),
    sqlite_autoincrement=True,
)

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
)

# `live` is true, or null once deregistered: nulls are distinct, so dead handlers may share a name.
handlers = Table(
    "handlers",
    metadata,
    _serial(),
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
    _serial(),
    Column("python", Text, nullable=False),
    Column("request_json", Text, nullable=False),
    Column("blob", LargeBinary, nullable=False),
    Column("worker", Text),
    Column("until_us", Big, nullable=False),
    Column("answer_json", Text),
    Column("created_us", Big, nullable=False),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    _serial("seq"),
    Column("id", Text, nullable=False),
    Column("hook", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("time_us", Big, nullable=False, index=True),
    Column("tags_json", Text, nullable=False),
    Column("key", Text),
    Column("payload_json", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("trace_parent", Text),
    Column("hops", Integer, nullable=False),
    Column("accepted_us", Big, nullable=False),
    Column("user_id", Big),
    Column("caused_by_run", Big),
    UniqueConstraint("id"),
    Index("ix_events_hook_seq", "hook", "seq"),
    _partial("ix_events_key_seq", "key", "seq", where="key IS NOT NULL"),
    sqlite_autoincrement=True,
)

event_tags = Table(
    "event_tags",
    metadata,
    Column("tag", Text, nullable=False),
    Column("event_seq", Big, ForeignKey("events.seq", ondelete="CASCADE"), nullable=False, index=True),
    PrimaryKeyConstraint("tag", "event_seq"),
)

# What is left of a pruned event for the deduplication window.
pruned_events = Table(
    "pruned_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("accepted_us", Big, nullable=False, index=True),
)

# A lane is where runs of one handler on one hook wait in one kind of isolation, with or without an order key. A claim
# looks at lanes that have runs waiting, never at the runs of a paused lane.
lanes = Table(
    "lanes",
    metadata,
    _serial(),
    Column("handler_id", Big, ForeignKey("handlers.id"), nullable=False),
    Column("hook", Text, nullable=False),
    Column("isolation", Text, nullable=False),
    Column("ordered", Boolean, nullable=False),
    UniqueConstraint("handler_id", "hook", "isolation", "ordered"),
    Index("ix_lanes_hook", "hook"),
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    _serial(),
    Column("event_seq", Big, ForeignKey("events.seq"), nullable=False),
    Column("handler_id", Big, nullable=False),
    Column("version", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("lane_id", Big, ForeignKey("lanes.id"), nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("interruptions", Integer, nullable=False),
    Column("serial", Integer, nullable=False),
    Column("token", Integer, nullable=False),
    Column("order_key", Text),
    Column("limit_key", Text),
    Column("rate_key", Text),
    Column("created_us", Big, nullable=False),
    Column("due_us", Big, nullable=False),
    Column("started_us", Big),
    Column("finished_us", Big),
    Column("lease_until_us", Big),
    Column("worker", Text),
    Column("cancel_requested", Boolean, nullable=False),
    Column("callbacks_only", Boolean, nullable=False),
    Column("result_json", Text),
    Column("failure_json", Text),
    Column("sandbox", Text),
    Column("cpu_us", Big),
    Column("memory_bytes", Big),
    UniqueConstraint("event_seq", "handler_id", "round"),
    ForeignKeyConstraint(["handler_id", "version"], ["handler_versions.handler_id", "handler_versions.version"]),
    Index("ix_runs_lane_id_id", "lane_id", "id"),
    _partial("ix_runs_waiting", "lane_id", "due_us", "id", where=WAITING),
    _partial("ix_runs_unsucceeded", "state", "id", where=UNSUCCEEDED),
    _partial("ix_runs_ordered", "handler_id", "order_key", "id", where=f"order_key IS NOT NULL AND {OPEN}"),
    _partial("ix_runs_ordered_leased", "handler_id", "order_key", where=f"order_key IS NOT NULL AND {LEASED}"),
    _partial("ix_runs_done", "finished_us", "id", where=DONE),
    _partial("ix_runs_dead", "finished_us", "id", where=DEAD),
    sqlite_autoincrement=True,
)

# Starts within the present window of a rate limit; `rate_key` is "" for the whole handler, "=KEY" for one key.
rate_windows = Table(
    "rate_windows",
    metadata,
    Column("handler_id", Big, nullable=False),
    Column("rate_key", Text, nullable=False),
    Column("end_us", Big, nullable=False),
    Column("used", Integer, nullable=False),
    PrimaryKeyConstraint("handler_id", "rate_key"),
)

run_logs = Table(
    "run_logs",
    metadata,
    _serial(),
    Column("run_id", Big, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("stream", Text, nullable=False),
    Column("at_us", Big, nullable=False, index=True),
    Column("text", Text, nullable=False),
    Index("ix_run_logs_run_id_id", "run_id", "id"),
    sqlite_autoincrement=True,
)

# A leased notice is a pending one whose `due_us` lies at the end of the lease. Notices and files may outlive their
# runs, so they do not reference them.
notices = Table(
    "notices",
    metadata,
    _serial(),
    Column("run_id", Big, nullable=False),
    Column("handler_id", Big, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("serial", Integer, nullable=False),
    Column("recipients_json", Text, nullable=False),
    Column("refused_json", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_us", Big, nullable=False),
    Column("created_us", Big, nullable=False, index=True),
    Column("sent_us", Big),
    Column("error", Text),
    Column("message_id", Text),
    Column("subject", Text),
    Column("mail", LargeBinary),
    Column("token", Integer, nullable=False),
    UniqueConstraint("run_id", "outcome", "serial"),
    _partial("ix_notices_due_us", "due_us", "id", where="state = 'pending'"),
    _partial("ix_notices_pending", "handler_id", "outcome", "id", where="state = 'pending'"),
    _partial("ix_notices_sent", "handler_id", "outcome", "sent_us", where="sent_us IS NOT NULL"),
    sqlite_autoincrement=True,
)

files = Table(
    "files",
    metadata,
    Column("code", Text, primary_key=True),
    Column("run_id", Big, nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("size", Big, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_us", Big, nullable=False, index=True),
)

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
    _serial(),
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
    _serial(),
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

schedules = Table(
    "schedules",
    metadata,
    _serial(),
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

# Who a metric is. What changes with every batch of samples is in `metric_states`, so that a busy table has few indexes.
metrics = Table(
    "metrics",
    metadata,
    _serial(),
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
    _partial("ix_metric_states_behind", "status", "id", where=BEHIND),
    _partial("ix_metric_states_enough", "id", where=ENOUGH),
    _partial("ix_metric_states_deleted", "id", where="status = -1"),
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
    _partial("ix_metric_samples_unusual", "time_us", where=UNUSUAL),
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

# A leased message is a pending one whose `due_us` lies at the end of the lease; a delivered one is deleted.
outbox = Table(
    "outbox",
    metadata,
    _serial(),
    Column("kind", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("headers_json", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_us", Big, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("error", Text),
    Column("token", Integer, nullable=False),
    _partial("ix_outbox_kind_due_us", "kind", "due_us", "id", where="state = 'pending'"),
    _partial("ix_outbox_failed", "created_us", where="state = 'failed'"),
    sqlite_autoincrement=True,
)
triggers = Table(
    "triggers",
    metadata,
    _serial(),
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
    _serial(),
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
    _partial("ix_streams_fire_us", "fire_us", "id", where=FIRES),
    _partial("ix_streams_expire_us", "expire_us", "id", where=EXPIRES),
    _partial("ix_streams_run_id", "run_id", where="run_id IS NOT NULL"),
    _partial("ix_streams_uncompleted", "state", "id", where=UNCOMPLETED),
    _partial("ix_streams_completed", "updated_us", "id", where="state = 6"),
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

# `metric_id` is the metric's; `id` is another one whenever the metric is monitored anew.
models = Table(
    "models",
    metadata,
    _serial(),
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
    _partial("ix_models_undefined", "metric_id", where=UNDEFINED),
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
