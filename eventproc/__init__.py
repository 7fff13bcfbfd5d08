"""
eventproc runs people's own Python when something happens, safely, and tells them how it went.

    from eventproc import Connection, register

    conn = Connection("localhost:8080", "API-KEY")

    @register(conn=conn, name="report", hook="ctingress.on_complete", notify_on_failure="me@example.com")
    def report(db, DataSets, **kwargs):
        return f"{len(DataSets)} records"

Importing this package is light: everything is loaded when it is first used.
"""

from __future__ import annotations

import datetime as _dt  # noqa: ICN001 - `dt` is not a name of this package
from collections.abc import Mapping as _Mapping
from collections.abc import Sequence as _Sequence
from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventproc import errors
    from eventproc.client import (
        Connection,
        Db,
        Ep,
        Handler,
        HandlerSizeWarning,
        HandlerWarning,
        Series,
        deregister,
        ep,
        hooks,
        list_handlers,
        register,
        register_detector,
        register_pipeline,
    )
    from eventproc.errors import EventprocError

__version__ = "0.1.0"

_HOMES = {
    "Connection": "eventproc.client",
    "Db": "eventproc.client",
    "Ep": "eventproc.client",
    "EventprocError": "eventproc.errors",
    "Handler": "eventproc.client",
    "HandlerSizeWarning": "eventproc.client",
    "HandlerWarning": "eventproc.client",
    "Series": "eventproc.client",
    "deregister": "eventproc.client",
    "ep": "eventproc.client",
    "hooks": "eventproc.client",
    "list_handlers": "eventproc.client",
    "register": "eventproc.client",
    "register_detector": "eventproc.client",
    "register_pipeline": "eventproc.client",
}

__all__ = [
    "Connection",
    "Db",
    "Ep",
    "EventprocError",
    "Handler",
    "HandlerSizeWarning",
    "HandlerWarning",
    "Series",
    "__version__",
    "deregister",
    "emit",
    "ep",
    "errors",
    "hooks",
    "list_handlers",
    "register",
    "register_detector",
    "register_pipeline",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return _import_module("eventproc.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'eventproc' has no attribute {name!r}")
    value = getattr(_import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def emit(
    hook: str,
    payload: _Mapping[str, Any],
    *,
    conn: Connection | None = None,
    session: Any = None,
    id: str | None = None,
    tags: _Sequence[str] = (),
    key: str | None = None,
    time: _dt.datetime | str | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    """
    Report an event; return its id, seq, whether it was accepted before, and the ids of its runs.

    With `session`, a SQLAlchemy session or connection on the platform's own database, the event is written in the
    caller's transaction: it happens when that commits, and never when it rolls back (needs the platform's settings,
    not an API key). Otherwise it goes over `conn`, or over a connection to what the environment says.
    """
    if session is None:
        from eventproc import client  # noqa: PLC0415 - importing eventproc stays light

        return client.emit(hook, payload, conn=conn, id=id, tags=tags, key=key, time=time, source=source)
    from eventproc import wiring  # noqa: PLC0415 - only programs beside the platform's database need all of it
    from eventproc.errors import InvalidInput  # noqa: PLC0415 - as above
    from eventproc.model import NewEvent, from_datetime  # noqa: PLC0415 - as above

    if conn is not None:
        raise InvalidInput("emit: give either conn or session, not both")
    try:
        moment = _dt.datetime.fromisoformat(time) if isinstance(time, str) else time
    except ValueError:
        raise InvalidInput(f"emit: {time!r:.60} is no ISO-8601 time, such as 2026-03-28T12:00:00Z") from None
    accepted = wiring.emit_in_session(
        session,
        NewEvent(
            hook=hook,
            payload=payload,
            id=id,
            source=source,
            time_us=None if moment is None else from_datetime(moment),
            tags=tuple(tags),
            key=key,
        ),
    )
    return {"id": accepted.id, "seq": accepted.seq, "duplicate": accepted.duplicate, "runs": list(accepted.runs)}
