"""DBInterface on a database of winchester's own keeps what winchester kept there, on each kind of database."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import postgres_server

from eventproc.compat.winchester.modules import db, models
from eventproc.compat.winchester.modules.timex import TimeRange, parse

NOON = dt.datetime(2015, 2, 27, 12, 0, 0, 42)  # noqa: DTZ001 - winchester's times are naive
HOUR = dt.timedelta(hours=1)
DAY = TimeRange(NOON.replace(hour=0), NOON.replace(day=28, hour=0))
TRAITS = {"text": "é", "whole": 2**40, "part": 3.14159265, "moment": NOON}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.external_service)])
def interface(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        url = f"sqlite:///{tmp_path}/w.db"
        if request.param == "postgresql":
            server = stack.enter_context(postgres_server())
            url = server.url(server.create())
        made = db.DBInterface({"url": url})
        models.Base.metadata.create_all(made.engine)
        yield made
        made.close()


def test_events_keep_their_traits_and_types(interface: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        interface.create_event("m1", "a.b", NOON, {**TRAITS, "bytes": b"raw", "flag": True, "none": None})
    assert "Invalid trait for m1: flag" in caplog.text
    found = interface.get_event_by_message_id("m1")
    assert found == {**TRAITS, "bytes": "raw", "message_id": "m1", "event_type": "a.b", "timestamp": NOON}
    for name, value in TRAITS.items():
        assert interface.find_events(traits={name: value}, count=True) == [{"count": 1}]
        assert interface.find_events(traits={name: 7}) == []
    with pytest.raises(db.DuplicateError):
        interface.create_event("m1", "a.b", NOON, {})
    with pytest.raises(db.NoSuchEventError, match="m2"):
        interface.get_event_by_message_id("m2")
    assert interface.find_events(event_name="never.seen") == []
    assert interface.get_event_type("never.seen").id == 2  # looking did not make it


def test_a_stream_goes_its_way(interface: Any) -> None:
    events = [
        {"message_id": f"m{hour}", "event_type": "a", "timestamp": NOON + hour * HOUR, "vm": "x"} for hour in range(3)
    ]
    for event in events:
        interface.create_event(event["message_id"], "a", event["timestamp"], {"vm": "x"})
    expires = parse("$last + 1d")
    traits = {"vm": "x", "timestamp": DAY}
    stream = interface.create_stream("t", events[1], traits, expires)
    interface.add_event_stream(stream, events[2], expires)
    interface.add_event_stream(stream, events[0], expires)
    assert (stream.first_event, stream.last_event) == (NOON, NOON + 2 * HOUR)
    assert [event["message_id"] for event in interface.get_stream_events(stream)] == ["m0", "m1", "m2"]
    assert interface.stream_has_dist_trait(stream.id, "timestamp", DAY) == {"timestamp": DAY}
    assert interface.stream_has_dist_trait(stream.id, "vm", "y") is None
    assert interface.get_active_stream("t", traits, NOON).id == stream.id
    assert interface.get_active_stream("t", {**traits, "vm": "y"}, NOON) is None
    assert interface.get_active_stream("t", traits, stream.expire_timestamp) is None

    assert interface.get_ready_streams(9, NOON + HOUR) == []
    interface.stream_ready_to_fire(stream, NOON)
    assert [each.id for each in interface.get_ready_streams(9, NOON + HOUR)] == [stream.id]
    firing = interface.set_stream_state(stream, models.StreamState.firing)
    with pytest.raises(db.LockError):
        interface.set_stream_state(stream, models.StreamState.expiring)
    failed = interface.set_stream_state(firing, models.StreamState.error)
    assert interface.reset_stream(failed).state is models.StreamState.retry_fire
    (shown,) = interface.find_streams(state=models.StreamState.retry_fire, include_events=True)
    assert (shown["_mark"], shown["distinguishing_traits"], len(shown["events"])) == (f"{stream.id:x}", traits, 3)
    interface.purge_stream(stream)
    with pytest.raises(db.NoSuchStreamError):
        interface.get_stream_by_id(stream.id)
    assert len(interface.find_events()) == 3  # events stay
    interface.purge_events(interface.find_older_events(NOON + HOUR, 9))
    assert [event["message_id"] for event in interface.find_events()] == ["m2", "m1"]


def test_calls_of_one_session_hold_together(interface: Any) -> None:
    def store_and_fail() -> None:
        with interface.in_session() as session:
            interface.create_event("m1", "a", NOON, {}, session=session)
            assert interface.get_event_by_message_id("m1", session=session)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        store_and_fail()
    assert interface.find_events(count=True) == [{"count": 0}]


def test_a_url_that_names_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(db.DatabaseConnectionError, match="unable to open"):
        db.DBInterface({"url": f"sqlite:///{tmp_path}/none/w.db"}).find_events()
    with pytest.raises(db.DatabaseConnectionError, match="can not be opened"):
        db.DBInterface({"url": "oddsql://h/d"}).find_events()
    with pytest.raises(db.DBException, match="_mark of the last"):
        db.DBInterface({"url": f"sqlite:///{tmp_path}/w.db"}).find_streams(mark="zz")
