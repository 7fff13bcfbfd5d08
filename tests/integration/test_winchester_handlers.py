"""Handlers written for winchester run unchanged in the sandbox, and winchester is not installed there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eventproc.compat.winchester.configuration import SHIMS, read_configuration
from eventproc.compat.winchester.replay import replay, set_up
from eventproc.errors import InvalidInput
from eventproc.model import NewEvent, StreamState
from eventproc.playback import Player, playback_on

HANDLERS = """
import datetime
from winchester.pipeline_handler import PipelineHandlerBase, UsageHandler


class Collector(PipelineHandlerBase):
    def __init__(self, key="usage", **kw):
        super(Collector, self).__init__(**kw)
        self.key = key

    def handle_events(self, events, env):
        assert isinstance(events[0]["timestamp"], datetime.datetime) and events[0]["timestamp"].tzinfo is None
        assert isinstance(events[0]["launched_at"], datetime.datetime)
        env[self.key] = [{"event_type": event["event_type"], "at": event["timestamp"]} for event in events]
        return events

    def commit(self):
        print("committed")

    def rollback(self):
        print("rolled back")


class OwnUsage(UsageHandler):
    def _get_core_fields(self):
        return ["launched_at", "flavor"]
"""
FILES = {
    "winchester.yaml": """
config_path: .
logfile: worker.log
database: {url: "sqlite:///w.db"}
distiller_config: event_definitions.yaml
trigger_definitions: triggers.yaml
pipeline_config: pipelines.yaml
distiller_trait_plugins: {shout: "./code|own_traits:Shout"}
pipeline_handlers:
    collect: ./code|own_handlers:Collector
    usage: own_handlers:OwnUsage
    log: winchester.pipeline_handler:LoggingHandler
    amqp: winchester.pipeline_handler:NotabeneHandler
    atom: winchester.pipeline_handler:AtomPubHandler
""",
    "pipelines.yaml": """
fire:
    - log
    - {name: collect, params: {key: mine}}
    - usage
    - {name: amqp, params: {queue_name: monitor.info, exchange: nova, env_keys: [mine]}}
    - {name: atom, params: {url: "https://8.8.8.8/feed", event_types: "*.verified", title: "a <b>"}}
""",
    "triggers.yaml": """
- name: usage
  distinguished_by: [instance_id]
  expiration: "$last + 1h"
  fire_pipeline: fire
  match_criteria: [{event_type: [compute.*, "!*.verified", "!*.failed", "!*.warnings"]}]
  fire_criteria: [{event_type: compute.instance.exists}]
""",
    "event_definitions.yaml": """
- event_type: compute.*
  traits:
    instance_id: {fields: payload.instance_id}
    launched_at: {type: datetime, fields: payload.launched_at}
    state: {fields: payload.state, plugin: shout}
""",
    "code/own_handlers.py": HANDLERS,
    "code/own_traits.py": """
class Shout(object):
    def __init__(self, **kw):
        pass

    def trait_value(self, match_list):
        return match_list[0][1].lower() if match_list else None
""",
}
ID = "2cf4e3a4-4a5e-4d57-8d0a-7b2f7a1ce8f1"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "winchester.yaml"


def notification(message_id: str = ID, **payload: Any) -> dict[str, Any]:
    return {
        "event_type": "compute.instance.exists",
        "message_id": message_id,
        "timestamp": "2015-02-27 10:00:00",
        "payload": {"instance_id": "i", "launched_at": "2015-02-01 00:00:00", "state": "ACTIVE", **payload},
    }


def test_own_and_bundled_handlers_do_their_work(config: Path) -> None:
    found = read_configuration(config)
    assert [warning for warning in found.warnings if "logfile" in warning]
    assert found.distiller is not None
    event = found.distiller.distill(notification())
    assert isinstance(event, NewEvent)
    assert event.payload["state"] == "active"
    with Player(handler_path=[SHIMS, *found.handler_path]) as player:
        set_up(player.harness, found)
        playback = playback_on(player.harness)
        playback.play([event])
        playback.drain()
        (stream,) = player.harness.streams
        assert stream.state is StreamState.COMPLETED, stream.failure
        made = [each for each in player.harness.events if each.hook == "compute.instance.exists.verified"]
        assert [each.payload["original_message_id"] for each in made] == [ID]
        with player.harness.store.read() as tx:
            atom, amqp = tx.outbox.page()
    assert (amqp.target, amqp.headers["declare"], amqp.headers["queue"]) == (
        "nova/monitor.info",
        "topic",
        "monitor.info",
    )
    assert json.loads(amqp.body) == {"event_type": "compute.instance.exists", "at": "2015-02-27 10:00:00"}
    assert atom.target == "https://8.8.8.8/feed"
    text = atom.body.decode()
    assert f"urn:uuid:{made[0].id}" in text
    assert f'term="original_message_id:{ID}"' in text
    assert "a &lt;b&gt;" in text
    assert "2015-02-27T10:00:00Z" in text  # winchester's own JSON format fails on every event


def test_a_replay_runs_own_handlers_from_their_directories(config: Path, tmp_path: Path) -> None:
    lines = [
        notification(),
        notification(),
        notification("not-a-uuid", instance_id="j"),
        {"event_type": "image.update"},
    ]
    day = tmp_path / "day.jsonl"
    day.write_text("\n".join([*map(json.dumps, lines), "{broken"]))
    report = replay(read_configuration(config), day, interleave=True)
    assert report["instances"]["i"]["final"] == "verified"
    assert report["instances"]["j"] == {"final": "stream_error", "results": []}
    meta = report["meta"]
    assert (meta["notifications"], meta["events"], meta["duplicates"]) == (5, 2, 1)
    assert [each["line"] for each in meta["refused"]] == [4, 5]


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("winchester.yaml", "pipeline_config: pipelines.yaml\n", "", "setting pipeline_config is missing!"),
        (
            "winchester.yaml",
            "triggers.yaml",
            "trigers.yaml",
            "winchester.yaml:6: trigger_definitions: there is no file",
        ),
        (
            "winchester.yaml",
            'url: "sqlite',
            'uri: "sqlite',
            "winchester.yaml:4: database: Required Configuration setting",
        ),
        ("winchester.yaml", ":LoggingHandler", ":LogginHandler", "no 'LogginHandler'; did you mean 'LoggingHandler'?"),
        (
            "winchester.yaml",
            "winchester.pipeline_handler:Log",
            "winchester.worker:Log",
            "no module 'winchester.worker'",
        ),
        ("winchester.yaml", "pipelines.yaml", "pipelines.json", "Unknown config file type"),
        ("winchester.yaml", "own_handlers:OwnUsage", "own_handlers.OwnUsage", "names no code: write module:Class"),
        (
            "pipelines.yaml",
            "- usage",
            "- usge",
            "pipelines.yaml:5: fire[2]: Unknown handler in pipeline config: 'usge'",
        ),
        ("pipelines.yaml", "params: {key", "parms: {key", "did you mean 'params'?"),
        ("triggers.yaml", "fire_pipeline: fire", "fire_pipeline: fir", "triggers.yaml:5: trigger 'usage'"),
    ],
)
def test_mistakes_name_file_and_line(config: Path, name: str, old: str, new: str, says: str) -> None:
    path = config.parent / name
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InvalidInput) as caught:
        read_configuration(config)
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("winchester.yaml", "trigger_definitions", "trigger_definition", "did you mean 'trigger_definitions'?"),
        ("winchester.yaml", "trigger_definitions", "trigger_definition", "nothing collects events"),
        ("winchester.yaml", "own_handlers:OwnUsage", "own_handlrs:OwnUsage", "no module 'own_handlrs'"),
        ("winchester.yaml", "logfile:", "trim_events: true\ntrim_events_age: 14x\nx:", "EVENTPROC_RETENTION__EVENTS"),
        (
            "winchester.yaml",
            "logfile:",
            "trim_events: true\ntrim_events_age: 14x\nx:",
            "yaml:4: trim_events_age: winchester",
        ),
        ("winchester.yaml", "logfile:", "purge_completed_streams: false\nx:", "EVENTPROC_RETENTION__STREAMS"),
        ("winchester.yaml", "logfile:", "time_sync_endpoint: http://t\nx:", "EVENTPROC_TIME_SYNC"),
        (
            "triggers.yaml",
            "[instance_id]",
            "[instnce_id]",
            "the trait 'instnce_id' that distinguishes its streams; did you",
        ),
    ],
)
def test_what_would_do_nothing_is_told(config: Path, name: str, old: str, new: str, says: str) -> None:
    path = config.parent / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert says in "\n".join(read_configuration(config).warnings)
