"""The revision of hooks, handlers and users, by which caches know that they are out of date."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from eventproc.store.schema import counters

_READ = select(counters.c.value).where(counters.c.name == "revision")
_BUMP = update(counters).where(counters.c.name == "revision").values(value=counters.c.value + 1)


def revision(conn: Connection) -> int:
    return int(conn.execute(_READ).scalar() or 0)


def bump(conn: Connection) -> None:
    """
    Raise the revision.

    Always the first write of a change: it makes concurrent changes wait here, before they hold anything else.
    """
    conn.execute(_BUMP)
