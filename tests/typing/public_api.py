"""The public API as a type checker sees it from outside. Nothing here is run: mypy --strict reads it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, assert_type

from eventproc import Connection, Db, Handler, Series, deregister, emit, ep, hooks, list_handlers, register

conn = Connection("localhost:8080", "key", timeout=5, ca="/etc/ca.pem")


@register(
    conn=conn, name="one", hook="a.b", notify_on_success="a@example.com", tags=["x"], timeout=90, isolation="batch"
)
def one(db: Any, value: int, **payload: Any) -> str:
    """Return what was measured."""
    ep.log.info("%s", ep.event.message_id)
    assert_type(ep.event.timestamp, dt.datetime)
    assert_type(ep.emit("c.d", {"value": value}), str)
    assert_type(ep.upload_file("plot.png", "plot.png"), str)

    @ep.on_commit
    def tell() -> None: ...

    assert_type(tell, Callable[[], None])
    return str(value)


@register(hook="a.b", retries={"max": 3}, throttle=dt.timedelta(hours=1), memory="512MiB", filter={"value": [1]})
class Two:
    """A class handler."""

    def handle_events(self, events: list[dict[str, Any]], env: dict[str, Any]) -> list[dict[str, Any]]:
        """Hand the events on."""
        return events


@register(hook="a.b")
def three(db: Db, uuid: str) -> int:
    """Count what is there, with a typed `db`."""
    series = db.stream_from_uuid(uuid)
    assert_type(series, Series)
    assert_type(series.count(), int)
    assert_type(db.events("a.b", limit=1), list[dict[str, Any]])
    db.vaules(series)  # type: ignore[attr-defined]
    return series.count(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))


# A decorated function keeps its type.
assert_type(one(None, 3), str)
assert_type(Two().handle_events([], {}), list[dict[str, Any]])

assert_type(hooks(conn), list[str])
assert_type(list_handlers(conn, hook="a.b"), list[Handler])
assert_type(deregister(conn, 3), bool)
assert_type(conn.register(one, hook="a.b", tags=["y"]), Handler)
assert_type(conn.register(Two), Handler)
assert_type(emit("a.b", {"x": 1}, conn=conn), dict[str, Any])
assert_type(conn.emit("a.b", {"x": 1}, time=dt.datetime.now(dt.UTC)), dict[str, Any])
assert_type(conn.emit_many([("a.b", {"x": 1})]), list[dict[str, Any]])

handler = list_handlers(conn)[0]
assert_type(handler.created_at, dt.datetime)
assert_type(handler.tags, list[str])
assert_type(handler.notify_on_failure, str | None)

# What must be refused; mypy complains when it is not (warn_unused_ignores).
register(hook="a.b", timeot=3)  # type: ignore[call-arg]
register(hook="a.b", isolation="thread")  # type: ignore[arg-type]
register(hook=3)  # type: ignore[arg-type]
conn.emit("a.b", [1])  # type: ignore[arg-type]
