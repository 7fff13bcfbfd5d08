"""Notifications on their way into a platform that is away for a while, or breaks down on some of them."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pika
import pytest
from servers import RabbitServer
from waiting import wait_until

from eventproc import Connection
from eventproc.compat.winchester import moving
from eventproc.compat.winchester.configuration import Configuration, read_configuration
from eventproc.compat.winchester.moving import feed
from eventproc.compat.winchester.queues import QueueFeed
from eventproc.errors import EventprocError, ServerUnreachable, Unauthorized
from eventproc.model import NewEvent


class Platform:
    """
    Stores events; the next requests end as `ill` says: a status, or 0 for a connection that breaks.

    Requests with an event of which it `chokes` are answered with 500, each time.
    """

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.ill: list[int] = []
        self.chokes: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                events = json.loads(self.rfile.read(int(self.headers["content-length"])))["events"]
                status = outer.ill.pop(0) if outer.ill else 200
                if outer.chokes & {event["id"] for event in events}:
                    status = 500
                if status == 0:
                    self.connection.close()
                    return
                code = {500: "error", 503: "unavailable"}.get(status, "unauthorized")
                answer = outer.take(events) if status == 200 else {"error": {"code": code, "message": "no"}}
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.endpoint = f"127.0.0.1:{self.server.server_port}"

    def take(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        items = []
        for event in events:
            items.append({"id": event["id"], "seq": 1, "duplicate": event["id"] in self.stored, "runs": []})
            self.stored.append(event["id"])
        return {"items": items}

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def platform() -> Iterator[Platform]:
    made = Platform()
    yield made
    made.close()


@pytest.fixture
def connection(platform: Platform) -> Iterator[Connection]:
    with Connection(platform.endpoint, "key") as made:
        yield made


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    (tmp_path / "winchester.yaml").write_text(
        "database: {url: 'sqlite://'}\ndistiller_config: d.yaml\npipeline_handlers: {}\npipeline_config: p.yaml\n"
        "trigger_definitions: t.yaml\n"
    )
    (tmp_path / "p.yaml").write_text("{}\n")
    (tmp_path / "t.yaml").write_text("[]\n")
    (tmp_path / "d.yaml").write_text("[{event_type: a.*, traits: {n: {fields: n}}}]\n")
    return read_configuration(tmp_path / "winchester.yaml")


def notification(number: int, **more: Any) -> bytes:
    said = {"event_type": "a.b", "message_id": f"m{number}", "timestamp": "2026-01-02 03:04:05", "n": number}
    return json.dumps({**said, **more}).encode()


def test_what_was_taken_from_a_pipe_waits_for_the_platform(
    platform: Platform, connection: Connection, configuration: Configuration
) -> None:
    platform.ill = [200, 0, 0, 0, 503, 500, 200]  # the client by itself gives up after three tries
    waited: list[EventprocError] = []
    records = ((number, notification(number)) for number in range(1100))
    counts = feed(connection, configuration, records, on_wait=waited.append)
    assert (counts["events"], counts["duplicates"], counts["refused"]) == (1100, 0, [])
    once = list(dict.fromkeys(platform.stored))  # the first one is sent again, to see whether the platform works
    assert once == [f"m{number}" for number in range(1100)]
    assert len(waited) == 1  # told once, not at each try


def test_what_the_platform_breaks_down_on_each_time_is_refused_and_holds_up_nothing(
    platform: Platform, connection: Connection, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "FIRST_PAUSE_S", 0.001)
    platform.chokes = {"m7", "m8", "m700", "m1099"}
    waited: list[EventprocError] = []
    records = ((number, notification(number)) for number in range(1100))
    counts = feed(connection, configuration, records, on_wait=waited.append)
    assert [each["message_id"] for each in counts["refused"]] == ["m7", "m8", "m700", "m1099"]
    assert {each["error"] for each in counts["refused"]} == {
        "the platform takes other events, and failed on this one 7 times: no"
    }
    assert (counts["events"], counts["duplicates"], waited) == (1096, 0, [])
    assert set(platform.stored) == {f"m{number}" for number in range(1100)} - platform.chokes


def test_a_platform_that_breaks_down_on_everything_is_waited_for(
    platform: Platform, connection: Connection, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "FIRST_PAUSE_S", 0.001)
    waited: list[EventprocError] = []

    def records() -> Iterator[tuple[int, bytes]]:
        for number in range(600):
            if number == 500:  # the first batch is on its way, or taken
                wait_until(lambda: "m499" in platform.stored, timeout_s=60, what="the first batch")
                platform.ill = [500] * 20
            yield number, notification(number)

    counts = feed(connection, configuration, records(), on_wait=waited.append)
    assert (counts["events"], counts["refused"], len(waited)) == (600, [], 1)
    assert platform.ill == []


@pytest.mark.parametrize(("ill", "error"), [([0, 0, 0], ServerUnreachable), ([401], Unauthorized)])
def test_what_can_be_fed_again_or_will_not_pass_ends_the_feed(
    platform: Platform,
    connection: Connection,
    configuration: Configuration,
    ill: list[int],
    error: type[EventprocError],
) -> None:
    platform.ill = list(ill)
    on_wait = None if error is ServerUnreachable else lambda _error: None
    with pytest.raises(error):
        feed(connection, configuration, iter([(1, notification(1))]), on_wait=on_wait)
    assert platform.stored == []


class Fragile:
    """A distiller with a fault."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def distill(self, said: Any) -> NewEvent | None:
        if said.get("n") == "boom":
            raise KeyError("boom")
        event: NewEvent | None = self._inner.distill(said)
        return event

    def when(self, said: Any) -> int | None:
        time_us: int | None = self._inner.when(said)
        return time_us


@pytest.mark.external_service
def test_a_notification_that_the_platform_breaks_down_on_leaves_the_queue_to_those_behind_it(
    platform: Platform,
    connection: Connection,
    configuration: Configuration,
    rabbitmq: RabbitServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moving, "FIRST_PAUSE_S", 0.001)
    platform.chokes = {"m1"}
    feeding = QueueFeed(connection, configuration, broker=rabbitmq.url, queue="choking")
    counts: dict[str, int] = {}
    thread = threading.Thread(target=lambda: counts.update(feeding.run()))
    broker = pika.BlockingConnection(pika.URLParameters(rabbitmq.url))
    channel = broker.channel()
    channel.queue_declare("choking", durable=True)
    channel.queue_declare("choking.rejected", durable=True)
    for number in (1, 2):
        channel.basic_publish("", "choking", notification(number))
    thread.start()
    try:
        wait_until(
            lambda: channel.queue_declare("choking.rejected", passive=True).method.message_count == 1,
            timeout_s=60,
            what="the bad one",
        )
        _, properties, body = channel.basic_get("choking.rejected", auto_ack=True)
        channel.basic_publish("", "choking", notification(3))
        wait_until(lambda: "m3" in platform.stored, timeout_s=60, what="the one behind it")
    finally:
        feeding.stop()
        thread.join()
        broker.close()
    assert body == notification(1)
    assert "failed on this one 7 times" in properties.headers["reason"]
    assert set(platform.stored) == {"m2", "m3"}
    assert counts["rejected"] == 1


@pytest.mark.external_service
def test_no_single_message_stops_a_queue_and_neither_does_a_fault_that_passes(
    platform: Platform, connection: Connection, configuration: Configuration, rabbitmq: RabbitServer
) -> None:
    platform.ill = [500]
    bad = [
        notification(1, timestamp="0001-01-01T00:00:00+05:00"),
        notification(2, timestamp="9999-12-31 23:59:59-01:00"),
        notification(3, n="boom"),
    ]
    configuration = dataclasses.replace(configuration, distiller=Fragile(configuration.distiller))
    feeding = QueueFeed(connection, configuration, broker=rabbitmq.url, queue="feeding")
    counts: dict[str, int] = {}
    thread = threading.Thread(target=lambda: counts.update(feeding.run()))
    broker = pika.BlockingConnection(pika.URLParameters(rabbitmq.url))
    channel = broker.channel()
    channel.queue_declare("feeding", durable=True)
    for body in (*bad, notification(4)):
        channel.basic_publish("", "feeding", body)
    thread.start()
    try:
        wait_until(lambda: platform.stored == ["m4"], timeout_s=60, what="the good one")
        reasons: dict[bytes, str] = {}

        def set_aside() -> bool:
            _, properties, body = channel.basic_get("feeding.rejected", auto_ack=True)
            if body is not None:
                reasons[body] = properties.headers["reason"]
            return len(reasons) == 3

        wait_until(set_aside, timeout_s=60, what="the bad ones")
    finally:
        feeding.stop()
        thread.join()
        broker.close()
    assert [reasons[body] for body in bad] == [
        "timestamp: '0001-01-01T00:00:00+05:00' lies outside of the years 1 to 9999",
        "timestamp: '9999-12-31 23:59:59-01:00' lies outside of the years 1 to 9999",
        "reading it failed: KeyError('boom')",
    ]
    assert (counts["notifications"], counts["events"], counts["rejected"]) == (4, 1, 3)
