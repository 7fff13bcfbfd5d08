"""A winchester configuration moves into a running platform, is fed notifications, and does its work there."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

from waiting import wait_until
from winchester_tables import Source

FILES = {
    "winchester.yaml": """
database: {url: "sqlite:///w.db"}
distiller_config: event_definitions.yaml
trigger_definitions: triggers.yaml
pipeline_config: pipelines.yaml
pipeline_handlers: {usage: "winchester.pipeline_handler:UsageHandler", own: "own_handlers:Own"}
""",
    "pipelines.yaml": "fire: [usage, own]\n",
    "triggers.yaml": """
- name: usage
  distinguished_by: [instance_id]
  expiration: "$last + 3650d"
  fire_pipeline: fire
  match_criteria: [{event_type: [compute.*, "!*.verified", "!*.failed", "!*.warnings"]}]
  fire_criteria: [{event_type: compute.instance.exists}]
""",
    "event_definitions.yaml": """
- event_type: compute.*
  traits:
    instance_id: {fields: payload.instance_id}
    launched_at: {type: datetime, fields: payload.launched_at}
    state: {fields: payload.state}
""",
    "own_handlers.py": """
from winchester.pipeline_handler import PipelineHandlerBase


class Own(PipelineHandlerBase):
    def handle_events(self, events, env):
        self.count = len(events)
        return events

    def commit(self):
        print("committed", self.count)

    def rollback(self):
        print("rolled back")
""",
}
ID = "2cf4e3a4-4a5e-4d57-8d0a-7b2f7a1ce8f1"


def test_a_configuration_moves_in_and_works(serve: Any, tmp_path: Path) -> None:
    home = tmp_path / "winchester"
    home.mkdir()
    for name, text in FILES.items():
        (home / name).write_text(text)
    served = serve(EVENTPROC_HANDLER_PATH=str(home))

    def eventproc(*arguments: str, given: str = "") -> Any:
        done = served.cli("--json", "winchester", *arguments, stdin=given)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    config = str(home / "winchester.yaml")
    first = eventproc("import", config)
    assert (first["pipelines"], first["triggers"]) == (["fire"], ["usage"])
    assert eventproc("import", config) == first
    payload = {"instance_id": "i", "launched_at": "2015-02-01 00:00:00", "state": "active"}
    notification = {
        "event_type": "compute.instance.exists",
        "message_id": ID,
        "timestamp": "2015-02-27",
        "payload": payload,
    }
    fed = eventproc("run", config, given="\n".join([json.dumps(notification)] * 2))
    assert (fed["events"], fed["duplicates"], fed["refused"]) == (1, 1, [])
    conn = served.connect()

    def completed() -> Any:
        return [stream for stream in conn.streams() if stream["state"] == "completed"]

    wait_until(completed, timeout_s=60, what="the stream to fire")
    found = conn.request("GET", "/events", params={"hook": "compute.instance.exists.verified"})["items"]
    assert [event["payload"]["original_message_id"] for event in found] == [ID]


def test_the_streams_of_a_winchester_database_go_on(serve: Any, tmp_path: Path) -> None:
    home = tmp_path / "winchester"
    home.mkdir()
    for name, text in FILES.items():
        (home / name).write_text(text)
    noon = dt.datetime(2015, 2, 27, 12)  # noqa: DTZ001 - winchester's times are naive
    far = noon.replace(year=2100)
    source = Source(f"sqlite:///{home / 'w.db'}")
    for instance in ("i", "j"):
        number = source.event(f"start-{instance}", "compute.instance.start", noon, instance_id=instance)
        source.stream("usage", 1 if instance == "i" else 4, {number: noon}, expire=far, instance_id=instance)
    lost = source.event("lost", "compute.instance.start", noon, instance_id="k")
    source.stream("unknown", 1, {lost: noon}, expire=far, instance_id="k")
    source.close()
    served = serve(EVENTPROC_HANDLER_PATH=str(home))
    config = str(home / "winchester.yaml")
    assert served.cli("winchester", "import", config).returncode == 0

    def import_streams(*options: str) -> dict[str, Any]:
        done = served.cli("--json", "winchester", "import-streams", source.url, *options)
        assert done.returncode == 1, done.stderr  # one has no trigger here
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    conn = served.connect()
    tried = import_streams("--dry-run")
    assert conn.streams() == []
    done = import_streams()
    assert {**tried, "dry_run": False} == done
    assert (done["states"], done["unknown_triggers"]) == ({"active": 1, "error": 1}, {"unknown": 1})
    notification = {
        "event_type": "compute.instance.exists",
        "message_id": ID,
        "timestamp": "2015-02-27 18:00:00",
        "payload": {"instance_id": "i", "state": "active"},
    }
    assert served.cli("winchester", "run", config, stdin=json.dumps(notification)).returncode == 0

    def ended() -> Any:
        return [stream for stream in conn.streams() if stream["state"] == "completed"]

    wait_until(ended, timeout_s=120, what="the stream to fire")
    [stream] = ended()
    assert (stream["distinguished_by"], stream["events"]) == ({"instance_id": "i"}, 2)
