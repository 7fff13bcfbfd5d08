"""PostgreSQL: connections, bulk statements, and what its errors mean."""

from __future__ import annotations

import select as select_module
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import errors
from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    Integer,
    Table,
    bindparam,
    column,
    event,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import InvalidatePoolError

from eventproc.errors import ConfigError, InvalidInput, StoreUnavailable
from eventproc.store.base import Bulk, BulkUpdate, Row

_MEANINGS: tuple[tuple[tuple[type[psycopg.Error], ...], type[Exception], str], ...] = (
    ((errors.ReadOnlySqlTransaction,), RuntimeError, "this transaction is for reading: use begin() to write"),
    (
        (errors.InvalidPassword, errors.InvalidAuthorizationSpecification, errors.InvalidCatalogName),
        ConfigError,
        "PostgreSQL refuses the connection: check the database URL",
    ),
    (
        (errors.InsufficientPrivilege,),
        ConfigError,
        "the URL's user lacks that right: make them the owner of the database (`ALTER DATABASE … OWNER TO …`)",
    ),
    (
        (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable),
        StoreUnavailable,
        "another transaction was in the way: try again",
    ),
    (
        (errors.IdleInTransactionSessionTimeout,),
        StoreUnavailable,
        "the transaction stood still for too long: try again",
    ),
    ((errors.DiskFull,), StoreUnavailable, "the disk of the PostgreSQL server is full: nothing was written"),
    (
        (errors.UntranslatableCharacter, errors.CharacterNotInRepertoire),
        InvalidInput,
        "PostgreSQL can not store that text",
    ),
)
_SERIALS = text("SELECT nextval(pg_get_serial_sequence(:name, :column)) FROM generate_series(1, :wanted)")


class PostgresBulk(Bulk):
    """Statements over many rows: one statement whose parameters are arrays."""

    name = "postgresql"

    def __init__(self) -> None:
        self._updates: dict[BulkUpdate, Any] = {}
        self._inserts: dict[tuple[Table, tuple[str, ...], str], Any] = {}

    def insert_new(self, conn: Connection, table: Table, rows: Sequence[Row], key: str) -> set[Any]:
        """Insert in the order of the key, so that two transactions never wait for each other in a circle."""
        columns = tuple(rows[0])
        statement = self._inserts.get((table, columns, key))
        if statement is None:
            source = _unnest({name: table.c[name].type for name in columns})
            statement = (
                insert(table)
                .from_select(list(columns), select(*source.c))
                .on_conflict_do_nothing()
                .returning(table.c[key])
            )
            self._inserts[(table, columns, key)] = statement
        return set(conn.execute(statement, _arrays(rows, columns)).scalars())

    def update(self, conn: Connection, update: BulkUpdate, rows: Sequence[Row]) -> None:
        """Update each row by its `id`."""
        statement = self._updates.get(update)
        if statement is None:
            statement = self._updates[update] = self._build(update)
        conn.execute(statement, _arrays(rows, ("id", *update.params)))

    @staticmethod
    def _build(spec: BulkUpdate) -> Any:
        source = _unnest({"id": BigInteger(), **spec.params})
        values = spec.values(lambda name: source.c[name])
        return update(spec.table).where(spec.table.c.id == source.c.id).values(values)

    def load(self, conn: Connection, table: Table, columns: Mapping[str, NDArray[Any]]) -> None:
        """Insert rows that are given as columns: COPY in its binary format, which numpy can write."""
        dbapi: Any = conn.connection.driver_connection
        statement = f"COPY {table.name} ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)"
        try:
            with dbapi.cursor() as cursor, cursor.copy(statement) as copy:
                copy.write(_COPY_START + _copy_rows(list(columns.values())) + _COPY_END)
        except psycopg.Error as error:
            raise translate(error, lost=dbapi.closed) from error

    def serials(self, conn: Connection, table: Table, wanted: int) -> Sequence[int]:
        """Take numbers from the sequence behind the table's key."""
        key = next(iter(table.primary_key.columns)).name
        return sorted(conn.execute(_SERIALS, {"name": table.name, "column": key, "wanted": wanted}).scalars())


def _unnest(columns: dict[str, Any]) -> Any:
    wide = {name: BigInteger() if isinstance(kind, Integer) else kind for name, kind in columns.items()}
    arrays = [bindparam(f"_{name}", type_=ARRAY(kind)) for name, kind in wide.items()]
    source = func.unnest(*arrays).table_valued(*[column(name, kind) for name, kind in wide.items()], name="given")
    return source.render_derived()


def _arrays(rows: Sequence[Row], columns: Sequence[str]) -> dict[str, list[Any]]:
    return {f"_{name}": [row[name] for row in rows] for name in columns}


_COPY_START: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END: Final = b"\xff\xff"


def _copy_rows(columns: Sequence[NDArray[Any]]) -> bytes:
    """Write rows of 8 byte columns: for each a count of columns, then a length and big-endian bytes for each value."""
    kinds: list[tuple[str, str]] = [("columns", ">i2")]
    for number, values in enumerate(columns):
        kinds += [(f"length{number}", ">i4"), (f"value{number}", ">f8" if values.dtype.kind == "f" else ">i8")]
    rows = np.empty(len(columns[0]), dtype=kinds)
    rows["columns"] = len(columns)
    for number, values in enumerate(columns):
        rows[f"length{number}"] = 8
        rows[f"value{number}"] = values
    return rows.tobytes()


def prepare(engine: Engine) -> None:
    """Translate the engine's errors, and leave dead connections alone."""
    event.listen(engine, "handle_error", _on_error)
    event.listen(engine, "checkout", _on_checkout)


def _on_checkout(dbapi: psycopg.Connection[Any], _record: Any, _proxy: Any) -> None:
    # An idle connection has nothing to read, unless the server ended it: no need to ask the server.
    poller = select_module.poll()
    poller.register(dbapi.fileno(), select_module.POLLIN)
    if poller.poll(0):
        raise InvalidatePoolError("the server ended the connection")


def _on_error(context: ExceptionContext) -> Exception | None:
    error = context.original_exception
    if isinstance(error, psycopg.Error):
        translated = translate(error, lost=context.is_disconnect)
        if translated is not error:
            return translated
    return None


def translate(error: psycopg.Error, *, lost: bool = False) -> Exception:
    """Say what the error means for the platform; the error itself where it means a fault of ours."""
    for kinds, translated, advice in _MEANINGS:
        if isinstance(error, kinds):
            return translated(f"{advice} ({_first_line(error)})")
    if isinstance(error, psycopg.DataError) and "NUL" in str(error):
        return InvalidInput("PostgreSQL can not store texts that contain the NUL character")
    if lost or isinstance(error, psycopg.OperationalError):
        return StoreUnavailable(f"PostgreSQL can not be reached or ended the connection ({_first_line(error)})")
    return error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
