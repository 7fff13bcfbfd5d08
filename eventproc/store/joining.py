"""Joining a transaction of the caller's: events are written with the caller's own rows or not at all."""

from __future__ import annotations

import weakref
from typing import Any, Final

from sqlalchemy import Connection, Engine, bindparam, event, inspect, select, text
from sqlalchemy.orm import Session, scoped_session

from eventproc.errors import ConfigError
from eventproc.store.base import Work, run_actions
from eventproc.store.schema import meta

OTHER_DATABASE: Final = (
    "that session is on another database than the platform's: an event can only be part of a transaction on the"
    " platform's own database"
)

_STORE_ID = select(meta.c.value).where(meta.c.name == bindparam("name"))
# Begins the transaction for writing on SQLite: what is read before is not yet part of it.
_TAKE_WRITE_LOCK = text("UPDATE meta SET value = value WHERE name = ''")

_checked: weakref.WeakKeyDictionary[Engine, str] = weakref.WeakKeyDictionary()
_followed: weakref.WeakKeyDictionary[Any, list[Work]] = weakref.WeakKeyDictionary()


def connection_of(session: Any) -> tuple[Session | Connection, Connection]:
    """Return the session itself and its connection, in a transaction."""
    if isinstance(session, scoped_session):
        session = session()
    if isinstance(session, Connection):
        return session, session
    if isinstance(session, Session):
        return session, session.connection()
    raise ConfigError(f"session must be a SQLAlchemy Session or Connection, not {type(session).__name__}")


def check_same(conn: Connection, store_id: str | None) -> None:
    """Refuse a connection to another database. Raises ConfigError."""
    if _checked.get(conn.engine) != store_id:
        if not inspect(conn).has_table(meta.name):
            raise ConfigError(OTHER_DATABASE)
        if conn.execute(_STORE_ID, {"name": "store_id"}).scalar() != store_id:
            raise ConfigError(OTHER_DATABASE)
        if store_id is not None:
            _checked[conn.engine] = store_id
    if conn.dialect.name == "sqlite":
        conn.execute(_TAKE_WRITE_LOCK)


def follow(session: Session | Connection, work: Work) -> None:
    """Run the transaction's actions after the caller's commit, and forget them with its rollback."""
    works = _followed.get(session)
    if works is None:
        works = _followed[session] = []
        _listen(session)
    works.append(work)


def _listen(session: Session | Connection) -> None:
    if isinstance(session, Connection):
        event.listen(session, "commit", _committed)
        event.listen(session, "rollback", _rolled_back)
    else:
        event.listen(session, "after_commit", _session_committed)
        event.listen(session, "after_rollback", _session_rolled_back)


def _session_committed(session: Session) -> None:
    if not session.in_nested_transaction():  # the release of a savepoint commits nothing
        _committed(session)


def _session_rolled_back(session: Session) -> None:
    if not session.in_nested_transaction():
        _rolled_back(session)


def _committed(session: Session | Connection) -> None:
    works = _followed.get(session, [])
    done, works[:] = list(works), []
    for work in done:
        run_actions(work)


def _rolled_back(session: Session | Connection) -> None:
    works = _followed.get(session, [])
    for work in works:
        work.actions.clear()
    works.clear()
