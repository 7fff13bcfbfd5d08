"""Contract of the store: messages to other systems are written with the rest, and leave by one sender at a time."""

from __future__ import annotations

import pytest

from eventproc.abc import Store, Tx
from eventproc.model import NewOutgoing, Outgoing


def message(body: bytes = b"x", **values) -> NewOutgoing:
    return NewOutgoing(**({"kind": "amqp", "target": "results/", "body": body} | values))


def claim(tx: Tx, now_us: int = 100, limit: int = 10) -> list[Outgoing]:
    return tx.outbox.claim(kind="amqp", limit=limit, lease_us=50, now_us=now_us)


def _add_and_fail(tx: Tx) -> None:
    tx.outbox.add([message()], now_us=1)
    raise ZeroDivisionError


def test_messages_are_leased_in_order_and_deleted_once_delivered(store: Store):
    with store.begin() as tx:
        tx.outbox.add([], now_us=1)
        tx.outbox.add([message(b"1\xff\0", headers={"a": "ä"}), message(b"2"), message(b"3", due_us=200)], now_us=1)
        assert tx.outbox.next_due_us("amqp") == 1
        first, second = claim(tx)
        assert (first.body, first.headers, first.attempts, first.created_us) == (b"1\xff\0", {"a": "ä"}, 1, 1)
        assert second.body == b"2"
        assert claim(tx) == []
        assert tx.outbox.next_due_us("amqp") == 150
        again = claim(tx, 150, limit=1)[0]
        assert (again.id, again.attempts) == (first.id, 2)
        assert tx.outbox.delivered([(first.id, first.token), (second.id, second.token)]) == {second.id}
        assert tx.outbox.delivered([(again.id, again.token)]) == {first.id}
        assert tx.outbox.delivered([]) == set()
        assert [item.body for item in claim(tx, 200)] == [b"3"]


def test_a_message_of_a_transaction_that_rolls_back_never_was(store: Store):
    with pytest.raises(ZeroDivisionError), store.begin() as tx:
        _add_and_fail(tx)
    with store.begin() as tx:
        assert claim(tx) == []


def test_failed_tries_come_again_until_it_is_given_up_and_can_be_requeued(store: Store):
    with store.begin() as tx:
        tx.outbox.add([message()], now_us=1)
        [leased] = claim(tx)
        assert tx.outbox.failed(leased.id, leased.token, error="busy", retry_us=300)
        assert claim(tx, 299) == []
        [again] = claim(tx, 300)
        assert (again.attempts, again.error) == (2, "busy")
        assert not tx.outbox.failed(leased.id, leased.token, error="stale", retry_us=None)
        assert tx.outbox.failed(again.id, again.token, error="404", retry_us=None)
        assert claim(tx, 10_000) == []
        assert tx.outbox.counts() == {"failed": 1}
        [dead] = tx.outbox.page(state="failed")
        assert (dead.id, dead.error) == (leased.id, "404")
        assert tx.outbox.requeue([leased.id, 999], now_us=400) == {leased.id}
        assert tx.outbox.requeue([leased.id], now_us=400) == set()
        [third] = claim(tx, 400)
        assert (third.attempts, third.since_us, third.created_us) == (1, 400, 1)


def test_messages_that_were_not_tried_are_given_back_uncounted(store: Store):
    with store.begin() as tx:
        tx.outbox.add([message(b"1"), message(b"2")], now_us=1)
        leased = claim(tx)
        tx.outbox.release([(item.id, item.token) for item in leased], due_us=500, error="no broker")
        assert not tx.outbox.delivered([(item.id, item.token) for item in leased])
        assert claim(tx, 499) == []
        assert [(item.body, item.attempts, item.error) for item in claim(tx, 500)] == [
            (b"1", 1, "no broker"),
            (b"2", 1, "no broker"),
        ]


def test_messages_are_listed_deleted_and_pruned(store: Store):
    with store.begin() as tx:
        for number in range(4):
            tx.outbox.add([message(str(number).encode())], now_us=number)
        found = tx.outbox.page(limit=3)
        assert [item.body for item in found + tx.outbox.page(after=found[-1].id)] == [b"3", b"2", b"1", b"0"]
        for item in claim(tx):
            tx.outbox.failed(item.id, item.token, error="no", retry_us=None)
        assert tx.outbox.delete([found[0].id, 999]) == {found[0].id}
        assert tx.outbox.get(found[0].id) is None
        assert tx.outbox.prune(2, limit=10) == 2
        assert [item.body for item in tx.outbox.page()] == [b"2"]
