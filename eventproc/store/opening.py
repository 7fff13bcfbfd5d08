"""From a database URL to a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from eventproc.errors import ConfigError
from eventproc.store import sqlite
from eventproc.store.sqlstore import SqlStore, WriterLock

# What users say does not belong into error texts.
COMMON: Final[dict[str, Any]] = {"hide_parameters": True}

# A process that is frozen inside a transaction keeps its locks; PostgreSQL ends its session after so many seconds.
FROZEN_S: Final = 20


def open_url(url: str, *, durability: str = "normal") -> SqlStore:
    """Open a store, see `eventproc.store.open_store`."""
    if durability not in ("normal", "full"):
        raise ConfigError(f"durability is {durability!r}; it must be normal or full")
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(
            "the database URL can not be read; examples: sqlite:////var/lib/eventproc/eventproc.db,"
            " postgresql://user@host/name"
        ) from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _open_sqlite(parsed, durability)
    if backend == "postgresql":
        return _open_postgres(parsed)
    raise ConfigError(f"databases of kind {backend!r} are not supported; use sqlite:/// or postgresql://")


def _open_sqlite(url: URL, durability: str) -> SqlStore:
    if not url.database or url.database == ":memory:":
        raise ConfigError("a SQLite database needs a path, sqlite:///PATH; for tests there is store.memory.MemoryStore")
    unknown = sorted(set(url.query) - {"busy_timeout"})
    if unknown:
        raise ConfigError(f"the database URL has unknown settings: {', '.join(unknown)}; SQLite knows busy_timeout")
    given = url.query.get("busy_timeout", str(sqlite.BUSY_TIMEOUT_S))
    try:
        busy_timeout_s = float(str(given))
    except ValueError as error:
        raise ConfigError(f"busy_timeout is {given!r}; it must be a number of seconds") from error
    plain = URL.create("sqlite", database=str(_private_file(url.database)))
    common: dict[str, Any] = COMMON | {"poolclass": QueuePool, "connect_args": {"check_same_thread": False}}
    writer = create_engine(plain, pool_size=1, max_overflow=0, **common)
    reader = create_engine(plain, pool_size=8, max_overflow=24, **common)
    for engine, write in ((writer, True), (reader, False)):
        sqlite.prepare(engine, write=write, durability=durability, busy_timeout_s=busy_timeout_s)
    return SqlStore(writer, reader, sqlite.SqliteBulk(), lock=WriterLock())


def _private_file(name: str) -> Path:
    """Make the file if need be, readable to its owner only: payloads, mails and digests of keys are in it."""
    path = Path(name).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
    except OSError as error:
        raise ConfigError(f"the database file {path} can not be made: {error.strerror}") from error
    return path


def _open_postgres(url: URL) -> SqlStore:
    try:
        from eventproc.store import postgres  # noqa: PLC0415 - psycopg is an extra
    except ImportError as error:
        raise ConfigError("PostgreSQL needs psycopg: install eventproc[postgresql]") from error
    plain = url.set(drivername="postgresql+psycopg")
    options = f"-c idle_in_transaction_session_timeout={FROZEN_S}s {url.query.get('options', '')}"
    settings = {"application_name": "eventproc", "options": options}
    common: dict[str, Any] = COMMON | {"pool_recycle": 1800, "connect_args": settings}
    writer = create_engine(plain, pool_size=8, max_overflow=24, **common)
    reader = create_engine(
        plain,
        pool_size=8,
        max_overflow=24,
        isolation_level="REPEATABLE READ",
        execution_options={"postgresql_readonly": True},
        **common,
    )
    for engine in (writer, reader):
        postgres.prepare(engine)
    return SqlStore(writer, reader, postgres.PostgresBulk(), lock=None)
