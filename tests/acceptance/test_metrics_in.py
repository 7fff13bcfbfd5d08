"""Samples through the ports of a real platform."""

from __future__ import annotations

import json
import socket
import sqlite3
from pathlib import Path

import pika
import pytest
from serving import Served
from waiting import wait_until


def address(served: Served, name: str = "graphite") -> tuple[str, int]:
    host, _, port = served.endpoints[name].rpartition(":")
    return host, int(port)


def send(served: Served, text: str) -> None:
    with socket.create_connection(address(served), timeout=30) as client:
        client.sendall(text.encode())
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b""


def stored(data: Path) -> list[tuple[str, float]]:
    with sqlite3.connect(data / "eventproc.db") as conn:
        found = conn.execute(
            "SELECT name, value FROM metric_samples JOIN metrics ON id = metric_id ORDER BY name, rowid"
        )
        rows = list(found)
    conn.close()
    return rows


def test_samples_are_taken_again_after_the_listener_was_killed(serve):
    served = serve()
    assert set(served.endpoints) >= {"graphite", "graphite_udp", "graphite_pickle"}
    send(served, "first 1 100\n")
    wait_until(lambda: stored(served.data) == [("first", 1.0)], what="the first sample")
    old = served.kill_role("listener")
    send_late = socket.create_connection(address(served), timeout=30)  # waits in the socket that outlived its process
    with send_late as client:
        client.sendall(b"first 1 100\nsecond 2 200\n")
        wait_until(lambda: ("second", 2.0) in stored(served.data), timeout_s=60, what="the second sample")
    assert stored(served.data) == [("first", 1.0), ("second", 2.0)]
    assert served.pid_of("listener") != old


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(serve):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        served = serve(wait=False, EVENTPROC_GRAPHITE=f"127.0.0.1:{port}")
        assert served.wait() == 2
        assert f"port {port} on 127.0.0.1 is taken" in served.tail()
        assert "EVENTPROC_GRAPHITE" in served.tail()


def test_the_ports_can_be_switched_off(serve):
    served = serve(EVENTPROC_GRAPHITE="off", EVENTPROC_GRAPHITE_PICKLE="off")
    assert not [name for name in served.endpoints if name.startswith("graphite")]


def test_the_listener_alone_states_where_it_listens(serve):
    served = serve("--role", "listener")
    found = json.loads((served.data / "endpoints.json").read_text())
    assert set(found) == {"graphite", "graphite_udp", "graphite_pickle"}
    send(served, "alone 1 100\n")
    wait_until(lambda: stored(served.data) == [("alone", 1.0)], what="the sample")
    assert served.stop() == 0
    assert not (served.data / "endpoints.json").exists()


@pytest.mark.external_service
def test_messages_of_htmengines_producers_are_taken_from_the_broker(serve, rabbitmq):
    served = serve(EVENTPROC_BROKER_URL=rabbitmq.url, EVENTPROC_METRICS__QUEUE="htmengine.custom_metrics")
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq.url))
    channel = connection.channel()
    channel.queue_declare("htmengine.custom_metrics", durable=True)
    for body in (
        json.dumps({"protocol": "plain", "data": ["queued 1.5 1386201600", "nonsense", "queued 2.5 1386288000"]}),
        "poison",
        json.dumps({"protocol": "plain", "data": ["queued 3.5 1386374400"]}),
    ):
        channel.basic_publish("", "htmengine.custom_metrics", body.encode())
    wanted = [("queued", 1.5), ("queued", 2.5), ("queued", 3.5)]
    wait_until(lambda: stored(served.data) == wanted, timeout_s=60, what="the samples")

    def set_aside() -> int:
        return channel.queue_declare("htmengine.custom_metrics.rejected", passive=True).method.message_count

    wait_until(lambda: set_aside() == 1, timeout_s=60, what="the message that can not be read")
    connection.close()
