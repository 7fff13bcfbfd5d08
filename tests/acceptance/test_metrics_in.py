"""Samples through the ports of a real platform."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import ssl
import time
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


def test_the_command_line_from_the_first_sample_to_the_last(serve, tmp_path):
    served = serve()
    send(served, "web.requests 1.5 100\nweb.requests 2 160.25\nweb.requests 3 160\nbad\nweb.errors;dc=eu 0 100\n")
    wait_until(lambda: len(stored(served.data)) == 3, what="the samples")
    dumped = served.cli("metrics", "dump").stdout
    assert dumped == "web.errors;dc=eu 0.0 100\nweb.requests 1.5 100\nweb.requests 2.0 160.25\n"
    assert served.cli("metrics", "dump", "web.r*", "--start", "150").stdout == "web.requests 2.0 160.25\n"
    assert [one["name"] for one in served.json("metrics", "list", "-t", "dc=e*")] == ["web.errors;dc=eu"]
    assert served.json("metrics", "show", "web.requests")["accepted"] == 2
    assert [one["value"] for one in served.json("metrics", "query", "web.requests")] == [2.0, 1.5]
    assert served.json("metrics", "query", "web.requests", "--window", "1000")[0]["count"] == 2
    rejected = served.json("metrics", "rejected")
    assert {one["reason"]: one["examples"] for one in rejected} == {
        "late": ["web.requests 3.0 160.0"],
        "unreadable": ["bad"],
    }
    assert "web.requests" in served.cli("metrics", "rejected").stdout
    missing = served.cli("metrics", "show", "web.request")
    assert missing.returncode == 4
    assert "web.requests" in missing.stderr.partition("did you mean")[2]
    assert served.cli("metrics", "delete", "web.requests", "--yes").returncode == 0
    (tmp_path / "dump.txt").write_text(dumped + "nonsense\n")
    again = served.cli("metrics", "import", str(tmp_path / "dump.txt"))
    assert again.returncode == 2
    assert "2 samples stored, 1 new metrics" in again.stdout
    assert "line 4: unreadable: nonsense" in again.stdout
    assert served.cli("metrics", "dump").stdout == dumped
    (tmp_path / "old.csv").write_text("when,reading\n2024-01-01 00:00,1\n2024-01-01 00:05,2.5\n")
    assert served.cli("metrics", "import", str(tmp_path / "old.csv"), "--name", "old").returncode == 0
    exported = served.cli("metrics", "export", "old").stdout.splitlines()
    assert exported[0] == "timestamp,value,raw_score,anomaly_score"
    assert exported[1:] == ["2024-01-01T00:00:00.000000Z,1.0,,", "2024-01-01T00:05:00.000000Z,2.5,,"]


def test_the_agent_and_the_load_generator_send_to_the_platform_of_this_machine(serve):
    served = serve()
    done = served.cli("metrics", "agent", "--count", "2", "--every", "0.2", "--prefix", "me")
    assert done.returncode == 0, done.stderr
    done = served.cli("metrics", "load", "--metrics", "50", "--rounds", "20", "--json")
    assert json.loads(done.stdout)["samples"] == 1000
    wait_until(lambda: len(stored(served.data)) > 1000, what="the load")
    names = [one["name"] for one in served.json("metrics", "list", "me.*")]
    assert {"me.cpu.percent", "me.memory.used_percent", "me.network.lo.sent_bytes"} <= set(names)
    assert served.json("metrics", "rejected") == []
    assert served.cli("metrics", "agent", "--to", "127.0.0.1:1", "--count", "1").returncode == 6


def test_how_far_ahead_a_time_may_lie_is_a_setting_for_every_way_in_and_doctor_states_it(serve):
    served = serve(EVENTPROC_METRICS__MAX_AHEAD="1h", EVENTPROC_GRAPHITE_UDP="off")
    now = int(time.time())
    send(served, f"tcp 1 {now + 1800}\ntcp 2 {now + 7200}\n")
    sent = served.connect().send_samples([("http", 1, now + 1800), ("http", 2, now + 7200)])
    assert (sent["accepted"], sent["rejected"]) == (1, {"bad time": 1})
    assert stored(served.data) == [("http", 1.0), ("tcp", 1.0)]
    refused = served.json("metrics", "rejected", "--reason", "bad time")
    assert sorted((one["metric"], one["source"]) for one in refused) == [
        ("http", "http admin"),
        ("tcp", "graphite tcp 127.0.0.1"),
    ]
    lines = [one["says"] for one in served.json("doctor")["findings"] if one["what"] == "metrics"]
    host, port = address(served)
    assert f"lines, TCP: {host}:{port} answers" in lines
    assert "lines, UDP: off (EVENTPROC_GRAPHITE_UDP)" in lines
    assert any(line.startswith("pickle, TCP: 127.0.0.1:") and line.endswith(" answers") for line in lines)
    assert "samples are taken without TLS, without a key; times up to 1h ahead" in lines
    assert served.stop() == 0
    stopped = [one["says"] for one in served.json("doctor")["findings"] if one["what"] == "metrics"]
    assert f"lines, TCP: {host}:0, once `eventproc serve` runs" in stopped


def test_with_tls_and_a_key_only_those_who_have_both_are_heard(serve):
    served = serve(EVENTPROC_GRAPHITE_TLS="true", EVENTPROC_GRAPHITE_KEY="s3cret")
    context = ssl.create_default_context(cafile=str(served.data / "certs" / "ca.pem"))
    with (
        socket.create_connection(address(served), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(b"s3cret.a 1 100\nb 2 100\n")
        client.unwrap()  # says that this was all, and returns once it is stored
        assert stored(served.data) == [("a", 1.0)]
    with socket.create_connection(address(served), timeout=30) as plain:
        plain.sendall(b"s3cret.c 3 100\n")
        plain.settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert not plain.recv(100).startswith(b"s3cret")
    wait_until(lambda: len(served.json("metrics", "rejected")) == 2, what="what was refused")
    rejected = {one["reason"]: (one["count"], one["examples"]) for one in served.json("metrics", "rejected")}
    assert rejected["unauthorized"] == (1, [""])
    assert rejected["unreadable"][0] == 1
    assert "s3cret" not in str(rejected)
    assert stored(served.data) == [("a", 1.0)]
