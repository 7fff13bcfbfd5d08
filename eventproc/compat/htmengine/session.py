"""The connection that all of htmengine's names share, made when it is first needed."""

from __future__ import annotations

import threading

from eventproc.client import Connection

_lock = threading.Lock()
_shared: list[Connection] = []


def connection() -> Connection:
    """Return this process's connection; the environment is read when it is made."""
    with _lock:
        if not _shared:
            _shared.append(Connection())
        return _shared[0]


def disconnect() -> None:
    """Forget the connection: the next call reads the environment anew."""
    with _lock:
        while _shared:
            _shared.pop().close()
