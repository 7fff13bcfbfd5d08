"""A winchester configuration at work: notifications of now, by queue and by HTTP, fire and expire by themselves."""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from servers import RabbitServer
from serving import Served
from waiting import wait_until

from eventproc import Connection
from eventproc.bus.amqp import is_there

DELAY_S = 2
IDLE_S = 4
FILES = {
    "winchester.yaml": """
config_path: [etc, .]
database: {url: "mysql://winchester:secret@db/winchester"}
logfile: /var/log/winchester.log
statistics_period: 5
purge_completed_streams: true
trim_events: true
trim_events_age: "$timestamp - 30d"
time_sync_endpoint: "http://127.0.0.1:8020"
distiller_config: event_definitions.yaml
trigger_definitions: triggers.yaml
pipeline_config: pipelines.yaml
pipeline_handlers:
    logger: winchester.pipeline_handler:LoggingHandler
    usage: winchester.pipeline_handler:UsageHandler
    notabene: winchester.pipeline_handler:NotabeneHandler
""",
    "pipelines.yaml": """
usage_pipeline:
    - logger
    - usage
    - name: notabene
      params: {host: rabbit, user: w, exchange: usage, queue_name: usage.results, env_keys: [usage_notifications]}
idle_pipeline: [logger, usage]
""",
    "triggers.yaml": f"""
- name: usage
  debug_level: 2
  distinguished_by:
  - instance_id
  - timestamp: "day"
  expiration: "$last + 1h"
  fire_delay: {DELAY_S}
  fire_pipeline: usage_pipeline
  expire_pipeline: idle_pipeline
  match_criteria:
  - event_type: ["compute.instance.*", "!compute.instance.exists.*"]
  fire_criteria:
  - event_type: compute.instance.exists
    traits: {{state: active}}
- name: idle
  distinguished_by: [instance_id]
  expiration: "$last + {IDLE_S}s"
  expire_pipeline: idle_pipeline
  match_criteria:
  - event_type: volume.*
  fire_criteria:
  - event_type: volume.usage
    number: 2
""",
    "event_definitions.yaml": """
- event_type: [compute.instance.*, volume.*]
  traits:
    instance_id: {fields: payload.instance_id}
    launched_at: {type: datetime, fields: payload.launched_at}
    state: {fields: payload.state}
""",
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    home = tmp_path / "winchester"
    (home / "etc").mkdir(parents=True)
    for name, text in FILES.items():
        (home / name if name == "winchester.yaml" else home / "etc" / name).write_text(text)
    return home / "winchester.yaml"


def notification(kind: str, instance: str, *, state: str = "active") -> dict[str, Any]:
    now = dt.datetime.now(dt.UTC)
    return {
        "event_type": f"compute.instance.{kind}",
        "message_id": str(uuid.uuid4()),
        "timestamp": now.strftime("%Y-%m-%d %H:%M:%S.%f"),
        "publisher_id": "compute.host",
        "_context_tenant": "t",
        "payload": {
            "instance_id": instance,
            "state": state,
            "launched_at": (now - dt.timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }


class Nova:
    """Publishes notifications to the exchange nova, whose queue is not durable, as nova's are by default."""

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.exchange_declare("nova", "topic")
        self.channel.queue_declare("monitor.info")

    def heard(self) -> bool:
        return bool(self.channel.queue_declare("monitor.info", passive=True).method.consumer_count)

    def send(self, body: bytes) -> None:
        self.channel.basic_publish("nova", "monitor.info", body)

    def get(self, queue: str) -> bytes | None:
        if not is_there(self.connection, "queue_declare", queue):
            return None
        found: bytes | None = self.channel.basic_get(queue, auto_ack=True)[2]
        return found


@pytest.fixture
def nova(rabbitmq: RabbitServer) -> Iterator[Nova]:
    made = Nova(rabbitmq.url)
    yield made
    made.connection.close()


def seconds(later: str, earlier: str) -> float:
    return (dt.datetime.fromisoformat(later) - dt.datetime.fromisoformat(earlier)).total_seconds()


@pytest.mark.external_service
def test_streams_fire_and_expire_by_the_clock_and_results_are_published(
    serve: Any, config: Path, rabbitmq: RabbitServer, nova: Nova
) -> None:
    served: Served = serve(EVENTPROC_BROKER_URL=rabbitmq.url)
    assert served.json("winchester", "import", str(config))["triggers"] == ["usage", "idle"]

    consumer = consume(served, config)
    try:
        wait_until(nova.heard, timeout_s=60, what="the consumer to be there")
        nova.send(json.dumps(notification("create.end", "by-queue")).encode())
        envelope = {"oslo.version": "2.0", "oslo.message": json.dumps(notification("exists", "by-queue"))}
        nova.send(json.dumps(envelope).encode())
        nova.send(b"{broken")
        nova.send(json.dumps({**notification("exists", "x"), "event_type": "image.update"}).encode())
        sent = [notification("update", "by-http"), notification("exists", "by-http")]
        idle = {**notification("", "idle"), "event_type": "volume.usage"}
        lines = "\n".join(map(json.dumps, [*sent, sent[0], idle]))
        done = served.cli("--json", "winchester", "run", str(config), stdin=lines)
        assert done.returncode == 0, done.stderr
        assert (json.loads(done.stdout)["events"], json.loads(done.stdout)["duplicates"]) == (3, 1)

        conn = served.connect()

        def completed() -> dict[str, Any] | None:
            found = {stream["distinguished_by"]["instance_id"]: stream for stream in conn.streams()}
            over = len(found) == 3 and all(stream["state"] == "completed" for stream in found.values())
            return found if over else None

        streams = wait_until(completed, timeout_s=90, what="the streams to fire and to expire")
        messages: dict[str, dict[str, Any]] = {}

        def published() -> bool:
            body = nova.get("usage.results")
            if body is not None:
                said = json.loads(body)
                messages[said["payload"]["instance_id"]] = said
            return set(messages) == {"by-queue", "by-http"}

        wait_until(published, timeout_s=60, what="the results to be published")
        wait_until(lambda: nova.get("monitor.info.rejected") == b"{broken", what="what can not be read, set aside")
    finally:
        consumer.send_signal(signal.SIGTERM)
        counts = json.loads(consumer.communicate(timeout=60)[0])
    assert counts == {"notifications": 4, "events": 2, "duplicates": 0, "dropped": 1, "rejected": 1}
    assert consumer.returncode == 1  # something was rejected

    check_times(conn, streams)
    failed = conn.request("GET", "/events", params={"hook": "compute.instance.exists.failed"})["items"]
    assert [(each["payload"]["instance_id"], each["payload"]["error_code"]) for each in failed] == [("idle", "U0")]
    verified = conn.request("GET", "/events", params={"hook": "compute.instance.exists.verified"})["items"]
    assert {each["id"] for each in verified} == {each["message_id"] for each in messages.values()}
    assert {each["event_type"] for each in messages.values()} == {"compute.instance.exists.verified"}


def consume(served: Served, config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "eventproc", "--json", "winchester", "run", str(config)]
    options = ("--queue", "monitor.info", "--exchange", "nova")
    return subprocess.Popen([*command, *options], env=served.environ, stdout=subprocess.PIPE, text=True)


def check_times(conn: Connection, streams: dict[str, dict[str, Any]]) -> None:
    """Nothing fired or expired before its time."""
    when = {}
    for hook in ("stream.fired", "stream.expired"):
        found = conn.request("GET", "/events", params={"hook": hook})["items"]
        when |= {each["payload"]["stream"]: (hook, each["time"]) for each in found}
    for name, stream in streams.items():
        hook, moment = when[stream["id"]]
        if name == "idle":
            assert hook == "stream.expired"
            assert seconds(stream["expire_at"], stream["last_event"]) == IDLE_S
            assert seconds(moment, stream["expire_at"]) >= 0
        else:
            assert hook == "stream.fired"
            assert seconds(stream["fire_at"], stream["last_event"]) >= DELAY_S
            assert seconds(moment, stream["fire_at"]) >= 0
