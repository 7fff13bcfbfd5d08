"""Clocks: the world's, one that is moved by hand, and one that hosts share."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from eventproc.abc import Clock
from eventproc.engine.clock import ManualClock, SystemClock
from eventproc.errors import ConfigError, Unavailable
from eventproc.timesync import TimeService, TimeSyncClock, parse_time

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
    shared = TimeSyncClock(request.getfixturevalue("service").url, poll_s=0.0)
    shared.publish(NOON_US)
    return shared


def test_a_clock_tells_microseconds_and_does_not_go_backwards_by_itself(clock: Clock) -> None:
    first = clock.now_us()
    assert isinstance(first, int)
    assert first >= NOON_US
    assert clock.now_us() >= first


def test_what_one_publishes_all_others_see(service: TimeService) -> None:
    ours, theirs = TimeSyncClock(service.url, poll_s=0.0), TimeSyncClock(service.url + "/", poll_s=0.0)
    ours.publish(NOON_US)
    assert theirs.now_us() == NOON_US
    ours.publish(NOON_US - SECOND_US)
    assert theirs.now_us() == NOON_US - SECOND_US


def test_between_two_looks_the_time_stands_still(service: TimeService) -> None:
    now = 0.0
    clock = TimeSyncClock(service.url, poll_s=20.0, monotonic=lambda: now)
    clock.publish(NOON_US)
    assert clock.now_us() == NOON_US
    clock.publish(NOON_US + SECOND_US)
    now = 19.0
    assert clock.now_us() == NOON_US
    now = 20.0
    assert clock.now_us() == NOON_US + SECOND_US


def test_a_service_that_is_gone_leaves_the_last_time() -> None:
    with TimeService() as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        clock = TimeSyncClock(service.url, poll_s=0.0)
        clock.publish(NOON_US)
        assert clock.now_us() == NOON_US
        service.shutdown()
        thread.join()
    assert clock.now_us() == NOON_US
    with pytest.raises(Unavailable):
        clock.publish(NOON_US)


def test_the_first_look_waits_until_a_time_is_set(service: TimeService) -> None:
    setter = TimeSyncClock(service.url)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            setter.publish(NOON_US)

    assert TimeSyncClock(service.url, sleep=sleep).now_us() == NOON_US
    assert len(slept) == 3
    service.text = ""
    with pytest.raises(Unavailable, match="told no time"):
        TimeSyncClock(service.url, patience_s=0.0).now_us()


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
