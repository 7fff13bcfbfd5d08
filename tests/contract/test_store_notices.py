"""Contract of the store: notices are written once and sent by one sender at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from store_world import World

from eventproc.abc import Store, Tx
from eventproc.model import NewNotice, Notice, NoticeState


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


def notice(run_id: int, outcome: str = "failure", **values) -> NewNotice:
    return NewNotice(run_id=run_id, outcome=outcome, **({"recipients": ("a@x", "b@x"), "due_us": 100} | values))


def claim(tx: Tx, now_us: int = 100, limit: int = 10) -> list[Notice]:
    return tx.notices.claim(limit=limit, lease_us=50, now_us=now_us)


def test_a_notice_is_written_once_for_run_outcome_and_serial(world: World):
    run_id = world.run(world.handler())
    with world.store.begin() as tx:
        tx.notices.add([notice(run_id), notice(run_id), notice(run_id, "success")], now_us=1)
        tx.notices.add([notice(run_id, recipients=("c@x",)), notice(run_id, serial=1)], now_us=2)
        tx.notices.add([], now_us=2)
    with world.store.read() as tx:
        found = tx.notices.page(run_id=run_id)
    assert [(item.outcome, item.serial) for item in found] == [("failure", 1), ("success", 0), ("failure", 0)]
    assert found[-1].recipients == ("a@x", "b@x")
    assert (found[-1].state, found[-1].attempts, found[-1].created_us) == (NoticeState.PENDING, 0, 1)


def test_a_leased_notice_is_not_leased_again_before_its_lease_ends(world: World):
    run_id = world.run(world.handler())
    with world.store.begin() as tx:
        tx.notices.add([notice(run_id)], now_us=1)
        assert tx.notices.next_due_us() == 100
        assert claim(tx, 99) == []
        [leased] = claim(tx)
        assert leased.attempts == 1
        assert claim(tx) == []
        assert tx.notices.next_due_us() == 150
        [again] = claim(tx, 150)
        assert (again.id, again.attempts) == (leased.id, 2)
        assert not tx.notices.sent(leased.id, leased.token, now_us=160)
        assert not tx.notices.keep_mail(leased.id, leased.token, subject="s", message_id="m", mail=b"x")
        assert not tx.notices.failed(leased.id, leased.token, error="e", retry_us=None, now_us=160)
        assert tx.notices.keep_mail(again.id, again.token, subject="s", message_id="m", mail=b"x\xff")
        assert tx.notices.sent(again.id, again.token, now_us=161, refused=["b@x"])
        assert not tx.notices.sent(again.id, again.token, now_us=162)
        assert tx.notices.next_due_us() is None
    with world.store.read() as tx:
        done = tx.notices.get(leased.id)
    assert done is not None
    assert (done.state, done.sent_us, done.refused, done.mail) == (NoticeState.SENT, 161, ("b@x",), b"x\xff")
    assert (done.subject, done.message_id) == ("s", "m")


def test_a_failed_try_comes_again_for_those_not_yet_reached(world: World):
    run_id = world.run(world.handler())
    with world.store.begin() as tx:
        tx.notices.add([notice(run_id)], now_us=1)
        [leased] = claim(tx)
        assert tx.notices.failed(
            leased.id, leased.token, error="busy", retry_us=300, now_us=110, recipients=["b@x"], refused=["a@x"]
        )
        assert claim(tx, 299) == []
        [again] = claim(tx, 300)
        assert (again.recipients, again.refused, again.error) == (("b@x",), ("a@x",), "busy")
        assert tx.notices.failed(again.id, again.token, error="no such user", retry_us=None, now_us=310)
        done = tx.notices.get(again.id)
        assert done is not None
        assert (done.state, done.error) == (NoticeState.FAILED, "no such user")
        assert claim(tx, 10_000) == []


def test_notices_are_leased_in_the_order_in_which_they_are_due(world: World):
    ids = world.runs(world.handler(), 3)
    with world.store.begin() as tx:
        tx.notices.add([notice(run_id, due_us=50 - run_id) for run_id in ids], now_us=1)
        assert [item.run_id for item in claim(tx, limit=2)] == [ids[2], ids[1]]
        assert [item.run_id for item in claim(tx)] == [ids[0]]


def test_throttling_asks_for_the_last_one_sent_and_those_that_wait(world: World):
    handler, other = world.handler(), world.handler(name="other")
    first, second, third = world.runs(handler, 3)
    stranger = world.run(other)
    with world.store.begin() as tx:
        tx.notices.add([notice(run_id) for run_id in (first, second, third, stranger)], now_us=1)
        tx.notices.add([notice(third, "success")], now_us=1)
        assert tx.notices.last_sent_us(handler.id, "failure") is None
        for item in claim(tx):
            if item.run_id == first:
                tx.notices.sent(item.id, item.token, now_us=170)
        assert tx.notices.last_sent_us(handler.id, "failure") == 170
        assert tx.notices.last_sent_us(handler.id, "success") is None
        oldest = tx.notices.oldest_pending(handler.id, "failure")
        assert oldest is not None
        waiting = tx.notices.get(oldest[0])
        assert waiting is not None
        assert (waiting.run_id, waiting.due_us) == (second, oldest[1])
        assert tx.notices.oldest_pending(other.id, "success") is None


def test_notices_are_listed_newest_first(world: World):
    ids = world.runs(world.handler(), 5)
    with world.store.begin() as tx:
        tx.notices.add([notice(run_id) for run_id in ids], now_us=1)
    with world.store.read() as tx:
        first = tx.notices.page(limit=3)
        rest = tx.notices.page(after=first[-1].id)
        assert tx.notices.get(999) is None
    assert [item.run_id for item in first + rest] == ids[::-1]


def test_a_notice_of_a_run_that_does_not_exist_is_left_out(world: World):
    with world.store.begin() as tx:
        tx.notices.add([notice(999)], now_us=1)
    with world.store.read() as tx:
        assert tx.notices.page() == []


def test_a_notice_that_is_held_back_was_not_tried(world: World):
    run_id = world.run(world.handler())
    with world.store.begin() as tx:
        tx.notices.add([notice(run_id)], now_us=1)
        for due_us in (100, 200):
            [leased] = claim(tx, due_us)
            assert tx.notices.hold(leased.id, leased.token, until_us=due_us + 100, reason="waits")
            assert claim(tx, due_us + 99) == []
        [leased] = claim(tx, 300)
        assert (leased.attempts, leased.error) == (1, "waits")
        assert not tx.notices.hold(leased.id, leased.token - 1, until_us=900, reason="x")


def test_one_notice_stands_for_all_that_wait_and_for_none_that_comes_later(world: World):
    handler, other = world.handler(), world.handler(name="other")
    run_id, stranger = world.run(handler), world.run(other)
    many = [notice(run_id, serial=number) for number in range(5001)]
    apart = [notice(run_id, "success"), notice(run_id, serial=6000, recipients=("c@x",)), notice(stranger)]
    with world.store.begin() as tx:
        tx.notices.add(many, now_us=1)
        tx.notices.add(apart, now_us=1)
        carrier, leased, mailed = claim(tx, limit=3)
        tx.notices.keep_mail(mailed.id, mailed.token, subject="s", message_id="m", mail=b"x")
        assert tx.notices.gather(replace(carrier, token=carrier.token - 1), mark="by 1", until_us=700) == 0
        assert tx.notices.gather(carrier, mark="by 1", until_us=700) == 4999
        assert not tx.notices.hold(leased.id, leased.token, until_us=1, reason="x")
        tx.notices.add([notice(run_id, serial=7000)], now_us=2)
        first, last = tx.notices.gathered(carrier, mark="by 1", limit=20)
        assert [item.serial for item in first] == [1, *range(3, 22)]
        assert last is not None
        assert (last.serial, last.due_us, last.attempts, last.error) == (5000, 700, 0, "by 1")
        assert tx.notices.gathered(carrier, mark="by 2", limit=20) == ([], None)
        assert tx.notices.waits(handler.id, "failure", "by ")
        assert not tx.notices.waits(handler.id, "success", "by ")
        values = {"mark": "by 1", "state": NoticeState.SENT, "now_us": 170, "refused": ["b@x"]}
        assert tx.notices.settle(carrier, last=last.id, **values) == 4999
        assert tx.notices.settle(carrier, last=last.id, **values) == 0
        assert [(item.mails, item.notices) for item in tx.notices.mails_since(handler.id, "failure", 0, limit=5)] == [
            (0, 4999)
        ]
        done = tx.notices.get(last.id)
        assert done is not None
        assert (done.state, done.sent_us, done.refused, done.error) == (NoticeState.SENT, 170, ("b@x",), None)
        left = [item for item in tx.notices.page(limit=6000) if item.state is NoticeState.PENDING]
    assert [(item.outcome, item.serial) for item in left] == [
        ("failure", 7000),
        ("failure", 0),
        ("failure", 6000),
        ("success", 0),
        ("failure", 2),
        ("failure", 0),
    ]


def test_all_that_are_due_are_put_off_at_once_but_for_those_with_a_mail(world: World):
    handler = world.handler()
    run_id = world.run(handler)
    with world.store.begin() as tx:
        tx.notices.add([notice(run_id, serial=number) for number in range(6)], now_us=1)
        tx.notices.add([notice(run_id, serial=6, due_us=300), notice(run_id, "success")], now_us=1)
        oldest, mailed, held = claim(tx, limit=3)
        tx.notices.keep_mail(mailed.id, mailed.token, subject="s", message_id="m", mail=b"x")
        tx.notices.hold(held.id, held.token, until_us=100, reason="kept: so")
        values = {"until_us": 900, "reason": "waits", "keep": "kept: ", "now_us": 200}
        assert tx.notices.put_off(handler.id, "failure", after=oldest.id, **values) == 4
        found = {item.serial: (item.due_us, item.error) for item in tx.notices.page() if item.outcome == "failure"}
    assert found == {
        0: (150, None),
        1: (150, None),
        2: (900, "kept: so"),
        3: (900, "waits"),
        4: (900, "waits"),
        5: (900, "waits"),
        6: (300, None),
    }
