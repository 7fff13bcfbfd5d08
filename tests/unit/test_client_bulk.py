"""Changes of many things that take several requests."""

from __future__ import annotations

import pytest

from eventproc.client import bulk
from eventproc.errors import Unavailable


def answer(ids, next_=None, refused=()):
    return {"cancelled": len(ids), "asked": 1, "ids": ids, "refused": list(refused), "next": next_}


def test_the_count_is_of_all_requests_and_lists_stay_short(monkeypatch):
    monkeypatch.setattr(bulk, "KEPT", 3)
    pages = {None: answer([9, 8], "8"), "8": answer([7, 6], "6", [{"id": 5}]), "6": answer([])}
    sent = []

    def post(body):
        sent.append(body)
        return pages[body.get("after")]

    done = bulk.change_many(post, {"hook": "x", "all": False})
    assert done == {"cancelled": 4, "asked": 3, "ids": [9, 8, 7], "refused": [{"id": 5}]}
    assert sent[1] == {"hook": "x", "all": False, "limit": bulk.SLICE, "after": "8"}


def test_what_ends_it_says_how_far_it_came():
    def post(body):
        if "after" in body:
            raise Unavailable("the database is away", retry=True)
        return answer([9, 8], "8")

    with pytest.raises(Unavailable, match="the database is away; before that: cancelled 2, asked 1") as caught:
        bulk.change_many(post, {"all": True})
    assert caught.value.details == {"retry": True, "done": {k: v for k, v in answer([9, 8]).items() if k != "next"}}


def test_what_fails_at_once_is_left_as_it_is():
    def post(body):
        raise Unavailable("away")

    with pytest.raises(Unavailable, match=r"^away$"):
        bulk.change_many(post, {"ids": [1]})
