"""Pipelines on streams and on given events with nothing committed: client, commands, and without a server."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Served
from waiting import wait_until

from eventproc import Connection, register_pipeline
from eventproc.errors import InvalidInput, NotFound

SHOUT = """\
class Shout:
    def __init__(self, word="HEY"):
        self.word = word

    def handle_events(self, events, env):
        print(self.word, [event["message_id"] for event in events], env["stream_name"])
        ep.publish("loud", "noise", b"{}")
        if any(event.get("price") == 13 for event in events):
            raise ValueError("13 brings bad luck")
        new = {"message_id": "shouted", "event_type": "shop.shouted", "timestamp": events[-1]["timestamp"]}
        return [*events, new]

    def commit(self):
        print("committed")

    def rollback(self):
        print("rolled back")
"""
EVENTS = [
    {"message_id": "late", "event_type": "shop.item", "timestamp": "2014-02-01T00:00:00Z", "price": 1},
    {"hook": "shop.item", "id": "early", "time": "2013-01-01T00:00:00Z", "payload": {"price": 2}},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("dry")
    (folder / "code").mkdir()
    (folder / "code" / "dryshouting.py").write_text(SHOUT)
    (folder / "pipelines.yaml").write_text('loud:\n- {name: shout, import: "dryshouting:Shout", params: {word: HO}}\n')
    (folder / "events.json").write_text(json.dumps(EVENTS))
    (folder / "bad.json.gz").write_bytes(gzip.compress(json.dumps({**EVENTS[0], "price": 13}).encode()))
    made = Served(folder / "data", EVENTPROC_HANDLER_PATH=str(folder / "code"))
    made.start()
    conn = made.connect()
    conn.put_hook("shop.*", summary="a shop")
    register_pipeline("loud", [{"name": "shout", "import": "dryshouting:Shout"}], conn=conn)
    conn.put_trigger(
        name="orders",
        distinguished_by=["order"],
        expiration="$last + 1h",
        fire_pipeline="loud",
        match_criteria=[{"event_type": "shop.item"}],
        fire_criteria=[{"event_type": "shop.item", "number": 3}],
    )
    yield made
    made.close()


@pytest.fixture
def conn(served: Served) -> Connection:
    return served.connect()


def said(trial: dict[str, Any]) -> str:
    return "".join(chunk["text"] for chunk in trial["logs"])


def nothing_is_left(conn: Connection) -> bool:
    made = list(conn.events(hook="shop.shouted"))
    return not made and not conn.runs(hook="stream.fired") and not conn.request("GET", "/outbox")["items"]


def test_on_a_stored_stream(served: Served, conn: Connection) -> None:
    for number in range(2):
        conn.emit("shop.item", {"order": "a", "number": number}, id=f"a{number}")
    (stream,) = wait_until(lambda: conn.streams(trait="order:a"), what="the stream")
    trial = conn.dry_run_pipeline("loud", stream=stream["id"])
    assert trial["failure"] is None
    assert trial["result"] == {"events": 2, "new": ["shouted"]}
    assert said(trial) == "HEY ['a0', 'a1'] orders\nrolled back\n"
    assert [event["hook"] for event in trial["effects"]["events"]] == ["shop.shouted"]
    assert trial["effects"]["messages"] == [{"kind": "amqp", "target": "loud/noise", "size": 2}]
    shown = served.cli("pipelines", "dry-run", "loud", "--stream", str(stream["id"]))
    assert shown.returncode == 0, shown.stderr
    assert "would events" in shown.stdout
    (same,) = conn.streams(trait="order:a")
    assert same == stream
    assert nothing_is_left(conn)


def test_on_given_events_in_the_order_of_their_times(served: Served, conn: Connection) -> None:
    trial = conn.dry_run_pipeline("loud", events=EVENTS)
    assert said(trial).startswith("HEY ['early', 'late'] dry-run")
    failed = served.cli("pipelines", "dry-run", "loud", "--events", "bad.json.gz", "--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["failure"]["message"] == "13 brings bad luck"
    assert "rolled back" in said(json.loads(failed.stdout))
    assert nothing_is_left(conn)


def test_what_can_not_be_tried_is_refused(served: Served, conn: Connection) -> None:
    with pytest.raises(NotFound, match="did you mean 'loud'"):
        conn.dry_run_pipeline("lout", events=EVENTS)
    with pytest.raises(NotFound, match="no stream 999"):
        conn.dry_run_pipeline("loud", stream=999)
    with pytest.raises(InvalidInput, match="either 'stream' or 'events'"):
        conn.dry_run_pipeline("loud")
    with pytest.raises(InvalidInput, match="at least one event"):
        conn.dry_run_pipeline("loud", events=[])
    with pytest.raises(InvalidInput, match="event 1: "):
        conn.dry_run_pipeline("loud", events=[EVENTS[0], {"payload": {}}])
    with pytest.raises(NotFound, match=r"shop\.item|no\.such"):
        conn.dry_run_pipeline("loud", events=[{**EVENTS[0], "event_type": "no.such"}])
    refused = served.cli("pipelines", "dry-run", "loud")
    assert refused.returncode == 2
    assert "--stream ID or --events FILE" in refused.stderr


def test_without_a_server(served: Served) -> None:
    alone = {"EVENTPROC_DATA": str(served.data.parent / "nowhere")}
    done = served.cli("pipelines", "test", "pipelines.yaml", "events.json", "--handler-path", "code", "--json", **alone)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert (found["pipeline"], found["result"]["new"]) == ("loud", ["shouted"])
    assert said(found) == "HO ['early', 'late'] dry-run\nrolled back\n"
    piped = served.cli(
        *("pipelines", "test", "pipelines.yaml", "-", "--handler-path", "code", "--name", "quiet"),
        stdin=json.dumps(EVENTS),
        **alone,
    )
    assert piped.returncode != 0
    assert "there is no pipeline 'quiet'; there are loud" in piped.stderr
