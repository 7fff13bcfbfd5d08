"""A served platform whose events and streams have the time of a time service, years ago."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Served
from shared_time import publish
from waiting import wait_until

from eventproc import Connection, register_pipeline
from eventproc.errors import EventprocError, Unavailable
from eventproc.timesync import TimeService

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


class Stuck(TimeService):
    """A service that can be made to hang, with the connections that come in."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = threading.Event()
        self.hung: list[Any] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.hangs.is_set():
            self.hung.append(request)
        else:
            super().process_request(request, client_address)


@pytest.fixture
def service() -> Iterator[Stuck]:
    made = Stuck()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()
    for request in made.hung:
        request.close()


def test_streams_of_years_ago_expire_by_the_services_time_and_stay(tmp_path: Path, service: Stuck) -> None:
    def set_time(hour: int) -> None:
        moment = dt.datetime(2014, 8, 1, hour, tzinfo=dt.UTC)
        publish(service, round(moment.timestamp() * 1_000_000))

    def emit(name: str) -> str:
        try:
            conn.emit("app.click", {"user": "a"}, id=name)
        except Unavailable:
            return ""
        return str(conn.event(name)["time"])

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
        time = wait_until(lambda: emit("first"), what="the platform has heard of the time")
        assert time.startswith("2014-08-01T08:00")
        (stream,) = conn.streams(name="day")
        assert (stream["state"], stream["expire_at"]) == ("active", "2014-08-01T09:00:00.000000Z")
        service.hangs.set()
        wait_until(lambda: service.hung, what="the platform waits for the service")
        # Each of these would wait for the service if they asked it, five seconds and more.
        with Connection(served.endpoints["http"], served.key, timeout=3.0) as hasty:
            for number in range(20):
                assert hasty.emit("app.click", {"user": "b"}, id=f"meanwhile{number}")["duplicate"] is False
        assert conn.event("meanwhile19")["time"].startswith("2014-08-01T08:00")
        service.hangs.clear()
        while service.hung:
            service.hung.pop().close()
        set_time(10)
        wait_until(lambda: conn.streams(name="day")[0]["state"] == "completed", what="it has expired")
        stream = next(each for each in conn.streams(name="day") if each["distinguished_by"] == {"user": "a"})
        assert stream["events"] == 1
        assert conn.event("first")["accepted_at"][:4] != "2014"
        assert served.stop() == 0
    finally:
        served.close()
