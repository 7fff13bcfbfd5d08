"""The public calls of a handler's author, over HTTP. Importing this loads no HTTP client and no dill."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from eventproc.client.ambient import Db, Ep, Series, ep
from eventproc.client.connection import Connection
from eventproc.client.detectors import register_detector
from eventproc.client.handlers import Handler, HandlerOptions, register
from eventproc.client.pipelines import register_pipeline
from eventproc.codec.bundle import HandlerSizeWarning, HandlerWarning


def hooks(conn: Connection) -> list[str]:
    """List the names of the hooks that handlers can be registered for."""
    return conn.hooks()


def list_handlers(conn: Connection, hook: str = "") -> list[Handler]:
    """List the registered handlers, of one hook or of all."""
    return conn.list_handlers(hook)


def deregister(conn: Connection, handler_id: int) -> bool:
    """Remove a handler by its id; its waiting runs are cancelled. Raises UnknownHandler."""
    return conn.deregister(handler_id)


def emit(
    hook: str,
    payload: Mapping[str, Any],
    *,
    conn: Connection | None = None,
    id: str | None = None,
    tags: Sequence[str] = (),
    key: str | None = None,
    time: dt.datetime | str | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    """Report an event over `conn`, or over a connection to what the environment says."""
    if conn is not None:
        return conn.emit(hook, payload, id=id, tags=tags, key=key, time=time, source=source)
    with Connection() as own:
        return own.emit(hook, payload, id=id, tags=tags, key=key, time=time, source=source)


__all__ = [
    "Connection",
    "Db",
    "Ep",
    "Handler",
    "HandlerOptions",
    "HandlerSizeWarning",
    "HandlerWarning",
    "Series",
    "deregister",
    "emit",
    "ep",
    "hooks",
    "list_handlers",
    "register",
    "register_detector",
    "register_pipeline",
]
