"""
The statements that find runs to claim in a lane.

A lane without order keys is read from its start. With order keys only the first open run of each key may start, and a
long backlog of few keys could stand before all others: so only the start of the lane is searched in the order of due
times, and what lies behind it key by key, taking up where the last search ended.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import bindparam, text

from eventproc.store.base import IntList, TextList
from eventproc.store.schema import LEASED, OPEN, WAITING

WINDOW_BASE: Final = 50
WINDOW_FACTOR: Final = 4
LIMITED_WINDOW: Final = 10_000  # the same for limits by key, where there is no other way

_COLUMNS = (
    "r.id, r.event_seq, r.handler_id, r.version, r.token, r.attempt, r.interruptions, r.serial, r.callbacks_only,"
    " r.order_key, r.limit_key, r.rate_key"
)
_WAITS = f"r.lane_id = :lane_id AND r.{WAITING} AND r.due_us <= :now_us"
# None of the same key runs: a requeued run may be older than those that were started since.
_KEY_IS_IDLE = (
    "NOT EXISTS (SELECT 1 FROM runs q WHERE q.handler_id = r.handler_id AND q.order_key = r.order_key"  # noqa: S608
    f" AND q.order_key IS NOT NULL AND q.{LEASED})"
)
_IS_FIRST = (
    "NOT EXISTS (SELECT 1 FROM runs p WHERE p.handler_id = r.handler_id AND p.order_key = r.order_key"  # noqa: S608
    f" AND p.order_key IS NOT NULL AND p.{OPEN} AND p.id < r.id)"
)
_HEAD = (
    "SELECT w.id FROM runs w WHERE w.lane_id = :lane_id"  # noqa: S608 - constants
    f" AND w.{WAITING} AND w.due_us <= :now_us ORDER BY w.due_us, w.id LIMIT :window"
)
# The head must drive the search, as the keys must below: planners would rather walk through the lane. SQLite keeps to
# the order of a cross join; PostgreSQL takes an array for constant, and finds no other index in an expression.
_FROM_HEAD = {
    "sqlite": (f"FROM ({_HEAD}) AS head CROSS JOIN runs r", "r.id = head.id"),
    "postgresql": ("FROM runs r", f"r.id = ANY (ARRAY({_HEAD}))"),
}
_STILL_WAITS = f"coalesce(r.state, '') {WAITING.removeprefix('state ')} AND r.due_us + 0 <= :now_us"
# From key to key through the index, then the first open run of each.
_KEYS_JOIN = {"sqlite": "CROSS JOIN", "postgresql": "JOIN"}
_BY_KEY = (
    "WITH RECURSIVE keys(k) AS (SELECT min(order_key) FROM runs WHERE handler_id = :handler_id"  # noqa: S608
    f" AND order_key IS NOT NULL AND {OPEN} AND order_key > :from_key"
    " UNION ALL SELECT (SELECT min(order_key) FROM runs WHERE handler_id = :handler_id AND order_key IS NOT NULL"
    f" AND {OPEN} AND order_key > keys.k) FROM keys WHERE keys.k IS NOT NULL)"
    f" SELECT {_COLUMNS} FROM keys {{join}} runs r ON r.id = (SELECT min(id) FROM runs WHERE handler_id = :handler_id"
    f" AND order_key = keys.k AND order_key IS NOT NULL AND {OPEN})"
)
_LOCK = {"sqlite": "", "postgresql": " FOR UPDATE OF r SKIP LOCKED"}
_NOT_IN = {
    "sqlite": "coalesce(r.{column}, '') NOT IN (SELECT value FROM json_each(:{name}))",
    "postgresql": "coalesce(r.{column}, '') <> ALL (:{name})",
}
_OF_VERSIONS = {
    "sqlite": "r.version IN (SELECT value FROM json_each(:versions))",
    "postgresql": "r.version = ANY (:versions)",
}


def _statement(dialect: str, *, way: str, keyed: bool, versions: bool) -> Any:
    order = " ORDER BY r.due_us, r.id"
    if way == "by key":
        start, terms, order = _BY_KEY.format(join=_KEYS_JOIN[dialect]), [_WAITS], ""
    elif way == "window" or keyed:
        source, joined = _FROM_HEAD[dialect]
        start, terms = f"SELECT {_COLUMNS} {source}", [joined, _STILL_WAITS]
    else:
        start, terms = f"SELECT {_COLUMNS} FROM runs r", [_WAITS]  # noqa: S608 - constants
    if way != "plain":
        terms += [_KEY_IS_IDLE, _IS_FIRST]
    params = []
    if keyed:
        for column, name in (("limit_key", "no_limits"), ("rate_key", "no_rates")):
            terms.append(_NOT_IN[dialect].format(column=column, name=name))
            params.append(bindparam(name, type_=TextList()))
    if versions:
        terms.append(_OF_VERSIONS[dialect])
        params.append(bindparam("versions", type_=IntList()))
    whole = f"{start} WHERE {' AND '.join(terms)}{order} LIMIT :wanted{_LOCK[dialect]}"
    return text(whole).bindparams(*params)


STATEMENTS: Final = {
    (dialect, way, keyed, versions): _statement(dialect, way=way, keyed=keyed, versions=versions)
    for dialect in ("sqlite", "postgresql")
    for way in ("plain", "window", "by key")
    for keyed in (False, True)
    for versions in (False, True)
}


def window(wanted: int) -> int:
    """Return how many runs at the start of an ordered lane are searched in the order of due times."""
    return WINDOW_FACTOR * wanted + WINDOW_BASE


def _taking(dialect: str, *, versions: bool) -> Any:
    """Return the statement that finds and leases at once, where nothing has to be looked at in between."""
    of_versions = f" AND {_OF_VERSIONS[dialect]}" if versions else ""
    found = (
        f"SELECT r.id AS due_id FROM runs r WHERE {_WAITS}{of_versions}"  # noqa: S608 - constants
        f" ORDER BY r.due_us, r.id LIMIT :wanted{_LOCK[dialect]}"
    )
    update = (
        "UPDATE runs SET state = 'running', lease_until_us = :lease_until_us, worker = :worker, token = token + 1,"
        " attempt = attempt + 1, started_us = :now_us, finished_us = NULL"
    )
    # Token and attempt as they were before, like those of the statements above.
    returned = (
        "RETURNING id, event_seq, handler_id, version, token - 1 AS token, attempt - 1 AS attempt, interruptions,"
        " serial, callbacks_only, order_key, due_us"
    )
    whole = {
        "sqlite": f"{update} WHERE id IN ({found}) {returned}",
        # Left in its place the search might be repeated for each row, and find others each time.
        "postgresql": f"WITH due AS MATERIALIZED ({found}) {update} FROM due WHERE id = due_id {returned}",
    }[dialect]
    return text(whole).bindparams(*([bindparam("versions", type_=IntList())] if versions else []))


TAKING: Final = {
    (dialect, versions): _taking(dialect, versions=versions)
    for dialect in ("sqlite", "postgresql")
    for versions in (False, True)
}

COUNT_HEAD: Final = text(
    f"SELECT count(*) FROM (SELECT 1 FROM runs r WHERE {_WAITS} LIMIT :window) AS head"  # noqa: S608 - constants
)
