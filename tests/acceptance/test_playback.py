"""`eventproc playback FILE` into a running platform: days of years ago and of today, stopped, killed, cut off."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from serving import Served
from waiting import wait_until

from eventproc.playback import Player

TRIGGERS = """
- name: session
  distinguished_by: [user]
  expiration: "$last + 10m"
  fire_delay: 60
  fire_pipeline: count
  expire_pipeline: count
  match_criteria:
  - event_type: ["app.*", "!app.counted"]
  fire_criteria:
  - event_type: app.logout
- name: counted
  distinguished_by: [user]
  expiration: "$last + 1h"
  expire_pipeline: count
  match_criteria: [{event_type: app.counted}]
  fire_criteria: [{event_type: app.counted, number: 1000}]
"""
OLD = dt.datetime(2014, 8, 1, 6, tzinfo=dt.UTC)
HANDLERS = """
import datetime


class Count:
    def handle_events(self, events, env):
        last = events[-1]
        if env["stream_name"] == "counted":
            return events
        made = {
            "message_id": "count-%s" % events[0]["message_id"],
            "event_type": "app.counted",
            "timestamp": last["timestamp"] + datetime.timedelta(seconds=1),
            "user": last["user"],
            "number": len(events),
        }
        return events + [made]
"""


def recording(path: Path, begin: dt.datetime, name: str, number: int = 60) -> Path:
    """Write events of three users whose times begin there, some a little out of order."""
    dice = random.Random(7)
    lines, seconds = [], 0
    for index in range(number):
        seconds += dice.choice([1, 5, 20, 90, 400])
        at = begin + dt.timedelta(seconds=max(0, seconds - dice.choice([0, 0, 0, 30])))
        kind = dice.choice(["login", "click", "click", "logout"])
        user = f"{name}-{dice.choice('abc')}"
        event = {"event_type": f"app.{kind}", "timestamp": at.isoformat(), "user": user}
        lines.append(json.dumps({"message_id": f"{name}{index}", **event}) + "\n")
    path.write_bytes(gzip.compress("".join(lines).encode()) if path.suffix == ".gz" else "".join(lines).encode())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "triggers.yaml").write_text(TRIGGERS)
    (tmp_path / "pipelines.yaml").write_text('count: ["session_handlers:Count"]\n')
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "session_handlers.py").write_text(HANDLERS)
    return tmp_path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.external_service)])
def served(request: pytest.FixtureRequest, folder: Path, serve: Any) -> Served:
    """Return a platform that has the hook, the pipeline and the triggers."""
    environ = {"EVENTPROC_HANDLER_PATH": str(folder / "handlers")}
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        environ["EVENTPROC_DATABASE_URL"] = server.url(server.create())
    found: Served = serve(**environ)
    found.connect().put_hook("app.*", summary="an application")
    for kind in ("pipelines", "triggers"):
        done = found.cli(kind, "push", str(folder / f"{kind}.yaml"))
        assert done.returncode == 0, done.stderr
    return found


Streams = list[tuple[str, str, str, int]]


def expected(folder: Path, path: Path) -> Streams:
    """Return the streams that a playback here makes of a recording."""
    with Player(handler_path=[folder / "handlers"]) as player:
        player.add_pipelines(folder / "pipelines.yaml")
        player.add_triggers(folder / "triggers.yaml")
        player.play(path)
        return sorted((s["trigger"], s["distinguished_by"]["user"], s["state"], s["events"]) for s in player.report())


def streams_of(served: Served, name: str) -> Streams:
    """Return the streams of one recording in the platform."""
    streams = served.json("streams", "list", "--limit", "1000")
    rows = [(s["trigger"], s["distinguished_by"]["user"], s["state"], s["events"]) for s in streams]
    return sorted(row for row in rows if row[1].startswith(f"{name}-"))


def played(served: Served, path: Path, *more: str) -> dict[str, Any]:
    found: dict[str, Any] = served.json("playback", str(path), *more)
    return found


def begin(served: Served, path: Path, speed: str) -> subprocess.Popen[str]:
    """Start a slow playback and wait until it is under way."""
    before = count(served)
    process = subprocess.Popen(
        [*served.command, "playback", str(path), "--speed", speed],
        env=served.environ,
        cwd=served.data.parent,
        stderr=subprocess.PIPE,
        text=True,
    )

    def plays() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"the playback ended with {process.returncode}: {process.communicate()[1]}")
        return count(served) > before

    wait_until(plays, what="it plays", timeout_s=90.0)
    return process


def count(served: Served) -> int:
    """Return how many events of a recording of old are there."""
    return sum(1 for event in served.connect().events(limit=1000) if event["id"].startswith("old"))


def test_days_of_today_and_of_years_ago_give_what_they_give_here(served: Served, folder: Path) -> None:
    conn = served.connect()
    for name, at in (("today", dt.datetime.now(dt.UTC) - dt.timedelta(hours=6)), ("old", OLD)):
        path = recording(folder / f"{name}.jsonl.gz", at, name)
        found = played(served, path, "--speed", "max")
        assert (found["events"], found["refused"], found["cut"]) == (60, [], None)
        assert found["fired"] + found["expired"] == len(streams_of(served, name))
        assert streams_of(served, name) == expected(folder, path)
        counted = [event for event in conn.events(hook="app.counted") if event["payload"]["user"].startswith(name)]
        assert {event["time"][:4] for event in counted} == {str(at.year)}
    accepted = conn.emit("app.click", {"user": "later"})
    assert conn.event(accepted["id"])["time"][:4] == str(dt.datetime.now(dt.UTC).year)


def test_a_playback_that_was_stopped_or_killed_goes_on_and_two_do_not_mix(served: Served, folder: Path) -> None:
    path = recording(folder / "old.jsonl", OLD, "old")
    other = recording(folder / "other.jsonl", OLD, "other")
    first = begin(served, path, "60")
    refused = served.cli("playback", str(other))
    assert (refused.returncode, "is being played" in refused.stderr) == (5, True)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 130
    assert "the same command goes on there" in said
    assert "was stopped behind event" in served.cli("doctor").stdout
    refused = served.cli("playback", str(other))
    assert (refused.returncode, "go on with that one first" in refused.stderr) == (5, True)
    accepted = served.connect().emit("app.never", {"user": "meanwhile"})
    assert served.connect().event(accepted["id"])["time"].startswith("2014-08-01")

    second = begin(served, path, "60")
    second.kill()
    second.communicate()
    found = played(served, path)
    assert found["from"] > 0
    assert found["from"] + found["events"] == 60
    assert found["duplicates"] == 0
    assert streams_of(served, "old") == expected(folder, path)


def test_a_recording_that_is_cut_off_goes_on_when_it_is_whole(served: Served, folder: Path) -> None:
    for name, suffix in (("plain", ".jsonl"), ("packed", ".jsonl.gz")):
        path = recording(folder / f"{name}{suffix}", OLD, name)
        whole = path.read_bytes()
        cut = len(whole) * 2 // 3
        if suffix == ".jsonl":
            cut = whole.index(b"\n", cut) + 30  # in the middle of a line
        path.write_bytes(whole[:cut])
        done = served.cli("playback", str(path))
        assert done.returncode == 1
        assert name in done.stderr
        assert "the same command goes on there" in done.stderr
        assert any(state == "active" for _, _, state, _ in streams_of(served, name))
        path.write_bytes(whole)
        found = played(served, path)
        assert found["from"] > 0
        assert found["from"] + found["events"] == 60
        assert streams_of(served, name) == expected(folder, path)


def test_what_is_due_later_can_be_left_and_ended(served: Served, folder: Path) -> None:
    path = recording(folder / "old.jsonl", OLD, "old")
    played(served, path, "--no-expire")
    waiting = [row for row in streams_of(served, "old") if row[2] == "active"]
    assert waiting
    assert "the end of the recording old.jsonl" in served.cli("doctor").stdout
    assert streams_of(served, "old") != expected(folder, path)
    assert served.json("playback", "--end")["ended"] == "old.jsonl"
    wait_until(
        lambda: all(state == "completed" for _, _, state, _ in streams_of(served, "old")),
        what="they expire by the world's time",
    )
    assert served.json("playback", "--end")["ended"] is None


def test_without_workers_or_among_other_streams_nothing_is_played(served: Served, folder: Path) -> None:
    path = recording(folder / "old.jsonl", OLD, "old")
    served.connect().emit("app.login", {"user": "present"})
    refused = served.cli("playback", str(path))
    assert (refused.returncode, "streams wait in this database" in refused.stderr) == (5, True)
    alone = served.cli("playback", str(path), EVENTPROC_DATA=str(folder / "elsewhere"), EVENTPROC_DATABASE_URL="")
    assert alone.returncode == 6, alone.stderr
    assert "start `eventproc serve`" in alone.stderr
    assert served.cli("playback", str(path), "--report", "x.json").returncode == 2
    assert streams_of(served, "old") == []
