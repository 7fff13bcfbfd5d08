"""What the aggregates' modules share: lists as one parameter, bulk statements, and the transaction they work in."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Boolean, ColumnElement, Connection, Table, Text, bindparam
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]


class IntList(TypeDecorator[list[int]]):
    """A list of integers as one parameter: JSON text on SQLite, an array on PostgreSQL."""

    impl = Text
    cache_ok = True
    item: type[TypeEngine[Any]] = BigInteger

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the array where there is one."""
        kind: TypeEngine[Any] = ARRAY(self.item()) if dialect.name == "postgresql" else Text()
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Encode the list."""
        items = list(value or ())
        return items if dialect.name == "postgresql" else json.dumps(items, ensure_ascii=False)


class TextList(IntList):
    """A list of texts as one parameter."""

    cache_ok = True
    item = Text


class _AnyOf(FunctionElement[bool]):
    """`column IN (list)` with one parameter, so that the statement's text never changes."""

    type = Boolean()
    inherit_cache = True
    name = "any_of"

    def self_group(self, against: Any = None) -> Any:
        """Stay as it is: SQLAlchemy would compare it with 1, and SQLite would not use the index then."""
        del against
        return self


@compiles(_AnyOf, "sqlite")
def _any_of_sqlite(element: _AnyOf, compiler: Any, **kw: Any) -> str:
    column, items = list(element.clauses)
    return f"({compiler.process(column, **kw)} IN (SELECT value FROM json_each({compiler.process(items, **kw)})))"  # noqa: S608 - compiled parts


@compiles(_AnyOf, "postgresql")
def _any_of_postgresql(element: _AnyOf, compiler: Any, **kw: Any) -> str:
    column, items = list(element.clauses)
    return f"({compiler.process(column, **kw)} = ANY ({compiler.process(items, **kw)}))"


def any_of(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Compare a column with the list given as parameter `name`."""
    kind = TextList() if isinstance(column.type, Text) else IntList()
    return _AnyOf(column, bindparam(name, type_=kind))


@dataclass(frozen=True, kw_only=True, eq=False)
class BulkUpdate:
    """An update of many rows by `id`; `values` builds the new values from a function that names a parameter."""

    table: Table
    params: Mapping[str, TypeEngine[Any]]  # without "id"
    values: Callable[[Callable[[str], ColumnElement[Any]]], Mapping[str, Any]]


class Bulk(ABC):
    """Statements over many rows, which each database does best in its own way."""

    name: str

    @abstractmethod
    def insert_new(self, conn: Connection, table: Table, rows: Sequence[Row], key: str) -> set[Any]:
        """
        Insert rows that were not there when the caller looked; return the `key` values of those inserted.

        Where another transaction may have been quicker, its row is left alone.
        """

    @abstractmethod
    def update(self, conn: Connection, update: BulkUpdate, rows: Sequence[Row]) -> None:
        """Update each row by its `id`."""

    @abstractmethod
    def load(self, conn: Connection, table: Table, columns: Mapping[str, NDArray[Any]]) -> None:
        """Insert rows that are given as columns of int64 and float64, as quickly as the database takes them."""

    @abstractmethod
    def serials(self, conn: Connection, table: Table, wanted: int) -> Sequence[int]:
        """Reserve ascending numbers for the table's own counter."""


class Caches:
    """
    What a store remembers of committed rows that never change, and the snapshot of handlers by revision.

    Filled after a commit only: what a transaction read of its own writes may be rolled back.
    """

    def __init__(self) -> None:
        self.lanes: dict[tuple[int, str, str, bool], int] = {}
        self.lane_by_id: dict[int, Any] = {}
        self.versions: dict[tuple[int, int], Any] = {}
        self.handlers: Any = None
        self.turn = 0  # the lane that the last claim began with
        self.turns: dict[int, str] = {}  # by lane: the order key that the last search by key came to
        self.pruned: dict[str, int] = {}  # by hook: the event up to which the present round of retention came


class Work:
    """A transaction in progress, as the aggregates' modules see it."""

    __slots__ = ("actions", "bulk", "caches", "conn", "new_events")

    def __init__(self, conn: Connection, bulk: Bulk, caches: Caches) -> None:
        self.conn = conn
        self.bulk = bulk
        self.caches = caches
        self.actions: list[Callable[[], None]] = []
        self.new_events: dict[int, str] = {}  # hooks of events that were stored here and have no runs yet, by seq


def run_actions(work: Work) -> None:
    """Do what waited for the commit; it has happened, so that a failing action may not look like a failed commit."""
    actions, work.actions = work.actions, []
    for action in actions:
        try:
            action()
        except Exception:  # the data is safe; a lost wake-up costs latency only
            logger.warning("an action after the commit failed", exc_info=True)


class Rows:
    """Base of the aggregates."""

    __slots__ = ("work",)

    def __init__(self, work: Work) -> None:
        self.work = work

    def _all(self, statement: Any, params: Mapping[str, Any] | None = None) -> Sequence[Any]:
        return self.work.conn.execute(statement, params).all()

    def _first(self, statement: Any, params: Mapping[str, Any] | None = None) -> Any:
        return self.work.conn.execute(statement, params).first()

    def _scalar(self, statement: Any, params: Mapping[str, Any] | None = None) -> Any:
        return self.work.conn.execute(statement, params).scalar()

    def _changed(self, statement: Any, params: Mapping[str, Any] | None = None) -> int:
        return self.work.conn.execute(statement, params).rowcount


def to_json(value: Any) -> str:
    """Write JSON as compactly as it goes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def from_json(text: str) -> Any:
    """Read what `to_json` wrote, several times as fast as the standard library."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:  # it knows no NaN and no infinity
        return json.loads(text)


def tuple_to_json(values: Iterable[str]) -> str:
    """Write a list of texts; the empty one is by far the most frequent."""
    items = list(values)
    return to_json(items) if items else "[]"


def tuple_from_json(text: str) -> tuple[str, ...]:
    """Read what `tuple_to_json` wrote."""
    return () if text == "[]" else tuple(json.loads(text))
