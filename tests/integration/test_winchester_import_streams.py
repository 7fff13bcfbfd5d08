"""The streams of a winchester database, with their events, go on in the platform."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PostgresServer, postgres_server
from waiting import wait_until
from winchester_tables import Source

from eventproc.cli.main import run
from eventproc.compat.winchester.carrying import Carrier
from eventproc.errors import ConfigError, StoreUnavailable
from eventproc.model import StreamState, from_datetime
from eventproc.store import open_store
from eventproc.store.winchester import existing_database
from eventproc.testing import Harness

NOON = dt.datetime(2015, 2, 27, 12)  # noqa: DTZ001 - winchester's times are naive
HOUR = dt.timedelta(hours=1)
DAY = (NOON.replace(hour=0), NOON.replace(day=28, hour=0))
TRIGGER = {
    "name": "usage",
    "distinguished_by": ["vm", {"timestamp": "day"}],
    "expiration": "$last + 1d",
    "match_criteria": [{"event_type": "vm.*"}],
    "fire_criteria": [{"event_type": "vm.exists"}],
    "fire_pipeline": "noted",
    "expire_pipeline": "noted",
}


class Noted:
    def handle_events(self, events, env):
        moments = [event["launched"] for event in events if "launched" in event]
        assert all(isinstance(moment, dt.datetime) for moment in moments)
        ids = " ".join(event["message_id"] for event in events)
        told = {
            "message_id": f"of-{events[0]['message_id']}",
            "event_type": "told",
            "timestamp": events[0]["timestamp"],
        }
        return [*events, {**told, "ids": ids}]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


both = pytest.mark.parametrize(
    "kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.external_service)], indirect=True
)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of both databases, winchester's and the platform's."""
    return str(getattr(request, "param", "sqlite"))


@pytest.fixture
def source(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    url = f"sqlite:///{tmp_path}/w.db"
    if kind == "postgresql":
        server = request.getfixturevalue("postgres")
        url = server.url(server.create())
    made = Source(url)
    yield made
    made.close()


@pytest.fixture
def platform(kind: str, request: pytest.FixtureRequest) -> Iterator[Harness]:
    store = None
    if kind == "postgresql":
        server = request.getfixturevalue("postgres")
        store = open_store(server.url(server.create()))
    with Harness(store=store) as made:
        made.clock.set(from_datetime(NOON + 3 * HOUR))
        for hook in ("vm.*", "told"):
            made.add_hook(hook)
        made.register_pipeline("noted", [Noted], naive=True)
        made.add_trigger(**TRIGGER)
        yield made
    made.store.close()


def carry(platform: Harness, source: Source, **how: bool) -> dict[str, Any]:
    database = existing_database(source.url)
    try:
        parts = {"store": platform.store, "cache": platform.cache, "clock": platform.clock, "bus": platform.bus}
        return Carrier(database, **parts, **how).run().as_dict()
    finally:
        database.close()


def told(platform: Harness) -> list[str]:
    return sorted(event.payload["ids"] for event in platform.events if event.hook == "told")


def tells(platform: Harness, *wanted: str) -> bool:
    """
    Tell whether the pipelines come to say that.

    On PostgreSQL a run that a worker takes at this very moment looks like none, so the platform may seem idle.
    """

    def look() -> bool:
        platform.run_until_idle()
        return told(platform) == list(wanted)

    return wait_until(look, timeout_s=120, what=f"{wanted}")


def two_events(source: Source, vm: str) -> dict[int, dt.datetime]:
    first = source.event(f"{vm}-1", "vm.start", NOON, vm=vm, launched=NOON - HOUR, size=2**30, part=0.5)
    return {first: NOON, source.event(f"{vm}-2", "vm.stop", NOON + HOUR, vm=vm): NOON + HOUR}


@both
def test_an_active_stream_goes_on_collecting_and_fires_with_all_of_its_events(platform, source):
    source.stream("usage", 1, two_events(source, "a"), expire=NOON + 25 * HOUR, vm="a", timestamp=DAY)
    done = carry(platform, source)
    assert (done["streams"], done["states"], done["events"], done["refused"]) == (1, {"active": 1}, 2, [])
    [stream] = platform.streams
    assert (stream.state, stream.joinable, stream.fire_us) == (StreamState.ACTIVE, True, None)
    assert stream.expire_us == from_datetime(NOON + 25 * HOUR)
    assert (stream.first_us, stream.last_us, stream.events) == (from_datetime(NOON), from_datetime(NOON + HOUR), 2)
    assert stream.distinguished_by == {
        "timestamp": {"begin": "2015-02-27T00:00:00.000000Z", "end": "2015-02-28T00:00:00.000000Z"},
        "vm": "a",
    }
    started = next(event for event in platform.events if event.id == "a-1")
    assert started.payload == {
        "vm": "a",
        "launched": "2015-02-27T11:00:00",
        "size": 2**30,
        "part": 0.5,
        "_datetimes": ["launched"],
    }
    platform.run_until_idle()
    assert told(platform) == []
    platform.emit("vm.exists", {"vm": "a"}, id="a-3", time=NOON + 2 * HOUR)
    assert tells(platform, "a-1 a-2 a-3")


@both
def test_twice_changes_nothing_and_a_dry_run_nothing_at_all(platform, source):
    for vm in "ab":
        source.stream("usage", 1, two_events(source, vm), expire=NOON + 25 * HOUR, vm=vm, timestamp=DAY)
    source.stream("usage", 4, two_events(source, "c"), expire=NOON + 25 * HOUR, vm="c", timestamp=DAY)
    tried = carry(platform, source, dry_run=True)
    assert (platform.streams, platform.events) == ([], [])
    done = carry(platform, source)
    assert tried == done
    assert (done["states"], done["events"]) == ({"active": 2, "error": 1}, 6)
    before = platform.streams
    again = carry(platform, source)
    assert (again["streams"], again["unchanged"], again["joined"], again["events"]) == (0, 3, 0, 0)
    assert platform.streams == before
    platform.clock.set(from_datetime(NOON + 26 * HOUR))
    assert tells(platform, "a-1 a-2", "b-1 b-2")
    assert carry(platform, source)["unchanged"] == 3  # what has expired is not carried over once more either


@pytest.mark.parametrize(
    ("state", "here", "asked"),
    [
        (2, StreamState.ERROR, False),
        (3, StreamState.EXPIRE_ERROR, False),
        (4, StreamState.ERROR, False),
        (5, StreamState.EXPIRE_ERROR, False),
        (6, StreamState.COMPLETED, True),
        (7, StreamState.RETRY_FIRE, False),
        (8, StreamState.RETRY_EXPIRE, False),
    ],
)
def test_a_stream_keeps_its_state_and_its_times(platform, source, state, here, asked):
    times = {"fire": NOON + HOUR, "expire": NOON + 2 * HOUR}
    source.stream("usage", state, two_events(source, "a"), **times, vm="a", timestamp=DAY)
    done = carry(platform, source, completed=asked)
    assert done["states"] == {here.label: 1}
    [stream] = platform.streams
    assert (stream.state, stream.joinable) == (here, False)
    assert (stream.fire_us, stream.expire_us) == (from_datetime(NOON + HOUR), from_datetime(NOON + 2 * HOUR))
    platform.run_until_idle()
    if here in {StreamState.ERROR, StreamState.EXPIRE_ERROR}:
        assert "winchester" in stream.failure.message
        assert told(platform) == []
        platform.use.streams.reset(platform.admin, [stream.id])
        platform.run_until_idle()
    assert told(platform) == ([] if asked else ["a-1 a-2"])
    assert [each.state for each in platform.streams] == [StreamState.COMPLETED]
    assert carry(platform, source, completed=asked)["unchanged"] == 1


def test_a_stream_that_was_ready_fires_when_it_was_to(platform, source):
    times = {"fire": NOON + 5 * HOUR, "expire": NOON + 25 * HOUR}
    source.stream("usage", 1, two_events(source, "a"), **times, vm="a", timestamp=DAY)
    carry(platform, source)
    platform.run_until_idle()
    assert told(platform) == []
    platform.clock.set(from_datetime(NOON + 6 * HOUR))
    assert tells(platform, "a-1 a-2")


@both
def test_what_the_platform_collected_meanwhile_becomes_one_stream_with_it(platform, source):
    source.stream("usage", 1, two_events(source, "a"), expire=NOON + 25 * HOUR, vm="a", timestamp=DAY)
    platform.emit("vm.stop", {"vm": "a"}, id="a-2", time=NOON + HOUR)  # one that both have
    platform.emit("vm.stop", {"vm": "a"}, id="a-9", time=NOON + 2 * HOUR)
    done = carry(platform, source)
    assert (done["streams"], done["joined"], done["events"]) == (0, 1, 1)
    [stream] = platform.streams
    assert (stream.events, stream.first_us) == (3, from_datetime(NOON))
    assert carry(platform, source)["unchanged"] == 1
    platform.emit("vm.exists", {"vm": "a"}, id="a-3", time=NOON + 3 * HOUR)
    assert tells(platform, "a-1 a-2 a-9 a-3")


def test_no_handler_runs_on_an_event_that_is_carried_over_and_no_other_trigger_collects_it(platform, source):
    platform.register(lambda db, **kw: 1, hook="vm.*", name="listens")
    platform.add_trigger(**{**TRIGGER, "name": "other"})
    source.stream("usage", 1, two_events(source, "a"), expire=NOON + 25 * HOUR, vm="a", timestamp=DAY)
    carry(platform, source)
    platform.run_until_idle()
    assert platform.runs == []
    assert [stream.name for stream in platform.streams] == ["usage"]


@both
def test_what_has_no_place_is_named_and_the_others_are_carried_over(platform, source):
    source.stream("usage", 6, two_events(source, "a"), vm="a", timestamp=DAY)
    source.stream("gone", 1, two_events(source, "b"), vm="b")
    source.stream("usage", 1, two_events(source, "c"), vm="c")
    source.stream("usage", 1, {}, vm="d", timestamp=DAY)
    number = source.event("e-1", "unheard.of", NOON, vm="e")
    source.stream("usage", 1, {number: NOON}, vm="e", timestamp=DAY)
    source.stream("usage", 11, two_events(source, "f"), vm="f", timestamp=DAY)
    source.stream("usage", 1, two_events(source, "g"), vm="g", timestamp=DAY)
    done = carry(platform, source)
    assert (done["streams"], done["completed"], done["unknown_triggers"]) == (1, 1, {"gone": 1})
    refused = {each["stream"]: each["error"] for each in done["refused"]}
    assert sorted(refused) == [3, 4, 5, 6]
    assert refused[3] == "it is distinguished by vm, its trigger here by timestamp, vm"
    assert refused[4] == "its events are gone: winchester has trimmed them"
    assert refused[5].startswith("its event e-1: ")
    assert "unheard.of" in refused[5]
    assert refused[6] == "winchester has no state 11"
    [stream] = platform.streams
    # It had no time to expire at, so it gets its trigger's.
    assert (stream.distinguished_by["vm"], stream.expire_us) == ("g", from_datetime(NOON + 25 * HOUR))
    assert [event.id for event in platform.events] == ["g-1", "g-2"]


def test_more_streams_than_are_read_at_once(platform, source, monkeypatch):
    monkeypatch.setattr("eventproc.compat.winchester.carrying.PAGE", 2)
    for vm in "abcde":
        source.stream("usage", 1, two_events(source, vm), expire=NOON + 25 * HOUR, vm=vm, timestamp=DAY)
    assert carry(platform, source)["streams"] == 5
    assert [stream.distinguished_by["vm"] for stream in platform.streams] == list("abcde")


def test_a_database_that_is_none_is_named_and_not_made(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no database /.*nowhere\.db"):
        existing_database(f"sqlite:///{tmp_path}/nowhere.db")
    assert not (tmp_path / "nowhere.db").exists()
    with pytest.raises(ConfigError, match="is no URL of a database"):
        existing_database("sqlite:/x://")
    (tmp_path / "empty.db").touch()
    database = existing_database(str(tmp_path / "empty.db"))
    try:
        with pytest.raises(StoreUnavailable, match="no such table: stream"), database.in_session() as session:
            database.streams(session)
    finally:
        database.close()


def test_the_command_says_what_is_left_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path / "data"))
    source = Source(f"sqlite:///{tmp_path}/w.db")
    source.stream("gone", 1, two_events(source, "b"), vm="b")
    source.close()
    command = ["winchester", "import-streams", str(tmp_path / "w.db")]
    assert run(command) == 4
    assert "there is no platform's database in" in capsys.readouterr().err
    assert not (tmp_path / "data" / "eventproc.db").exists()
    assert run(["db", "upgrade"]) == 0
    capsys.readouterr()
    assert run([*command, "--dry-run"]) == 1
    told = capsys.readouterr()
    assert "would carry over: 0 streams, 0 new events" in told.out
    assert "1 streams of gone: there is no such trigger here, or it is paused" in told.err
