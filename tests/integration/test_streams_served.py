"""Triggers, streams and pipelines on a running platform: by the client, and by the commands."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Served
from waiting import wait_until

from eventproc import Connection, register_pipeline
from eventproc.errors import InvalidInput, NotFound

TRIGGERS = """\
- name: orders
  debug_level: 2
  distinguished_by: [order]
  expiration: "$last + 1h"
  fire_pipeline: bill
  match_criteria: [{event_type: ["shop.*", "!shop.billed"]}]
  fire_criteria: [{event_type: shop.closed}, {event_type: shop.item, number: 2}]
- name: imports
  distinguished_by: [order]
  expiration: "$last + 1h"
  fire_pipeline: shouts
  match_criteria: [{event_type: loud.*}]
  fire_criteria: [{event_type: loud.*}]
"""
SHOUT = """\
import json, os

class Shout:
    def __init__(self, word):
        self.word = word

    def handle_events(self, events, env):
        print(self.word, events[0]["order"], os.path.exists(os.environ.get("HOME", "/nowhere")))
        return events

    def commit(self):
        print("committed")
"""


class Bill:
    def __init__(self, tax=0):
        self.tax = tax

    def handle_events(self, events, env):
        if any(event.get("price") == 13 for event in events):
            raise ValueError("13 brings bad luck")
        total = sum(event.get("price", 0) for event in events) + self.tax
        last = events[-1]
        bill = {"message_id": f"bill-{last['order']}", "event_type": "shop.billed", "timestamp": last["timestamp"]}
        return [*events, {**bill, "total": total}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("streams")
    (folder / "code").mkdir()
    (folder / "code" / "shouting.py").write_text(SHOUT)
    (folder / "triggers.yaml").write_text(TRIGGERS)
    (folder / "pipelines.yaml").write_text('shouts:\n- {name: shout, import: "shouting:Shout", params: {word: HEY}}\n')
    made = Served(folder / "data", EVENTPROC_HANDLER_PATH=str(folder / "code"))
    made.start()
    conn = made.connect()
    conn.put_hook("shop.*", summary="a shop")
    conn.put_hook("loud.*", summary="a noise")
    register_pipeline("bill", [Bill], conn=conn, params={"Bill": {"tax": 5}}, notify_on_failure="ops@example.com")
    pushed = made.cli("pipelines", "push", "pipelines.yaml", "--isolation", "batch", "--json")
    assert pushed.returncode == 0, pushed.stderr
    pushed = made.cli("triggers", "push", "triggers.yaml")
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.splitlines() == ["orders: version 0", "imports: version 0"]
    yield made
    made.close()


@pytest.fixture
def conn(served: Served) -> Connection:
    return served.connect()


def order(conn: Connection, name: str, *prices: int, closed: bool = True) -> None:
    for number, price in enumerate(prices):
        conn.emit("shop.item", {"order": name, "price": price}, id=f"{name}-{number}")
    if closed:
        conn.emit("shop.closed", {"order": name}, id=f"{name}-closed")


def stream_of(conn: Connection, name: str) -> dict[str, Any]:
    (found,) = conn.streams(trait=f"order:{name}")
    return found


def wait_for(conn: Connection, name: str, state: str) -> dict[str, Any]:
    wait_until(lambda: stream_of(conn, name)["state"] == state, what=f"{name} is {state}")
    return stream_of(conn, name)


def test_a_stream_fires_and_its_pipeline_makes_an_event(conn: Connection) -> None:
    order(conn, "a1", 10, 20)
    stream = wait_for(conn, "a1", "completed")
    bill = conn.event("bill-a1")
    assert bill["payload"] == {"total": 35}
    assert bill["caused_by_run"] == stream["run"]
    held = conn.stream(stream["id"], events=True)["held"]
    assert [event["id"] for event in held] == ["a1-0", "a1-1", "a1-closed"]


def test_a_stream_in_error_says_why_and_goes_through_again_after_a_reset(served: Served, conn: Connection) -> None:
    order(conn, "b1", 13, 1)
    stream = wait_for(conn, "b1", "error")
    assert stream["failure"]["message"] == "13 brings bad luck"
    assert "Bill" in stream["failure"]["traceback"] or "handle_events" in stream["failure"]["traceback"]
    shown = served.cli("streams", "show", str(stream["id"]), "--events")
    assert "13 brings bad luck" in shown.stdout
    assert "b1-closed" in shown.stdout
    wait_until(lambda: any(mail for mail in (served.data / "mail").glob("*.eml")), what="the mail of the failure")
    register_pipeline("bill", [(Bill, {"tax": 7})], conn=conn)
    again = served.cli("streams", "reset", "--trigger", "orders", "--trait", "order:b1", "--json")
    assert json.loads(again.stdout) == {"count": 1, "ids": [stream["id"]], "refused": []}
    assert wait_for(conn, "b1", "error")["attempts"] >= 1
    refused = served.cli("streams", "reset", "999999")
    assert refused.returncode == 5
    assert "there is no stream 999999" in refused.stderr


def test_classes_from_the_operators_directory_run_in_the_child_only(conn: Connection) -> None:
    conn.emit("loud.noise", {"order": "c1"})
    stream = wait_for(conn, "c1", "completed")
    logs = "".join(chunk["text"] for chunk in conn.logs(stream["run"]))
    assert logs.startswith("HEY c1")
    assert "committed" in logs


def test_why_a_trigger_did_not_fire(served: Served, conn: Connection) -> None:
    order(conn, "d1", 10)
    conn.emit("shop.lost", {"other": 1}, id="d1-lost")
    found = conn.explain_trigger("orders", "d1-closed")
    assert found["matches"]
    assert found["distinguished_by"] == {"order": "d1"}
    assert [(each["need"], each["have"], each["this_event_counts"]) for each in found["fire_criteria"]] == [
        (1, 1, True),
        (2, 1, False),
    ]
    said = served.cli("triggers", "explain", "orders", "d1-lost")
    assert said.stdout.strip() == "does not match: not 'order'"

    def counted() -> bool:
        checks = conn.trigger("orders")["checks"]
        return {"not 'order'", "Not enough matching criteria"} <= {each["name"] for each in checks}

    wait_until(counted, what="the counters")
    shown = served.cli("triggers", "show", "orders")
    assert "Match Criteria:" in shown.stdout
    assert " - not 'order' = " in shown.stdout
    assert served.cli("triggers", "clear", "orders").returncode == 0


def test_events_are_found_by_type_time_and_traits(served: Served, conn: Connection) -> None:
    order(conn, "e1", 77, 78, closed=False)
    order(conn, "e2", 77, closed=False)
    found = served.cli("events", "find", "--hook", "shop.item", "-t", "price:77", "--json")
    assert [event["id"] for event in json.loads(found.stdout)] == ["e2-0", "e1-0"]
    found = served.cli("events", "find", "-t", "price:77", "-t", 'order:"e1"', "--since", "2020-01-01", "--json")
    assert [event["id"] for event in json.loads(found.stdout)] == ["e1-0"]
    assert json.loads(served.cli("events", "find", "-t", "price:77.5", "--json").stdout) == []


def test_streams_are_deleted_and_their_events_stay(served: Served, conn: Connection) -> None:
    order(conn, "f1", 1, closed=False)
    stream = stream_of(conn, "f1")
    assert conn.delete_streams(stream["id"])["ids"] == [stream["id"]]
    assert conn.streams(trait="order:f1") == []
    assert conn.event("f1-0")["payload"]["price"] == 1
    assert "active" in served.cli("streams", "counts").stdout


@pytest.mark.parametrize("command", ["reset", "delete"])
def test_the_command_line_changes_all_streams_only_where_that_is_said(served: Served, command: str) -> None:
    assert "--all" in served.cli("streams", command).stderr
    for both in (("1", "--all"), ("1", "--trigger", "orders"), ("--all", "--state", "error")):
        said = served.cli("streams", command, *both)
        assert (said.returncode, "one of these" in said.stderr) == (2, True), said.stderr


def test_a_wrong_trigger_file_changes_nothing_and_says_where(served: Served, conn: Connection, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(TRIGGERS.replace("orders", "others") + "- name: x\n  expiraton: 1\n")
    said = served.cli("triggers", "push", str(wrong))
    assert said.returncode == 2
    assert "wrong.yaml" in said.stderr
    assert "expiration" in said.stderr
    assert [trigger["name"] for trigger in conn.triggers()] == ["orders", "imports"]
    wrong.write_text(TRIGGERS.replace("pipeline: bill", "pipeline: bil"))
    assert "did you mean 'bill'" in served.cli("triggers", "push", str(wrong)).stderr


def test_refusals_name_what_there_is(conn: Connection) -> None:
    with pytest.raises(NotFound, match="did you mean 'orders'"):
        conn.trigger("order")
    with pytest.raises(NotFound, match="did you mean 'bill'"):
        conn.pipeline("bil")
    with pytest.raises(InvalidInput, match="state"):
        conn.streams(state="activ")
    for change in (conn.reset_streams, conn.delete_streams):
        with pytest.raises(InvalidInput, match=r"say which streams.*'all': true"):
            change()
        with pytest.raises(InvalidInput, match="not both"):
            change(1, trigger="orders")
        with pytest.raises(InvalidInput, match="give no ids and no filter"):
            change(trigger="orders", all=True)
    assert conn.reset_streams(all=True)["refused"] == []


def test_pipelines_and_triggers_are_listed_paused_and_deleted(served: Served, conn: Connection) -> None:
    listed = served.cli("pipelines", "list").stdout
    assert "bill" in listed
    assert "shouts" in listed
    shown = json.loads(served.cli("pipelines", "show", "shouts", "--json").stdout)
    assert [(each["name"], each["params"]) for each in shown["handlers"]] == [("shout", {"word": "HEY"})]
    assert served.cli("pipelines", "pause", "shouts").returncode == 0
    conn.emit("loud.noise", {"order": "g1"})
    wait_for(conn, "g1", "firing")
    assert served.cli("pipelines", "resume", "shouts").returncode == 0
    wait_for(conn, "g1", "completed")
    assert served.cli("triggers", "pause", "imports").returncode == 0
    conn.emit("loud.noise", {"order": "g2"})
    assert conn.streams(trait="order:g2") == []
    assert served.cli("triggers", "resume", "imports").returncode == 0
    assert served.cli("triggers", "delete", "imports").returncode == 0
    assert "imports" not in served.cli("triggers", "list").stdout
    assert served.cli("pipelines", "delete", "shouts").returncode == 0
    assert [pipeline["name"] for pipeline in conn.pipelines()] == ["bill"]
    assert all(handler.hook != "stream.pipeline" for handler in conn.list_handlers())


def test_winchesters_questions_about_streams_and_events_are_answered(conn: Connection) -> None:
    from eventproc.compat.winchester.modules import db, models

    interface = db.DBInterface({"url": "sqlite://"}, connection=conn)
    noon = dt.datetime(2015, 2, 27, 12)  # noqa: DTZ001 - winchester's times are naive
    interface.create_event("w-1", "shop.item", noon, {"order": "w1", "price": 13, "launched_at": noon})
    with pytest.raises(db.DuplicateError, match="w-1"):
        interface.create_event("w-1", "shop.item", noon, {"order": "w1", "price": 13, "launched_at": noon})
    event = {
        "message_id": "w-1",
        "event_type": "shop.item",
        "timestamp": noon,
        "order": "w1",
        "price": 13,
        "launched_at": noon,
    }
    assert interface.get_event_by_message_id("w-1") == event
    (found,) = interface.find_events(noon - dt.timedelta(microseconds=1), noon, "shop.item", {"order": "w1"})
    assert found == {**event, "_mark": found["_mark"]}
    assert interface.find_events(noon, traits={"order": "w1"}) == []
    assert interface.find_events(traits={"order": "w1"}, mark=found["_mark"]) == []
    assert interface.find_events(traits={"order": "w1"}, count=True) == [{"count": 1}]
    with pytest.raises(db.NoSuchEventError):
        interface.get_event_by_message_id("w-0")

    order(conn, "w2", 13, 1)
    wait_for(conn, "w2", "error")
    traits = {"order": "w2"}
    (shown,) = interface.find_streams(name="orders", state="error", distinguishing_traits=traits, include_events=True)
    assert (shown["state"], shown["distinguishing_traits"], len(shown["events"])) == ("error", traits, 3)
    stream = interface.get_stream_by_id(shown["id"])
    assert stream.state is models.StreamState.error
    assert [event["message_id"] for event in interface.get_stream_events(stream)] == ["w2-0", "w2-1", "w2-closed"]
    assert interface.stream_has_dist_trait(stream.id, "order", "w2") == traits
    assert interface.find_streams(mark=f"+{stream.id - 1:x}", limit=1)[0]["_mark"] == f"+{stream.id:x}"
    assert interface.find_streams(distinguishing_traits=traits, count=True) == [{"count": 1}]
    assert interface.reset_stream(stream).state_serial_no > stream.state_serial_no
    wait_for(conn, "w2", "error")
    interface.purge_stream(stream)
    with pytest.raises(db.NoSuchStreamError):
        interface.purge_stream(stream)
    assert interface.find_streams(stream_id=stream.id) == []
    with pytest.raises(AttributeError, match="engine does that"):
        interface.create_stream("orders", event, {}, "$last + 1d")
