"""SQLite: connections, bulk statements, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Table, bindparam, event, insert, text, update
from sqlalchemy.engine import ExceptionContext

from eventproc.errors import ConfigError, EventprocError, StoreUnavailable
from eventproc.store.base import Bulk, BulkUpdate, Row

BUSY_TIMEOUT_S: Final = 30.0
CHECKPOINT_PAGES: Final = 4000  # of 4 KiB: pages that change often are copied to the database less often
JOURNAL_LIMIT: Final = 64 << 20  # bytes that the write-ahead log keeps once it is worked off
BUSY_POLL_S: Final = 0.0005  # SQLite's own back-off sleeps up to 0.1 s: far too long between short transactions
BUSY_POLL_MAX_S: Final = 0.005

_LAST_SERIAL = text("SELECT seq FROM sqlite_sequence WHERE name = :name")


class _Many:
    """
    A statement over many rows, compiled once and handed to the driver as it is.

    The rows hold nothing but what the driver takes. SQLAlchemy would look at each parameter of each row, find nothing
    to convert, and take longer over that than SQLite takes to write the row.
    """

    def __init__(self, conn: Connection, statement: Any, *, prefix: str = "") -> None:
        compiled = statement.compile(dialect=conn.dialect)
        self._sql = str(compiled)
        binds = [compiled.binds[name] for name in compiled.positiontup]
        # What the statement says itself ('committing') is a parameter too, the same one for all rows.
        self._parts = [(bind.key.removeprefix(prefix) if bind.required else None, bind.value) for bind in binds]
        self._names = None if None in [name for name, _ in self._parts] else [str(name) for name, _ in self._parts]

    def execute(self, conn: Connection, rows: Sequence[Row]) -> None:
        if self._names is not None:
            names = self._names
            values = [tuple([row[name] for name in names]) for row in rows]
        else:
            parts = self._parts
            values = [tuple([said if name is None else row[name] for name, said in parts]) for row in rows]
        conn.exec_driver_sql(self._sql, values)


class SqliteBulk(Bulk):
    """Statements over many rows: `executemany` is the fastest there is, and a writer is alone."""

    name = "sqlite"

    def __init__(self) -> None:
        self._updates: dict[BulkUpdate, _Many] = {}
        self._inserts: dict[tuple[Table, tuple[str, ...]], _Many] = {}

    def insert_new(self, conn: Connection, table: Table, rows: Sequence[Row], key: str) -> set[Any]:
        """Insert the rows: nobody else writes since the caller looked."""
        columns = tuple(rows[0])
        statement = self._inserts.get((table, columns))
        if statement is None:
            values: dict[str, Any] = {name: bindparam(name) for name in columns}
            statement = self._inserts[(table, columns)] = _Many(conn, insert(table).values(values))
        statement.execute(conn, rows)
        return {row[key] for row in rows}

    def update(self, conn: Connection, update: BulkUpdate, rows: Sequence[Row]) -> None:
        """Update each row by its `id`."""
        statement = self._updates.get(update)
        if statement is None:
            statement = self._updates[update] = _Many(conn, self._build(update), prefix="_")
        statement.execute(conn, rows)

    @staticmethod
    def _build(spec: BulkUpdate) -> Any:
        values = spec.values(lambda name: bindparam(f"_{name}", type_=spec.params[name]))
        return update(spec.table).where(spec.table.c.id == bindparam("_id")).values(values)

    def load(self, conn: Connection, table: Table, columns: Mapping[str, NDArray[Any]]) -> None:
        """Insert rows that are given as columns."""
        statement = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - our own names
        conn.exec_driver_sql(statement, list(zip(*[column.tolist() for column in columns.values()], strict=True)))

    def serials(self, conn: Connection, table: Table, wanted: int) -> Sequence[int]:
        """Continue behind the highest number ever used; the insert that follows moves the counter."""
        last = conn.execute(_LAST_SERIAL, {"name": table.name}).scalar() or 0
        return range(last + 1, last + 1 + wanted)


def prepare(engine: Engine, *, write: bool, durability: str, busy_timeout_s: float, memory: bool = False) -> None:
    """Set up the engine's connections and its way to begin a transaction."""
    file = engine.url.database or ""

    @event.listens_for(engine, "connect")
    def _connect(dbapi: sqlite3.Connection, _record: Any) -> None:
        dbapi.isolation_level = None  # the sqlite3 module must not begin transactions of its own
        busy_ms = 2 if write else round(busy_timeout_s * 1000)
        if not memory:
            _use_wal(dbapi, busy_timeout_s, file)
        dbapi.execute(f"PRAGMA busy_timeout = {busy_ms}")
        dbapi.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        dbapi.execute("PRAGMA foreign_keys = ON")
        dbapi.execute("PRAGMA temp_store = MEMORY")
        dbapi.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        dbapi.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT}")
        dbapi.execute("PRAGMA cache_size = -32000")
        if not write:
            dbapi.execute("PRAGMA query_only = ON")

    @event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        dbapi: sqlite3.Connection = conn.connection.dbapi_connection  # type: ignore[assignment]  # SQLAlchemy's protocol
        if not write:
            dbapi.execute("BEGIN")
            return
        _begin_immediate(dbapi, busy_timeout_s, file)

    @event.listens_for(engine, "handle_error")
    def _error(context: ExceptionContext) -> Exception | None:
        error = context.original_exception
        translated = translate(error, file) if isinstance(error, sqlite3.Error) else error
        return None if translated is error else translated  # type: ignore[return-value]  # exceptions only


def _use_wal(dbapi: sqlite3.Connection, busy_timeout_s: float, file: str) -> None:
    # The change of mode ignores busy_timeout, and several processes may open a new database at once.
    def change() -> None:
        if dbapi.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            dbapi.execute("PRAGMA journal_mode = WAL")

    _patiently(change, busy_timeout_s, file)


def _begin_immediate(dbapi: sqlite3.Connection, busy_timeout_s: float, file: str) -> None:
    _patiently(lambda: dbapi.execute("BEGIN IMMEDIATE"), busy_timeout_s, file)


def _patiently(action: Any, timeout_s: float, file: str) -> None:
    deadline = time.monotonic() + timeout_s
    pause = BUSY_POLL_S
    while True:
        try:
            action()
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() >= deadline:
                raise translate(error, file) from error
        else:
            return
        time.sleep(pause)
        pause = min(pause * 1.2, BUSY_POLL_MAX_S)


def _is_closed(file: str) -> bool:
    return os.access(file, os.F_OK) and not os.access(file, os.W_OK)


def _is_busy(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) or 0
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def translate(error: sqlite3.Error, file: str) -> Exception:
    """Say what the error means for the platform; the error itself where it means a fault of ours."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    primary = code & 0xFF
    if _is_busy(error):
        return StoreUnavailable(
            f"the database is locked: another process holds it; find it with `fuser {file}`, or try again"
        )
    if primary == sqlite3.SQLITE_READONLY and "readonly" in str(error):
        closed = [name for name in (file, f"{file}-wal", f"{file}-shm") if _is_closed(name)]
        if closed:
            return StoreUnavailable(
                f"{closed[0]} can not be written by this process: look at its rights, its owner and whether the file "
                "system has become read-only; nothing of the transaction was written"
            )
        return RuntimeError("this transaction is for reading: use begin() to write")
    known: dict[int, type[EventprocError]] = {
        sqlite3.SQLITE_FULL: StoreUnavailable,
        sqlite3.SQLITE_IOERR: StoreUnavailable,
        sqlite3.SQLITE_CANTOPEN: ConfigError,
        sqlite3.SQLITE_NOTADB: ConfigError,
        sqlite3.SQLITE_CORRUPT: StoreUnavailable,
    }
    advice = {
        sqlite3.SQLITE_FULL: "the disk is full: nothing of the transaction was written; free some space and try again",
        sqlite3.SQLITE_IOERR: "the disk failed, or a quota on it is used up, while the database was read or written; "
        "nothing was half written",
        sqlite3.SQLITE_CANTOPEN: f"{file} can not be opened: check its directory and the rights on it",
        sqlite3.SQLITE_NOTADB: f"{file} is not a SQLite database: check EVENTPROC_DATA and EVENTPROC_DATABASE_URL",
        sqlite3.SQLITE_CORRUPT: f"the database file {file} is damaged: restore it from a backup",
    }
    if primary in known:
        return known[primary](f"{advice[primary]} ({error})")
    return error
