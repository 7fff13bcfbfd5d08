"""The postman: who is there gets everything, who is not is waited for, and nothing is dropped silently."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
from waiting import wait_until

from eventproc.abc import Carrier, Delivery
from eventproc.bus.memory import MemoryBus
from eventproc.engine.clock import ManualClock
from eventproc.engine.postman import Postman, PostmanSettings
from eventproc.model import SECOND_US, NewOutgoing, Outgoing, OutgoingState
from eventproc.store.memory import MemoryStore

START = 1_700_000_000 * SECOND_US
DAY_S = 86400


class OtherSide(Carrier):
    """A system that answers as the test wants it to."""

    kind = "amqp"

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.answer: Callable[[Outgoing], Delivery] = lambda _: Delivery()
        self.closed = False

    def deliver(self, messages: Sequence[Outgoing]) -> list[Delivery]:
        verdicts = [self.answer(message) for message in messages]
        self.got += [m.body for m, verdict in zip(messages, verdicts, strict=True) if verdict.error is None]
        return verdicts

    def describe(self) -> str:
        return "the other side"

    def close(self) -> None:
        self.closed = True


class Office:
    def __init__(self) -> None:
        self.store, self.bus, self.clock, self.side = MemoryStore(), MemoryBus(), ManualClock(START), OtherSide()
        self.store.upgrade()
        self.postman = Postman(
            store=self.store,
            bus=self.bus,
            carrier=self.side,
            clock=self.clock,
            settings=PostmanSettings(jitter=0.0, batch=3),
        )

    def put(self, *bodies: bytes, kind: str = "amqp") -> None:
        with self.store.begin() as tx:
            messages = [NewOutgoing(kind=kind, target="e/k", body=body) for body in bodies]
            tx.outbox.add(messages, now_us=self.clock.now_us())
            tx.after_commit(lambda: self.bus.wake("outbox"))

    def left(self) -> list[Outgoing]:
        with self.store.read() as tx:
            return list(reversed(tx.outbox.page()))

    def turn_after(self, seconds: float) -> bool:
        self.clock.advance(seconds)
        return self.postman.turn()


@pytest.fixture
def office():
    made = Office()
    yield made
    made.store.close()


def test_messages_are_delivered_in_order_and_leave_the_outbox(office):
    office.put(b"1", b"2", b"3", b"4")
    assert office.postman.turn()  # a full batch: there may be more
    assert not office.postman.turn()
    assert office.side.got == [b"1", b"2", b"3", b"4"]
    assert office.left() == []


def test_messages_of_another_kind_are_left_to_their_own_postman(office):
    office.put(b"post", kind="http")
    office.postman.turn()
    assert [message.body for message in office.left()] == [b"post"]


def test_a_failed_try_is_repeated_later_and_later(office):
    office.put(b"x")
    office.side.answer = lambda _: Delivery("503 busy")
    office.postman.turn()
    due = []
    for _ in range(12):
        [message] = office.left()
        due.append((message.due_us - office.clock.now_us()) / SECOND_US)
        office.turn_after(due[-1])
    assert due[:4] == [2, 4, 8, 16]
    assert due[-1] == 600
    assert message.error == "503 busy"
    office.side.answer = lambda _: Delivery()
    office.turn_after(600)
    assert office.side.got == [b"x"]
    assert office.left() == []


def test_a_refusal_for_good_gives_up_at_once_and_its_neighbours_go(office):
    office.put(b"1", b"bad", b"3")
    office.side.answer = lambda m: Delivery("404 gone", final=True) if m.body == b"bad" else Delivery()
    office.postman.turn()
    assert office.side.got == [b"1", b"3"]
    [message] = office.left()
    assert (message.state, message.error) == (OutgoingState.FAILED, "404 gone")


def test_a_message_that_nobody_takes_for_days_is_given_up_and_can_be_requeued(office):
    office.put(b"x")
    office.side.answer = lambda _: Delivery("500")
    office.postman.turn()
    office.turn_after(3 * DAY_S + 1)
    [message] = office.left()
    assert message.state is OutgoingState.FAILED
    office.side.answer = lambda _: Delivery()
    with office.store.begin() as tx:
        assert tx.outbox.requeue([message.id], now_us=office.clock.now_us()) == {message.id}
    office.postman.turn()
    assert office.side.got == [b"x"]


def test_while_the_other_side_is_away_nothing_is_given_up_nor_counted(office):
    office.put(b"1", b"2")
    office.side.answer = lambda _: Delivery("connection refused", unreachable=True)
    for _ in range(20):
        assert not office.turn_after(DAY_S)
    assert [(m.state, m.attempts, m.error) for m in office.left()] == [
        (OutgoingState.PENDING, 0, "connection refused")
    ] * 2
    office.side.answer = lambda _: Delivery()
    office.turn_after(30)
    assert office.side.got == [b"1", b"2"]


def test_the_other_side_is_looked_for_less_and_less_often_until_it_is_back(office):
    office.put(b"x")
    office.side.answer = lambda _: Delivery("connection refused", unreachable=True)
    pauses = []
    for _ in range(7):
        office.turn_after(60)
        [message] = office.left()
        pauses.append((message.due_us - office.clock.now_us()) / SECOND_US)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    office.side.answer = lambda _: Delivery()
    office.turn_after(30)
    office.side.answer = lambda _: Delivery("connection refused", unreachable=True)
    office.put(b"y")
    office.turn_after(0)
    [message] = office.left()
    assert message.due_us - office.clock.now_us() == SECOND_US


def test_a_postman_that_was_killed_between_delivery_and_note_leaves_the_message_to_the_next(office):
    office.put(b"x")
    with office.store.begin() as tx:
        tx.outbox.claim(kind="amqp", limit=1, lease_us=300 * SECOND_US, now_us=office.clock.now_us())
    office.turn_after(299)
    assert office.side.got == []
    office.turn_after(1)
    assert office.side.got == [b"x"]


def test_it_delivers_when_woken_and_ends_when_told(office):
    thread = threading.Thread(target=office.postman.run)
    thread.start()
    for number in range(5):
        office.put(b"%d" % number)
    wait_until(lambda: len(office.side.got) == 5, timeout_s=30, what="all messages")
    office.postman.stop(30)
    thread.join(30)
    assert not thread.is_alive()
    assert office.side.closed


def test_what_only_a_person_can_put_right_is_tried_a_few_times_and_can_be_requeued(office):
    office.side.answer = lambda _: Delivery("no login for 'u'", tries=3)
    office.put(b"1")
    for _ in range(2):
        office.turn_after(DAY_S / 100)
        assert [message.state for message in office.left()] == [OutgoingState.PENDING]
    office.turn_after(DAY_S / 100)
    [given_up] = office.left()
    assert (given_up.state, given_up.error, given_up.attempts) == (
        OutgoingState.FAILED,
        "no login for 'u' (try 3 of 3)",
        3,
    )
    office.side.answer = lambda _: Delivery()
    with office.store.begin() as tx:
        tx.outbox.requeue([given_up.id], now_us=office.clock.now_us())
    office.postman.turn()
    assert office.side.got == [b"1"]
    assert office.left() == []


def test_only_refusals_count_where_a_login_is_refused_and_from_the_first_again_once_requeued(office):
    office.side.answer = lambda _: Delivery("503")
    office.put(b"1")
    for _ in range(10):
        office.turn_after(600)
    office.side.answer = lambda _: Delivery("no login for 'u'", tries=3)

    def state_after_each_try() -> list[OutgoingState]:
        return [message.state for _ in range(3) if office.turn_after(600) is False for message in office.left()]

    tried = [OutgoingState.PENDING, OutgoingState.PENDING, OutgoingState.FAILED]
    assert state_after_each_try() == tried
    with office.store.begin() as tx:
        tx.outbox.requeue([message.id for message in office.left()], now_us=office.clock.now_us())
    assert state_after_each_try() == tried


def test_a_message_that_is_requeued_has_its_days_again(office):
    office.side.answer = lambda _: Delivery("500")
    office.put(b"1")
    office.postman.turn()
    office.turn_after(4 * DAY_S)
    [given_up] = office.left()
    assert given_up.state is OutgoingState.FAILED
    with office.store.begin() as tx:
        tx.outbox.requeue([given_up.id], now_us=office.clock.now_us())
    office.turn_after(2 * DAY_S)
    office.turn_after(0.9 * DAY_S)
    assert [(m.state, m.created_us) for m in office.left()] == [(OutgoingState.PENDING, given_up.created_us)]
    office.turn_after(0.2 * DAY_S)
    assert [m.state for m in office.left()] == [OutgoingState.FAILED]


def test_messages_of_a_host_that_is_away_wait_for_themselves_and_fill_no_batch(office):
    office.put(b"bad-1", b"bad-2", b"bad-3", b"good")
    away = Delivery("the host is away", unreachable=True, later_s=60.0)
    office.side.answer = lambda m: away if m.body.startswith(b"bad") else Delivery()
    assert office.postman.turn()  # there may be more at once
    office.postman.turn()
    assert office.side.got == [b"good"]
    waits = {(m.attempts, m.error, m.due_us - office.clock.now_us()) for m in office.left()}
    assert waits == {(0, "the host is away", 60 * SECOND_US)}


def test_a_message_says_how_long_to_wait_between_tries(office):
    office.side.answer = lambda _: Delivery("503")
    with office.store.begin() as tx:
        headers = {"patience.interval": "30", "patience.max": "70"}
        tx.outbox.add([NewOutgoing(kind="amqp", target="e/k", body=b"1", headers=headers)], now_us=START)
    pauses = []
    for _ in range(4):
        office.postman.turn()
        [message] = office.left()
        pauses.append((message.due_us - office.clock.now_us()) / SECOND_US)
        office.turn_after(0.0)
        office.clock.advance(pauses[-1])
    assert pauses == [30.0, 60.0, 70.0, 70.0]
