"""
winchester's own database: its tables, as its Alembic revisions made them, and what its DBInterface asks of them.

Values of traits are tagged with their type, of `KINDS`; a range of times is a pair of datetimes. All times are naive
UTC. Nothing of the platform is kept here: this reads, and if asked to writes, what winchester left.
"""

from __future__ import annotations

import calendar
import contextlib
import datetime as dt
import operator
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from eventproc.errors import ConfigError, Conflict, StoreUnavailable

KINDS = {0: None, 1: "string", 2: "int", 3: "float", 4: "datetime", 5: "timerange"}
ACTIVE = 1
CODES = {name: code for code, name in KINDS.items() if name is not None}
_MICROS = 1_000_000

# What URLs without a driver mean; PyMySQL is for those to install who move in from MySQL.
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}

Tagged = tuple[str, Any]  # a kind and a value of it


class PreciseTime(sa.types.TypeDecorator[dt.datetime]):
    """A naive datetime to the microsecond: DECIMAL(20,6) seconds on MySQL, as winchester stores it."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DECIMAL(precision=20, scale=6, asdecimal=True))
        return dialect.type_descriptor(sa.DateTime())

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        if value is None or dialect.name not in ("mysql", "mariadb"):
            return value
        return Decimal(calendar.timegm(value.utctimetuple())) + Decimal(value.microsecond) / _MICROS

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        if value is None or dialect.name not in ("mysql", "mariadb"):
            return value
        return dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=int(value * _MICROS))  # noqa: DTZ001 - all are naive


METADATA = sa.MetaData()
_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _values(prefix: str) -> list[sa.Column[Any]]:
    return [
        sa.Column(f"{prefix}_string", sa.String(255)),
        sa.Column(f"{prefix}_float", sa.Float(53)),
        sa.Column(f"{prefix}_int", _KEY),
        sa.Column(f"{prefix}_datetime", PreciseTime()),
    ]


EVENT_TYPE = sa.Table(
    "event_type",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("desc", sa.String(255), unique=True),
)
EVENT = sa.Table(
    "event",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("message_id", sa.String(50), unique=True),
    sa.Column("generated", PreciseTime(), index=True),
    sa.Column("event_type_id", sa.Integer, sa.ForeignKey("event_type.id"), index=True),
)
TRAIT = sa.Table(
    "trait",
    METADATA,
    sa.Column("event_id", sa.Integer, sa.ForeignKey("event.id"), primary_key=True),
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("type", sa.Integer),
    *_values("t"),
)
STREAM = sa.Table(
    "stream",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("first_event", PreciseTime(), nullable=False),
    sa.Column("last_event", PreciseTime(), nullable=False),
    sa.Column("expire_timestamp", PreciseTime(), index=True),
    sa.Column("fire_timestamp", PreciseTime(), index=True),
    sa.Column("name", sa.String(255), nullable=False, index=True),
    sa.Column("state", sa.Integer, nullable=False, default=ACTIVE, index=True),
    sa.Column("state_serial_no", sa.Integer, nullable=False, default=0),
)
STREAM_EVENT = sa.Table(
    "streamevent",
    METADATA,
    sa.Column("stream_id", sa.Integer, sa.ForeignKey("stream.id"), primary_key=True),
    sa.Column("event_id", sa.Integer, sa.ForeignKey("event.id"), primary_key=True),
)
DIST_TRAIT = sa.Table(
    "dist_trait",
    METADATA,
    sa.Column("stream_id", sa.Integer, sa.ForeignKey("stream.id"), primary_key=True),
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("type", sa.Integer),
    *_values("dt"),
    sa.Column("dt_timerange_begin", PreciseTime()),
    sa.Column("dt_timerange_end", PreciseTime()),
)
_engines: dict[str, sa.Engine] = {}


class RawEngine:
    """SQLAlchemy's engine, with the `execute` of a statement in the driver's own style that it had before 2.0."""

    def __init__(self, engine: sa.Engine) -> None:
        self.wrapped = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Execute and commit one statement; datetimes are given as texts, as no driver of SQLite takes them."""
        said = tuple(
            value.isoformat(" ", "microseconds") if isinstance(value, dt.datetime) else value for value in parameters
        )
        with self.wrapped.begin() as connection:
            connection.exec_driver_sql(statement, said)


class WinchesterDatabase:
    """One database of winchester's. Calls take a session of `in_session`; engines are shared by URL."""

    def __init__(self, url: str, *, echo: bool = False) -> None:
        self._url = url
        self._echo = echo

    @property
    def engine(self) -> RawEngine:
        """The engine. Raises StoreUnavailable for a URL that SQLAlchemy does not know, or whose driver is missing."""
        if self._url not in _engines:
            try:
                _engines[self._url] = sa.create_engine(self._url, echo=self._echo)
            except (SQLAlchemyError, ImportError) as error:
                raise StoreUnavailable(f"winchester's database can not be opened: {error}") from error
        return RawEngine(_engines[self._url])

    def close(self) -> None:
        """Close the connections; a database in memory is gone then."""
        engine = _engines.pop(self._url, None)
        if engine is not None:
            engine.dispose()

    @contextlib.contextmanager
    def in_session(self) -> Iterator[Session]:
        """One transaction. Raises Conflict for what is to be unique, StoreUnavailable when the database is away."""
        try:
            with Session(self.engine.wrapped) as session, session.begin():
                yield session
        except IntegrityError as error:
            raise Conflict("Duplicate unique value detected!") from error
        except (OperationalError, DBAPIError) as error:
            raise StoreUnavailable(f"winchester's database: {error.orig}") from error

    # ------------------------------------------------------------------ events

    def event_type(self, session: Session, name: str, *, make: bool) -> int | None:
        """Return the id of an event type; make it where it is not there."""
        found = session.scalar(sa.select(EVENT_TYPE.c.id).where(EVENT_TYPE.c.desc == name))
        if found is None and make:
            (found,) = session.execute(sa.insert(EVENT_TYPE).values(desc=name)).inserted_primary_key  # type: ignore[attr-defined]
        return found

    def add_event(
        self, session: Session, message_id: str, event_type: str, generated: dt.datetime, traits: Mapping[str, Tagged]
    ) -> None:
        kind = self.event_type(session, event_type, make=True)
        row = {"message_id": message_id, "generated": generated, "event_type_id": kind}
        (event,) = session.execute(sa.insert(EVENT).values(row)).inserted_primary_key  # type: ignore[attr-defined]
        for name, tagged in traits.items():
            session.execute(sa.insert(TRAIT).values(event_id=event, name=name, **_columns("t", tagged)))

    def events(
        self,
        session: Session,
        *,
        message_id: str | None = None,
        stream: int | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        event_type: str | None = None,
        traits: Mapping[str, Tagged] | None = None,
        after: int | None = None,
        oldest_first: bool = False,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return events by their ids, the newest first; those of one stream by their times."""
        found = sa.select(EVENT.c.id, EVENT.c.message_id, EVENT_TYPE.c.desc, EVENT.c.generated).join(EVENT_TYPE)
        if stream is None:
            found = _paged(found, EVENT, after, oldest_first=oldest_first)
        else:
            found = found.join(STREAM_EVENT).where(STREAM_EVENT.c.stream_id == stream)
            found = found.order_by(EVENT.c.generated, EVENT.c.id)
        for column, wanted in ((EVENT.c.message_id, message_id), (EVENT_TYPE.c.desc, event_type)):
            if wanted is not None:
                found = found.where(column == wanted)
        if since is not None:
            found = found.where(EVENT.c.generated > since)
        if until is not None:
            found = found.where(EVENT.c.generated <= until)
        for name, tagged in (traits or {}).items():
            found = found.where(_has(TRAIT, "t", TRAIT.c.event_id == EVENT.c.id, name, tagged))
        rows = session.execute(found.limit(limit)).all()
        of = _traits_of(session, TRAIT, "t", TRAIT.c.event_id, [row.id for row in rows])
        return [
            {
                "id": row.id,
                "message_id": row.message_id,
                "event_type": row.desc,
                "timestamp": row.generated,
                "traits": of.get(row.id, {}),
            }
            for row in rows
        ]

    def purge_events(self, session: Session, ids: Sequence[int]) -> None:
        """Delete events with their traits, and take them out of their streams."""
        session.execute(sa.delete(STREAM_EVENT).where(STREAM_EVENT.c.event_id.in_(ids)))
        session.execute(sa.delete(TRAIT).where(TRAIT.c.event_id.in_(ids)))
        session.execute(sa.delete(EVENT).where(EVENT.c.id.in_(ids)))

    def older_events(self, session: Session, before: dt.datetime, limit: int) -> list[int]:
        """Return the ids of the oldest events before a time."""
        found = sa.select(EVENT.c.id).where(EVENT.c.generated < before).order_by(EVENT.c.generated).limit(limit)
        return list(session.scalars(found))

    # ------------------------------------------------------------------ streams

    def streams(
        self,
        session: Session,
        *,
        stream: int | None = None,
        name: str | None = None,
        states: Sequence[int] | None = None,
        older_than: dt.datetime | None = None,
        younger_than: dt.datetime | None = None,
        fires_before: dt.datetime | None = None,
        expires_before: dt.datetime | None = None,
        expires_after: dt.datetime | None = None,
        traits: Mapping[str, Tagged] | None = None,
        after: int | None = None,
        oldest_first: bool = False,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return streams by their ids, the newest first."""
        column = STREAM.c
        conditions: tuple[tuple[Any, Any, Any], ...] = (
            (column.id, operator.eq, stream),
            (column.name, operator.eq, name),
            (column.state, sa.Column.in_, states),
            (column.first_event, operator.lt, older_than),
            (column.last_event, operator.gt, younger_than),
            (column.fire_timestamp, operator.lt, fires_before),
            (column.expire_timestamp, operator.lt, expires_before),
            (column.expire_timestamp, operator.gt, expires_after),
        )
        found = _paged(sa.select(STREAM), STREAM, after, oldest_first=oldest_first)
        found = found.where(*(compare(each, given) for each, compare, given in conditions if given is not None))
        for trait, tagged in (traits or {}).items():
            found = found.where(_has(DIST_TRAIT, "dt", DIST_TRAIT.c.stream_id == column.id, trait, tagged))
        rows = session.execute(found.limit(limit)).all()
        of = _traits_of(session, DIST_TRAIT, "dt", DIST_TRAIT.c.stream_id, [row.id for row in rows])
        return [{**row._mapping, "traits": of.get(row.id, {})} for row in rows]  # noqa: SLF001 - SQLAlchemy's public name

    def add_stream(self, session: Session, values: Mapping[str, Any], traits: Mapping[str, Tagged]) -> int:
        (stream,) = session.execute(sa.insert(STREAM).values(**values)).inserted_primary_key  # type: ignore[attr-defined]
        for name, tagged in traits.items():
            session.execute(sa.insert(DIST_TRAIT).values(stream_id=stream, name=name, **_columns("dt", tagged)))
        return int(stream)

    def change_stream(self, session: Session, stream: int, values: Mapping[str, Any], *, serial: int | None) -> bool:
        """Change a stream that has this serial number (any, for None); tell whether there was one."""
        found = sa.update(STREAM).where(STREAM.c.id == stream)
        if serial is not None:
            found = found.where(STREAM.c.state_serial_no == serial)
        return bool(session.execute(found.values(**values)).rowcount)  # type: ignore[attr-defined]

    def link(self, session: Session, stream: int, message_id: str) -> bool:
        """Put an event into a stream; tell whether there is such an event."""
        event = session.scalar(sa.select(EVENT.c.id).where(EVENT.c.message_id == message_id))
        if event is not None:
            session.execute(sa.insert(STREAM_EVENT).values(stream_id=stream, event_id=event))
        return event is not None

    def purge_stream(self, session: Session, stream: int) -> None:
        """Delete a stream; its events stay."""
        for table in (STREAM_EVENT, DIST_TRAIT):
            session.execute(sa.delete(table).where(table.c.stream_id == stream))
        session.execute(sa.delete(STREAM).where(STREAM.c.id == stream))


def existing_database(url: str) -> WinchesterDatabase:
    """
    Return the database of a URL, or of the path of an SQLite file. Raises ConfigError.

    A file that is not there is not made.
    """
    try:
        parsed = sa.make_url(url if "://" in url else f"sqlite:///{Path(url).absolute()}")
    except ArgumentError as error:
        raise ConfigError(f"{url!r} is no URL of a database such as sqlite:////var/lib/winchester.db") from error
    parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
    if parsed.get_backend_name() == "sqlite" and not (parsed.database and Path(parsed.database).is_file()):
        raise ConfigError(f"there is no database {parsed.database or 'in memory'}: sqlite:////DIRECTORY/FILE names one")
    return WinchesterDatabase(parsed.render_as_string(hide_password=False))


def _paged(found: Any, table: sa.Table, after: int | None, *, oldest_first: bool) -> Any:
    if after is not None:
        found = found.where(table.c.id > after if oldest_first else table.c.id < after)
    return found.order_by(table.c.id.asc() if oldest_first else table.c.id.desc())


def _columns(prefix: str, tagged: Tagged) -> dict[str, Any]:
    kind, value = tagged
    code = {"type": CODES[kind]}
    if kind == "timerange":
        begin, end = value
        return {**code, f"{prefix}_timerange_begin": begin, f"{prefix}_timerange_end": end}
    return {**code, f"{prefix}_{kind}": value}


def _has(table: sa.Table, prefix: str, joined: Any, name: str, tagged: Tagged) -> Any:
    same = [table.c[column] == value for column, value in _columns(prefix, tagged).items()]
    return sa.exists().where(joined, table.c.name == name, *same)


def _traits_of(
    session: Session, table: sa.Table, prefix: str, key: sa.Column[Any], ids: Sequence[int]
) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for at in range(0, len(ids), 500):
        for row in session.execute(sa.select(table).where(key.in_(ids[at : at + 500]))).mappings():
            kind = KINDS.get(row["type"])
            if kind == "timerange":
                value: Any = (row[f"{prefix}_timerange_begin"], row[f"{prefix}_timerange_end"])
            else:
                value = None if kind is None else row[f"{prefix}_{kind}"]
            found.setdefault(row[key.name], {})[row["name"]] = value
    return found


__all__ = ["KINDS", "METADATA", "RawEngine", "Tagged", "WinchesterDatabase", "existing_database"]
