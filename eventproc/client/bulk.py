"""Changes of many runs in as many requests as that takes: each has the client's whole time, and the count is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from eventproc.errors import EventprocError

SLICE: Final = 5000  # runs that one request looks at: a second's work, or some on a machine that has much else to do
KEPT: Final = 1000  # ids, and refusals, that an answer holds

Post = Callable[[dict[str, Any]], Mapping[str, Any]]


def change_many(post: Post, body: Mapping[str, Any]) -> dict[str, Any]:
    """
    Send the change with `post` until all are changed that `body` chooses; return what it came to, as one answer.

    What ends it on the way says how far it came, in its message and as `details["done"]`.
    """
    total: dict[str, Any] = {}
    answers = _by_ids(post, body, body["ids"]) if body.get("ids") else _by_filter(post, body)
    try:
        for answer in answers:
            _add(total, answer)
    except EventprocError as error:
        if total:
            counts = ", ".join(f"{name} {count}" for name, count in total.items() if isinstance(count, int))
            error.args = (f"{error.message}; before that: {counts}",)
            error.details["done"] = total
        raise
    return total


def _by_ids(post: Post, body: Mapping[str, Any], ids: list[int]) -> Iterator[Mapping[str, Any]]:
    unique = list(dict.fromkeys(ids))
    for start in range(0, len(unique), SLICE):
        yield post({**body, "ids": unique[start : start + SLICE]})


def _by_filter(post: Post, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "ids" in body:  # none: the server says what it thinks of that
        yield post(dict(body))
        return
    answer = post({**body, "limit": SLICE})
    yield answer
    while answer.get("next"):
        answer = post({**body, "limit": SLICE, "after": answer["next"]})
        yield answer


def _add(total: dict[str, Any], answer: Mapping[str, Any]) -> None:
    for name, value in answer.items():
        if isinstance(value, list):
            total[name] = (total.get(name, []) + value)[:KEPT]
        elif name != "next":
            total[name] = total.get(name, 0) + value
