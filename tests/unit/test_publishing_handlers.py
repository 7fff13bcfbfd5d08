"""The ready-made handlers that tell other systems of events."""

from __future__ import annotations

import json
from typing import Any

from eventproc import plugins
from eventproc.model import Outgoing
from eventproc.testing import Harness

DIRECTORY = plugins.bundled_dir("handlers")


def ready_made(stem: str) -> Any:
    (found,) = plugins.marked_handlers(plugins.load(DIRECTORY / f"{stem}.py"))
    return found.target


def outbox(platform: Harness) -> list[Outgoing]:
    with platform.store.read() as tx:
        return tx.outbox.page()[::-1]


def test_publish_events_publishes_each_event_of_its_hook() -> None:
    with Harness() as platform:
        platform.register(ready_made("publish_events"), hook="schedule.tick")
        sent = platform.emit("schedule.tick")
        platform.run_until_idle()
        assert [(run.state, run.failure) for run in platform.runs] == [("succeeded", None)]
        (message,) = outbox(platform)
    assert (message.kind, message.target, message.headers["declare"]) == ("amqp", "events/schedule.tick", "topic")
    assert json.loads(message.body)["message_id"] == sent.id


def test_log_events_writes_what_a_pipeline_gets() -> None:
    with Harness() as platform:
        platform.register_pipeline("log", [(ready_made("log_events"), {"members": True})])
        platform.add_trigger(
            name="t",
            expiration="$last + 1h",
            fire_pipeline="log",
            fire_criteria=[{"number": 2}],
            match_criteria=[{"event_type": "order.*"}],
        )
        platform.add_hook("order.*")
        for number in range(2):
            platform.emit("order.item", {"price": number}, id=f"i{number}")
        platform.run_until_idle()
        (run,) = platform.runs
    assert run.result == {"events": 2, "new": []}
    assert "2 events" in run.logs
    assert "order.item i0 at 2" in run.logs
    assert "'price': 1" in run.logs


def test_in_a_pipeline_they_take_parameters() -> None:
    with Harness() as platform:
        platform.register_pipeline(
            "tell",
            [
                (
                    ready_made("publish_events"),
                    {"exchange": "usage", "event_types": ["schedule.*"], "routing_key": "k"},
                ),
                (
                    ready_made("post_events"),
                    {
                        "url": "https://8.8.8.8/hook",
                        "headers": {"X-Key": "1"},
                        "login": {"server": "https://8.8.4.4/tokens", "user": "u", "key": "k"},
                        "accept": [409],
                    },
                ),
            ],
        )
        platform.add_trigger(
            name="t",
            expiration="$last + 1h",
            fire_pipeline="tell",
            fire_criteria=[],
            match_criteria=[{"event_type": "schedule.tick"}],
        )
        platform.emit("schedule.tick")
        platform.run_until_idle()
        assert [stream.state.label for stream in platform.streams] == ["completed"]
        amqp, http = outbox(platform)
    assert amqp.target == "usage/k"
    assert http.target == "https://8.8.8.8/hook"
    assert http.headers["x-event-type"] == "schedule.tick"
    assert http.headers["x-key"] == "1"
    login = {name: text for name, text in http.headers.items() if name.startswith("login.")}
    assert login == {"login.server": "https://8.8.4.4/tokens", "login.user": "u", "login.key": "k"}
    assert http.headers["accept-status"] == "409"
