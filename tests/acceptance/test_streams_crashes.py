"""Feeders and workers at once, killed at random points: no event is lost or in two streams, none is done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import stream_roles
from servers import postgres_server
from stream_roles import START_US
from waiting import wait_until

from eventproc.abc import Store
from eventproc.model import HookSpec, StreamFilter, StreamState
from eventproc.store import open_store
from eventproc.testing import Harness

NOTIFICATIONS = int(os.environ.get("EVENTPROC_TEST_NOTIFICATIONS", "1200"))
LENGTH = 10
FEEDERS, WORKERS = 4, 3
TRIGGER = {
    "name": "groups",
    "distinguished_by": ["group"],
    "expiration": "$last + 100d",
    "fire_pipeline": "count",
    "expire_pipeline": "count",
    "match_criteria": [{"event_type": ["feed.*", "!feed.counted"]}],
    "fire_criteria": [{"event_type": "feed.end"}],
}


class Count:
    """Makes an event of each stream that says what was in it."""

    def handle_events(self, events, env):
        numbers = [event["number"] for event in events]
        made = {
            "message_id": f"counted-{min(numbers)}-{env['stream_id']}",
            "event_type": "feed.counted",
            "timestamp": events[-1]["timestamp"],
            "numbers": numbers,
        }
        return [*events, made]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.external_service)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "postgresql":
            server = stack.enter_context(postgres_server())
            found = server.url(server.create())
        else:
            found = f"sqlite:///{tmp_path}/events.db"
        store = open_store(found)
        store.upgrade()
        with Harness(store=store) as harness:  # closes the store
            with store.begin() as tx:
                tx.hooks.put(HookSpec(name="feed.*", summary=""), now_us=START_US, by="test")
            harness.register_pipeline("count", [Count], isolation="batch")
            harness.add_trigger(**TRIGGER)
        yield found


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, stream_roles.__file__, *map(str, arguments)]
    environ = {**os.environ, "EVENTPROC_TEST_START_US": str(START_US)}
    return subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stderr=subprocess.PIPE)


class Crowd:
    """Feeders that are started again with the same work, and workers, some of which are killed."""

    def __init__(self, url: str, *, kills: int) -> None:
        self._url = url
        self._kills = kills
        self._dice = random.Random(kills)
        share = NOTIFICATIONS // FEEDERS
        # Neighbours overlap: some groups are fed by two at once.
        self._shares = [(max(0, n * share - LENGTH // 2), (n + 1) * share) for n in range(FEEDERS)]
        self._feeders = [self._feeder(n) for n in range(FEEDERS)]
        self._workers = [start("work", url) for _ in range(WORKERS)]

    def _feeder(self, n: int) -> subprocess.Popen[bytes]:
        return start("feed", self._url, *self._shares[n], LENGTH)

    def run(self) -> None:
        try:
            wait_until(self._fed, timeout_s=240, what="all is fed")
        finally:
            for process in [*self._workers, *self._feeders]:
                process.kill()
                process.communicate()

    def _fed(self) -> bool:
        if self._kills and self._dice.random() < 0.1:
            self._kills -= 1
            self._kill_one()
        codes = [feeder.poll() for feeder in self._feeders]
        for feeder, code in zip(self._feeders, codes, strict=True):
            assert code in (None, 0), feeder.communicate()[1].decode()
        return codes == [0] * FEEDERS and not self._kills

    def _kill_one(self) -> None:
        n = self._dice.randrange(FEEDERS + WORKERS)
        processes, index = (self._feeders, n) if n < FEEDERS else (self._workers, n - FEEDERS)
        processes[index].send_signal(signal.SIGKILL)
        processes[index].communicate()
        processes[index] = self._feeder(n) if n < FEEDERS else start("work", self._url)


def finish(store: Store) -> None:
    """Let everything that is left fire and expire, long after."""
    with Harness(store=store) as harness:
        harness.clock.set(START_US + 200 * 86_400_000_000)
        harness.expire_leases()
        while harness.fire_streams():
            harness.settle(240)
        harness.settle(240)


@pytest.mark.parametrize("kills", [0, 6])
@pytest.mark.slow
def test_feeders_and_workers_lose_nothing_and_do_nothing_twice(url: str, kills: int) -> None:
    Crowd(url, kills=kills).run()
    finish(open_store(url))
    store = open_store(url)
    with store.read() as tx:
        streams = tx.streams.page(StreamFilter(), limit=1_000_000)
        held = tx.streams.events([stream.id for stream in streams])
        made = tx.events.page(hook="feed.counted", limit=1_000_000)
    store.close()
    assert Counter(stream.state for stream in streams) == {StreamState.COMPLETED: len(streams)}
    joined = Counter(event.id for events in held.values() for event in events)
    assert joined == Counter({f"n{number}": 1 for number in range(NOTIFICATIONS)})
    assert all(stream.events == len(held[stream.id]) for stream in streams)
    assert len({stream.distinguished_by["group"] for stream in streams}) == NOTIFICATIONS // LENGTH
    counted = Counter(number for event in made for number in json.loads(event.payload_json)["numbers"])
    assert counted == Counter(range(NOTIFICATIONS))
