"""What winchester.db's interfaces have in common: which one a configuration means, streams, errors."""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from eventproc.client import Connection
from eventproc.compat.winchester.modules.config import ConfigItem
from eventproc.compat.winchester.modules.models import DBException, StreamState

LIMIT = 200  # items of a page, as in quincy


class DuplicateError(DBException):
    """There is an event of that message_id."""


class LockError(DBException):
    """Somebody else has changed the stream's state, or a pipeline works on it."""


class NoSuchEventError(DBException):
    """There is no event of that message_id."""


class NoSuchStreamError(DBException):
    """There is no stream of that id."""


class DatabaseConnectionError(DBException):
    """The database can not be used right now."""


@dataclass(slots=True)
class Stream:
    """A stream as it was when it was asked for; times are naive UTC."""

    id: int
    name: str
    state: StreamState
    state_serial_no: int
    first_event: dt.datetime
    last_event: dt.datetime
    fire_timestamp: dt.datetime | None
    expire_timestamp: dt.datetime | None
    distinguished_by_dict: Mapping[str, Any] = field(default_factory=dict)

    @property
    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "id": self.id,
            "state": self.state.name,
            "first_event": self.first_event,
            "last_event": self.last_event,
            "fire_timestamp": self.fire_timestamp,
            "expire_timestamp": self.expire_timestamp,
            "distinguishing_traits": dict(self.distinguished_by_dict),
        }


class DBInterface:
    """
    winchester's questions about events and streams.

    `config["url"]` says who is asked: a database URL names winchester's own tables (SQLite, MySQL, PostgreSQL), such
    as those of an installation that is being moved; `http://HOST:PORT` is a running platform. Without a URL, and with
    `connection`, it is the platform that the connection, else the environment, names.
    """

    def __new__(cls, config: Mapping[str, Any] | None = None, *, connection: Connection | None = None) -> Self:
        chosen: Any = cls
        if cls is DBInterface:
            url = str((config or {}).get("url") or "")
            platform = connection is not None or not url or url.startswith(("http://", "https://"))
            home, name = ("platform_db", "PlatformInterface") if platform else ("own_db", "OwnInterface")
            # Here, so that who asks a platform needs no SQLAlchemy; and both derive from this class.
            chosen = getattr(importlib.import_module(f"{__package__}.{home}"), name)
        made: Self = object.__new__(chosen)
        return made

    @classmethod
    def config_description(cls) -> dict[str, ConfigItem]:
        return {"url": ConfigItem(required=True, help="Connection URL for database.")}

    def __init__(self, config: Mapping[str, Any] | None = None, *, connection: Connection | None = None) -> None:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        # Which of the two it is stands in no annotation.
        raise AttributeError(f"DBInterface has no {name!r}")


def read_mark(mark: str | None) -> tuple[int | None, bool]:
    """Return the id that a page begins behind, and whether it goes upwards. Raises DBException."""
    if not mark:
        return None, False
    upwards, number = mark.startswith("+"), mark.lstrip("+-")
    try:
        return int(number, 16) if number else None, upwards
    except ValueError as error:
        raise DBException(f"mark {mark!r}: take the _mark of the last item that was shown") from error


def write_mark(number: int, *, upwards: bool) -> str:
    return f"{'+' if upwards else ''}{number:x}"
