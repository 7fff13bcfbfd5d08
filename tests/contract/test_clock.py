"""Clocks: the world's, one that is moved by hand, and one that hosts share."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from shared_time import publish
from waiting import wait_until

from eventproc.abc import Clock
from eventproc.engine.clock import ManualClock, SystemClock
from eventproc.errors import ConfigError, Unavailable
from eventproc.timesync import SILENT_S, TimeService, TimeSyncClock, parse_time

NOON_US = 1_767_355_200_000_000
SECOND_US = 1_000_000


@pytest.fixture
def service() -> Iterator[TimeService]:
    with TimeService() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(params=["system", "manual", "shared"])
def clock(request: pytest.FixtureRequest) -> Clock:
    if request.param == "system":
        return SystemClock()
    if request.param == "manual":
        return ManualClock(NOON_US)
    service = request.getfixturevalue("service")
    shared = TimeSyncClock(service.url, poll_s=0.0)
    publish(service, NOON_US)
    shared.ask()
    return shared


def test_a_clock_tells_microseconds_and_does_not_go_backwards_by_itself(clock: Clock) -> None:
    first = clock.now_us()
    assert isinstance(first, int)
    assert first >= NOON_US
    assert clock.now_us() >= first


def test_what_one_publishes_all_others_see(service: TimeService) -> None:
    ours, theirs = (TimeSyncClock(url, poll_s=0.01).start(wait_s=5.0) for url in (service.url, service.url + "/"))
    for told_us in (NOON_US, NOON_US - SECOND_US):
        publish(service, told_us)
        wait_until(lambda: _told(ours) == _told(theirs) == told_us, what="both have heard of it")  # noqa: B023
    ours.close()
    theirs.close()


def _told(clock: Clock) -> int | None:
    try:
        return clock.now_us()
    except Unavailable:
        return None


def test_between_two_looks_the_time_stands_still(service: TimeService) -> None:
    clock = TimeSyncClock(service.url)
    publish(service, NOON_US)
    assert clock.ask() is None
    publish(service, NOON_US + SECOND_US)
    assert clock.now_us() == NOON_US
    assert clock.ask() is None
    assert clock.now_us() == NOON_US + SECOND_US


def test_a_service_that_is_gone_leaves_the_last_time() -> None:
    with TimeService() as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        clock = TimeSyncClock(service.url)
        publish(service, NOON_US)
        clock.ask()
        assert clock.now_us() == NOON_US
        service.shutdown()
        thread.join()
    assert "refused" in (clock.ask() or "")
    assert clock.now_us() == NOON_US


def test_there_is_no_time_until_one_is_set(service: TimeService) -> None:
    clock = TimeSyncClock(service.url)
    for asked in (False, True):
        with pytest.raises(Unavailable, match="told no time"):
            clock.now_us()
        assert asked or clock.ask() is None
    publish(service, NOON_US)
    clock.ask()
    service.text = ""
    assert clock.ask() is None
    assert clock.now_us() == NOON_US


def test_a_service_that_hangs_is_not_waited_for_and_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    with socket.create_server(("127.0.0.1", 0)) as hung:  # it takes connections and says nothing
        url = "http://{}:{}".format(*hung.getsockname())
        clock = TimeSyncClock(url, monotonic=lambda: now, timeout_s=600.0).start()
        asked, _ = hung.accept()
        with asked:
            for _ in range(3):
                now += SILENT_S
                with pytest.raises(Unavailable):
                    clock.now_us()
        clock.close()
    assert len([line for line in caplog.messages if "has not answered" in line]) == 1


def test_what_is_no_time_is_refused(service: TimeService) -> None:
    request = urllib.request.Request(service.url + "/time", data=b"noon", method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value:
        assert caught.value.code == 400
        assert b"ISO 8601" in caught.value.read()
    assert service.text == ""
    with pytest.raises(ConfigError, match="http://"):
        TimeSyncClock("localhost:8088")


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert parse_time("2026-01-02T12:00:00") == NOON_US
    assert parse_time("2026-01-02T14:00:00+02:00\n") == NOON_US
    assert parse_time("None") is parse_time("  ") is None
