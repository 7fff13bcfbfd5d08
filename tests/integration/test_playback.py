"""Playback: a recorded day goes through triggers and pipelines at its own times, in the sandbox."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eventproc.engine.accept import accept_events
from eventproc.engine.clock import ManualClock, SystemClock
from eventproc.engine.firing import fire_due_streams
from eventproc.errors import InvalidInput
from eventproc.model import NewEvent, StreamState
from eventproc.model.environments import WorkerState
from eventproc.playback import Player, add_any_hook, platform, playback_on, trial
from eventproc.playback.place import describe
from eventproc.playback.recording import Recording, read_recording
from eventproc.registry.triggers import parse_triggers
from eventproc.store import open_store
from eventproc.testing import Harness

START = "2026-01-02T{:02}:{:02}:{:02}Z"
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
  expire_pipeline: none
  match_criteria: [{event_type: app.counted}]
  fire_criteria: [{event_type: app.counted, number: 3}]
"""
HANDLERS = """
import datetime


class Count:
    def __init__(self, what="app.counted"):
        self.what = what

    def handle_events(self, events, env):
        last = events[-1]
        made = {
            "message_id": "count-%s" % events[0]["message_id"],
            "event_type": self.what,
            "timestamp": last["timestamp"] + datetime.timedelta(seconds=1),
            "user": last["user"],
            "number": len(events),
        }
        return events + [made]

    def commit(self):
        pass

    def rollback(self):
        pass


class Nothing:
    def handle_events(self, events, env):
        return events
"""
PIPELINES = """
count: ["session_handlers:Count"]
none: [{name: "nothing", import: "session_handlers:Nothing"}]
"""


def day(number: int = 300) -> list[dict[str, Any]]:
    """Events of five users, in order of time but for some."""
    dice = random.Random(7)
    events = []
    second = 0
    for index in range(number):
        second += dice.choice([1, 5, 20, 90, 400])
        at = max(0, second - dice.choice([0, 0, 0, 30]))
        kind = dice.choice(["login", "click", "click", "logout"])
        time = START.format(at // 3600 % 24, at // 60 % 60, at % 60)
        user = dice.choice("abcde")
        events.append({"message_id": f"e{index}", "event_type": f"app.{kind}", "timestamp": time, "user": user})
    return events


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "triggers.yaml").write_text(TRIGGERS)
    (tmp_path / "pipelines.yaml").write_text(PIPELINES)
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "session_handlers.py").write_text(HANDLERS)
    with gzip.open(tmp_path / "day.jsonl.gz", "wt") as file:
        for event in day():
            file.write(json.dumps(event) + "\n")
    return tmp_path


def streams_of(harness: Harness) -> list[tuple[str, Any, tuple[str, ...]]]:
    with harness.store.read() as tx:
        held = tx.streams.events([stream.id for stream in harness.streams])
    ids = {stream_id: tuple(event.id for event in events) for stream_id, events in held.items()}
    return sorted((stream.name, stream.distinguished_by["user"], ids[stream.id]) for stream in harness.streams)


def one_by_one(events: Sequence[NewEvent], text: str) -> list[tuple[str, Any, tuple[str, ...]]]:
    """The same in the plainest way: each event by itself, and before it all that is due, each at its own time."""
    with Harness() as harness:
        add_any_hook(harness)
        definitions = [
            replace(each.definition, fire_pipeline=None, expire_pipeline=None) for each in parse_triggers(text)[0]
        ]
        harness.use.triggers.put(harness.admin, definitions)
        now_us = 0
        for event in events:
            assert event.time_us is not None
            now_us = max(now_us, event.time_us)
            while True:
                with harness.store.begin() as tx:
                    due_us = tx.streams.next_due_us()
                    if due_us is None or due_us > now_us:
                        break
                    fire_due_streams(tx, harness.cache.current(tx), now_us=due_us, limit=1)
            with harness.store.begin() as tx:
                accept_events(tx, harness.cache.current(tx), [event], user_id=None, now_us=now_us)
        return streams_of(harness)


def test_batches_give_what_single_events_give(folder: Path) -> None:
    events = list(read_recording(folder / "day.jsonl.gz"))
    expected = one_by_one(events, TRIGGERS)
    with Player() as player:
        player.add_triggers(folder / "triggers.yaml", with_pipelines=False)
        player.play(folder / "day.jsonl.gz", expire=False)
        assert streams_of(player.harness) == expected
    assert len(expected) > 50


def test_a_day_goes_through_pipelines_whose_events_come_at_their_time(folder: Path) -> None:
    with Player(handler_path=[folder / "handlers"]) as player:
        player.add_pipelines(folder / "pipelines.yaml")
        player.add_triggers(folder / "triggers.yaml")
        found = player.play(folder / "day.jsonl.gz")
        harness = player.harness
        assert found["refused"] == []
        assert found["events"] == 300
        assert found["states"] == {"completed": len(harness.streams)}
        assert found["fired"] + found["expired"] == len(harness.streams)
        assert min(found["fired"], found["expired"]) > 5
        report = player.report()
        sessions = [each for each in report if each["trigger"] == "session"]
        assert sum(each["events"] for each in sessions) == 300
        assert all(each["made"][0]["number"] == each["events"] for each in sessions)
        counted = [each for each in report if each["trigger"] == "counted"]
        assert sum(each["events"] for each in counted) == len(sessions)


def test_firing_now_and_then_leaves_more_events_together(folder: Path) -> None:
    def number(every_s: float | None) -> int:
        with Player() as player:
            player.add_triggers(folder / "triggers.yaml", with_pipelines=False)
            playback = playback_on(player.harness, every_s=every_s)
            playback.play(read_recording(folder / "day.jsonl.gz"))
            playback.drain()
            assert all(stream.state is StreamState.COMPLETED for stream in player.harness.streams)
            return len(player.harness.streams)

    assert number(None) < number(3600.0) < number(0.0)


def test_playback_at_a_speed_waits_between_events(folder: Path) -> None:
    slept: list[float] = [0.0]
    with Player() as player:
        player.add_triggers(folder / "triggers.yaml", with_pipelines=False)
        events = list(read_recording(folder / "day.jsonl.gz"))[:50]
        playback_on(player.harness, speed=10.0, sleep=slept.append, monotonic=lambda: sum(slept)).play(events)
        span_s = (max(event.time_us or 0 for event in events) - (events[0].time_us or 0)) / 1e6
    assert sum(slept) == pytest.approx(span_s / 10, rel=0.01)


def test_a_trial_tells_of_each_trigger_and_why_events_did_not_match(folder: Path) -> None:
    found = trial(TRIGGERS, folder / "day.jsonl.gz")
    session, counted = found["triggers"]
    assert (session["name"], session["streams"]) == ("session", session["fired"] + session["expired"])
    assert session["fired"] > 5
    assert counted["streams"] == 0
    assert {"kind": "Match", "name": "No matching criteria", "checks": 300, "passed": 0} in counted["checks"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "line 2"),
        ('{"hook": 7}', "hook"),
        ('{"event_type": "a.b", "timestamp": "noon"}', "time"),
        ("[]", "object"),
    ],
)
def test_a_line_that_is_none_is_told_by_its_number(tmp_path: Path, line: str, word: str) -> None:
    path = tmp_path / "day.jsonl"
    good = '{"hook": "a.b", "payload": {"x": 1}, "time": "2026-01-02T03:04:05Z", "tags": ["t"], "key": "k"}'
    path.write_text(f"{good}\n{line}\n\n{good}\n")
    with pytest.raises(InvalidInput, match="line 2") as caught:
        list(read_recording(path))
    assert word in str(caught.value)
    refused: list[int] = []
    events = list(read_recording(path, on_refusal=lambda number, _: refused.append(number)))
    assert refused == [2]
    assert [(event.hook, event.tags, event.key) for event in events] == [("a.b", ["t"], "k")] * 2


def test_events_refused_are_counted_and_the_others_played(folder: Path) -> None:
    lines = [json.dumps(event) for event in day(5)]
    lines[2:2] = [json.dumps({"hook": "bad hook name", "payload": {}}), lines[0]]
    (folder / "odd.jsonl").write_text("\n".join(lines))
    with Player() as player:
        player.add_triggers(folder / "triggers.yaml", with_pipelines=False)
        found = player.play(folder / "odd.jsonl")
    assert (found["events"], found["duplicates"], [each["line"] for each in found["refused"]]) == (5, 1, [3])


BAD_LINES = [
    {"event_type": "app.click", "timestamp": "9999-12-31T23:59:59-05:00", "user": "a", "message_id": "far"},
    {"hook": "bad hook name", "time": "2030-01-01T00:00:00Z", "payload": {"user": "a"}},
]


@pytest.mark.parametrize("at", [0, 2])
def test_a_line_that_is_refused_does_not_move_the_time(folder: Path, at: int) -> None:
    events = [
        {"message_id": f"e{index}", "event_type": f"app.{kind}", "timestamp": START.format(1, index, 0), "user": "a"}
        for index, kind in enumerate(["login", "click", "click", "click", "click", "logout"])
    ]
    events[at:at] = BAD_LINES  # type: ignore[arg-type]
    path = folder / "odd.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    found = trial(TRIGGERS, path)
    assert (found["events"], len(found["refused"])) == (6, 2)
    assert any("9999" in each["error"] for each in found["refused"])
    session = found["triggers"][0]
    assert (session["fired"], session["expired"]) == (1, 0)
    with Player(database=f"sqlite:///{folder / 'odd.db'}") as player:
        player.add_triggers(folder / "triggers.yaml", with_pipelines=False)
        found = player.play(path, expire=False)
        assert found["events"] == 6
        with player.harness.store.read() as tx:
            place = tx.playback.get()
    assert place is not None
    assert "2026-01-02T01:05:00" in describe(place)


def test_a_recording_of_refused_lines_only_plays_nothing(folder: Path) -> None:
    path = folder / "odd.jsonl"
    path.write_text(json.dumps(BAD_LINES[1]) + "\n")
    with Player(database=f"sqlite:///{folder / 'odd.db'}") as player:
        found = player.play(path)
    assert (found["events"], len(found["refused"]), found["cut"]) == (0, 1, None)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("end", "cut", "refused"),
    [
        (b'{"hook": "a.b", "payload": {"name": "M\xc3', True, 0),  # within a character
        (b'{"hook": "a.b", "pay', True, 0),
        (b'{"hook": "a.b", "payload": {"name": "M\xfc"}}', False, 1),  # whole, in another encoding
        (b"garbage\n", False, 1),
        (b'{"hook": "a.b"}', False, 0),
    ],
)
def test_a_recording_is_cut_off_where_its_last_line_has_no_end(
    tmp_path: Path, pack: Any, end: bytes, *, cut: bool, refused: int
) -> None:
    path = tmp_path / "day.jsonl"
    path.write_bytes(pack(b'{"hook": "a.b", "payload": {"name": "M\xc3\xbcller"}}\n' + end))
    recording = Recording(path)
    assert {event.hook for event in recording.events()} == {"a.b"}
    assert (recording.cut is not None, len(recording.refused)) == (cut, refused)


def test_what_can_not_start_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "STUCK_S", 0.2)
    wall = ManualClock()

    def fails(db: Any, **kwargs: Any) -> None:
        raise ValueError("not now")

    with Harness(wall=wall) as harness:
        add_any_hook(harness)
        harness.register(fails, hook="app.click", retries={"max": 1, "backoff": "1h"})
        with harness.store.begin() as tx:
            tx.workers.state(WorkerState(name="w", host="h", pythons=("3.11",), seen_us=wall.now_us()))
        harness.emit("app.click", {}, key="one")
        harness.run_until_idle()
        harness.emit("app.click", {}, key="one")  # behind the retry of the first one

        waiter = platform._Waiter(harness.store, wall)
        began = time.monotonic()
        waiter.settle()
        assert time.monotonic() - began >= 0.2
        looks: list[float] = []
        monkeypatch.setattr(platform.time, "sleep", looks.append)
        for _ in range(10):
            waiter.settle()
        assert looks == []
        wall.advance(1)
        harness.emit("app.click", {}, key="other")
        waiter.settle()
        assert looks


def long_ago(folder: Path) -> Path:
    """The same day, as it was in 2014."""
    with gzip.open(folder / "day.jsonl.gz", "rt") as file:
        text = file.read().replace("2026-01-02T", "2014-08-01T")
    path = folder / "long_ago.jsonl"
    path.write_text(text)
    return path


def test_a_day_of_years_ago_stays_when_retention_comes(folder: Path) -> None:
    database = f"sqlite:///{folder / 'played.db'}"
    with Player(database=database, handler_path=[folder / "handlers"]) as player:
        player.add_pipelines(folder / "pipelines.yaml")
        player.add_triggers(folder / "triggers.yaml")
        player.play(long_ago(folder))
        harness = player.harness
        streams = streams_of(harness)
        counted = [event.time.year for event in harness.events if event.hook == "app.counted"]
        assert len(counted) == sum(1 for name, *_ in streams if name == "session")
        assert set(counted) == {2014}
        assert all(stream.expire_us < 1_500_000_000_000_000 for stream in harness.streams)
        runs = len(harness.runs)
    with Harness(store=open_store(database), wall=SystemClock()) as later:
        later.run_until_idle()
        assert streams_of(later) == streams
        assert len(later.runs) == runs
        assert all(len(events) > 0 for *_, events in streams)


def test_what_is_done_goes_by_the_wall_and_what_is_due_by_the_events(folder: Path) -> None:
    wall = ManualClock()
    with Harness(wall=wall) as harness:
        add_any_hook(harness)
        harness.register_pipeline(
            "count", [{"name": "broken", "handler": _broken}], retries={"max": 1, "backoff": "1h"}
        )
        harness.register_pipeline("none", [{"name": "same", "handler": lambda events, env: events}])
        harness.use.triggers.push(harness.admin, TRIGGERS)
        events = [event for event in read_recording(long_ago(folder)) if event.payload["user"] == "a"][:10]
        playback_on(harness).play(events)
        playback_on(harness).drain()
        assert {stream.state for stream in harness.streams} == {StreamState.FIRING, StreamState.EXPIRING}
        harness.clock.advance(7200)
        harness.run_until_idle()
        assert {run.attempt for run in harness.runs} == {1}
        wall.advance(7200)
        harness.run_until_idle()
        assert {run.attempt for run in harness.runs} == {2}
        errors = harness.streams
        assert {stream.state for stream in errors} == {StreamState.ERROR, StreamState.EXPIRE_ERROR}
        harness.register_pipeline("count", [{"name": "mended", "handler": lambda events, env: events}])
        harness.use.streams.reset(harness.admin, [stream.id for stream in errors])
        harness.run_until_idle()
        assert {stream.state for stream in harness.streams} == {StreamState.COMPLETED}


def _broken(events: Any, env: Any) -> Any:
    raise ValueError("broken")
