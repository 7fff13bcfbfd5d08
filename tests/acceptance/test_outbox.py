"""The outbox on a running platform: to a real broker that is late, by command line, and what is given up."""

from __future__ import annotations

import pika
import pytest
from servers import free_port
from waiting import wait_until

from eventproc.engine.clock import SystemClock
from eventproc.model import NewOutgoing
from eventproc.store import open_store


def put(served, *messages: NewOutgoing) -> None:
    store = open_store(f"sqlite:///{served.data}/eventproc.db")
    with store.begin() as tx:
        tx.outbox.add(messages, now_us=SystemClock().now_us())
    store.close()


@pytest.mark.external_service
def test_messages_reach_the_broker_and_doctor_says_where_they_go(serve, rabbitmq):
    served = serve(EVENTPROC_BROKER_URL=rabbitmq.url)
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq.url))
    channel = connection.channel()
    channel.queue_declare("told")
    put(served, *[NewOutgoing(kind="amqp", target="/told", body=b"%d" % number) for number in range(3)])
    wait_until(
        lambda: channel.queue_declare("told", passive=True).method.message_count == 3, timeout_s=60, what="messages"
    )
    assert [channel.basic_get("told", auto_ack=True)[2] for _ in range(3)] == [b"0", b"1", b"2"]
    connection.close()
    found = {finding["what"]: finding for finding in served.json("doctor")["findings"]}
    assert found["broker"]["level"] == "ok"
    assert "guest" not in found["broker"]["says"]


def test_what_was_given_up_is_listed_requeued_and_deleted(serve):
    served = serve()
    dead = f"http://127.0.0.1:{free_port()}/hook"
    put(
        served,
        NewOutgoing(kind="http", target="ftp://x/y", body=b"{}"),
        NewOutgoing(kind="http", target=dead, body=b"{}"),
    )

    def states() -> dict[str, str]:
        return {message["target"]: message["state"] for message in served.json("outbox", "list")}

    wait_until(lambda: states() == {"ftp://x/y": "failed", dead: "pending"}, timeout_s=60, what="the verdicts")
    [bad] = served.json("outbox", "list", "--state", "failed")
    assert "ftp" in served.json("outbox", "show", str(bad["id"]))["error"]
    assert served.json("outbox", "requeue", str(bad["id"])) == {"requeued": [bad["id"]]}
    wait_until(lambda: states()["ftp://x/y"] == "failed", timeout_s=60, what="the same verdict")
    assert served.cli("outbox", "delete", str(bad["id"])).returncode == 0
    again = served.cli("outbox", "delete", str(bad["id"]))
    assert again.returncode == 4
    assert "what is delivered leaves it" in again.stderr
    assert set(states()) == {dead}


def test_a_broker_url_that_is_none_ends_the_start_with_its_reason(serve):
    served = serve(EVENTPROC_BROKER_URL="http://localhost", wait=False)
    assert served.wait() != 0
    assert "amqp://user:password@host" in served.tail()
