"""The consumer of a queue: what is taken is acknowledged, what can not be read is set aside, nothing is lost."""

from __future__ import annotations

import threading

import pika
import pytest
from waiting import wait_until

from eventproc.bus.consumer import REJECTED, QueueConsumer
from eventproc.errors import StoreUnavailable

pytestmark = pytest.mark.external_service


@pytest.fixture
def channel(rabbitmq):
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq.url))
    yield connection.channel()
    connection.close()


@pytest.fixture
def consume(rabbitmq):
    running = []

    def start(queue, take, **options):
        consumer = QueueConsumer(rabbitmq.url, queue, take, **options)
        thread = threading.Thread(target=consumer.run)
        thread.start()
        running.append((consumer, thread))
        assert consumer.consuming.wait(60)
        return consumer

    yield start
    for consumer, thread in running:
        consumer.stop()
        thread.join()


def left(channel, queue: str) -> int:
    return channel.queue_declare(queue, passive=True).method.message_count


def test_messages_are_taken_in_order_and_in_batches(channel, consume):
    channel.queue_declare("in-order", durable=True)
    for number in range(500):
        channel.basic_publish("", "in-order", str(number).encode())
    got = []

    def take(bodies):
        assert len(bodies) <= 100
        got.extend(bodies)
        return [None] * len(bodies)

    consumer = consume("in-order", take, max_batch=100)
    wait_until(lambda: len(got) == 500, timeout_s=60, what="all messages")
    assert got == [str(number).encode() for number in range(500)]
    consumer.stop()
    wait_until(lambda: not consumer.consuming.is_set(), timeout_s=30, what="the end")
    assert left(channel, "in-order") == 0


def test_a_message_that_can_not_be_read_is_set_aside_with_its_reason(channel, consume):
    got = []

    def take(bodies):
        got.extend(body for body in bodies if body != b"poison")
        return ["no JSON at byte 0" if body == b"poison" else None for body in bodies]

    consume("mixed", take)
    # An expiration would end what was set aside before anybody looks.
    said = pika.BasicProperties(
        content_type="text/x", message_id="m7", headers={"tenant": "t"}, expiration="600000", user_id="guest"
    )
    for body in (b"1", b"poison", b"2"):
        channel.basic_publish("", "mixed", body, said)
    wait_until(lambda: got == [b"1", b"2"], timeout_s=60, what="the good ones")
    wait_until(lambda: left(channel, "mixed" + REJECTED) == 1, timeout_s=60, what="the bad one")
    _, properties, body = channel.basic_get("mixed" + REJECTED, auto_ack=True)
    assert (body, properties.headers) == (b"poison", {"tenant": "t", "reason": "no JSON at byte 0"})
    assert (properties.content_type, properties.message_id, properties.delivery_mode) == ("text/x", "m7", 2)
    assert properties.expiration is None


def test_what_could_not_be_stored_comes_again(channel, consume):
    tries = []

    def take(bodies):
        tries.append(list(bodies))
        if len(tries) == 1:
            raise StoreUnavailable("the database is locked")
        return [None] * len(bodies)

    consume("again", take)
    channel.basic_publish("", "again", b"x")
    wait_until(lambda: len(tries) == 2, timeout_s=60, what="the second try")
    assert tries == [[b"x"], [b"x"]]


def test_a_queue_that_is_deleted_is_made_again(channel, consume):
    got = []

    def take(bodies):
        got.extend(bodies)
        return [None] * len(bodies)

    consumer = consume("fleeting", take)
    channel.queue_delete("fleeting")
    wait_until(lambda: not consumer.consuming.is_set(), timeout_s=30, what="the loss to be seen")
    assert consumer.consuming.wait(60)
    channel.basic_publish("", "fleeting", b"x")
    wait_until(lambda: got == [b"x"], timeout_s=60, what="the message")


@pytest.mark.parametrize("there", [True, False])
def test_a_queue_is_bound_to_an_exchange_and_taken_as_it_is(channel, consume, there):
    queue, exchange = f"bound-{there}", f"nova-{there}"
    if there:  # neither is durable, as OpenStack's are by default
        channel.exchange_declare(exchange, "topic")
        channel.queue_declare(queue)
    got = []

    def take(bodies):
        got.extend(bodies)
        return [None] * len(bodies)

    consume(queue, take, exchange=exchange)
    channel.basic_publish(exchange, queue, b"1")
    wait_until(lambda: got == [b"1"], what="the message")
