"""A served platform whose events and streams have the time of a time service, years ago."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served
from waiting import wait_until

from eventproc import Connection, register_pipeline
from eventproc.errors import EventprocError
from eventproc.timesync import TimeService, TimeSyncClock

TRIGGERS = """
- name: day
  distinguished_by: [user]
  expiration: "$last + 1h"
  expire_pipeline: shown
  match_criteria: [{event_type: app.*}]
  fire_criteria: [{event_type: app.never}]
"""


def same(events, env):
    return events


@pytest.fixture
def service() -> Iterator[TimeService]:
    made = TimeService()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_streams_of_years_ago_expire_by_the_services_time_and_stay(tmp_path: Path, service: TimeService) -> None:
    def set_time(hour: int) -> None:
        moment = dt.datetime(2014, 8, 1, hour, tzinfo=dt.UTC)
        TimeSyncClock(service.url).publish(round(moment.timestamp() * 1_000_000))

    (tmp_path / "triggers.yaml").write_text(TRIGGERS)
    served = Served(tmp_path / "data", EVENTPROC_TIME_SYNC=service.url)
    served.start()
    try:
        conn = served.connect()
        conn.put_hook("app.*", summary="an application")
        register_pipeline("shown", [same], conn=conn)
        served.cli("triggers", "push", str(tmp_path / "triggers.yaml"))
        with Connection(served.endpoints["http"], served.key, timeout=3.0) as hasty, pytest.raises(EventprocError):
            hasty.emit("app.click", {"user": "a"}, id="early")
        assert all(event["id"] != "early" for event in conn.events())
        set_time(8)
        conn.emit("app.click", {"user": "a"}, id="first")
        assert conn.event("first")["time"].startswith("2014-08-01T08:00")
        (stream,) = conn.streams(name="day")
        assert (stream["state"], stream["expire_at"]) == ("active", "2014-08-01T09:00:00.000000Z")
        set_time(10)
        wait_until(lambda: conn.streams(name="day")[0]["state"] == "completed", what="it has expired")
        (stream,) = conn.streams(name="day")
        assert stream["events"] == 1
        assert conn.event("first")["accepted_at"][:4] != "2014"
        assert served.stop() == 0
    finally:
        served.close()
