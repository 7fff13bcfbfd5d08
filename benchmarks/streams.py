"""
Streams: notifications joined in a second by the length of their stream, and pipeline runs in a second.

    python benchmarks/streams.py [--events 20000] [--lengths 10,18,100,1000,10000] [--runs 1000] [--json]

The reference is what OpenStack's StackTach winchester was measured at (a port to Python 3, SQLite and MariaDB alike,
streams of about 18 events, one process): 50 notifications and 29 streams in a CPU second. It is not run here.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peers import postgresql
from peers.servers import servers
from table import machine, show

from eventproc.engine.accept import accept_events
from eventproc.engine.worker import WorkerSettings
from eventproc.model import HookSpec, NewEvent, StreamFilter, TriggerDefinition
from eventproc.playback import Player, playback_on
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.store import open_store
from eventproc.testing import Harness

REFERENCE_EVENTS = 50  # notifications and
REFERENCE_STREAMS = 29  # streams that winchester does in a CPU second
BATCH = 500
START_US = 1_767_323_045_000_000
SECOND_US = 1_000_000

TRIGGER = TriggerDefinition(
    name="usage",
    distinguished_by=("instance_id", {"timestamp": "day"}),
    expiration="$last + 1d",
    match_criteria=(
        {"event_type": ["compute.instance.*", "!compute.instance.exists.*"]},
        {"event_type": "compute.instance.exists", "map_distinguished_by": {"timestamp": "audit_period_beginning"}},
    ),
    fire_criteria=({"event_type": "compute.instance.exists"},),
    fire_pipeline="usage",
    expire_pipeline=None,
)


class Logging:
    """What most pipelines begin with."""

    def handle_events(self, events, env):
        env["types"] = [event["event_type"] for event in events]
        return events

    def commit(self):
        pass

    def rollback(self):
        pass


class Usage:
    """Makes an event of each stream, as usage verification does."""

    def handle_events(self, events, env):  # noqa: ARG002  # called like this
        last = events[-1]
        made = {
            "message_id": "verified-" + last["message_id"],
            "event_type": "compute.instance.exists.verified",
            "timestamp": last["timestamp"],
            "instance_id": last["instance_id"],
            "events": len(events),
        }
        return [*events, made]

    def commit(self):
        pass

    def rollback(self):
        pass


class Committing(Usage):
    """The same with something to do once its events are stored."""

    def commit(self):
        self.done = True


def notifications(count: int, length: int, *, prefix: str = "e") -> Iterator[NewEvent]:
    """Yield events of streams of so many each, several streams in turn; each stream's last one lets it fire."""
    at_once = 50
    number = 0
    for first in range(0, -(-count // length), at_once):
        streams = range(first, min(first + at_once, -(-count // length)))
        for index in range(length):
            for stream in streams:
                number += 1
                if number > count:
                    return
                kind = "exists" if index == length - 1 else ("update", "create.end", "resize.end")[index % 3]
                yield NewEvent(
                    hook=f"compute.instance.{kind}",
                    id=f"{prefix}{number}",
                    time_us=START_US + number * 1000,
                    payload={
                        "instance_id": f"instance-{stream}",
                        "tenant_id": "a tenant",
                        "user_id": "a user",
                        "host": "compute-1",
                        "state": "active",
                        "memory_mb": 512,
                        "disk_gb": 20,
                        "instance_flavor_id": "2",
                        "launched_at": "2026-01-02T01:02:03Z",
                        "audit_period_beginning": "2026-01-02T00:00:00Z",
                        "_datetimes": ["launched_at", "audit_period_beginning"],
                    },
                )


def batches(events: Sequence[NewEvent]) -> Iterator[Sequence[NewEvent]]:
    for start in range(0, len(events), BATCH):
        yield events[start : start + BATCH]


def harness(url: str | None, **how: Any) -> Harness:
    made = Harness(store=open_store(url) if url else None, **how)
    with made.store.begin() as tx:
        tx.hooks.put(HookSpec(name="compute.*", summary="a cloud"), now_us=START_US, by="bench")
    made.clock.set(START_US)
    return made


def join_rate(url: str | None, count: int, length: int, *, triggers: bool = True) -> dict[str, Any]:
    """Accept notifications in one process, one thread; nothing fires."""
    events = list(notifications(count, length))
    with harness(url) as made:
        if triggers:
            made.use.triggers.put(made.admin, [TRIGGER])
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in batches(events):
            with made.store.begin() as tx:
                accept_events(tx, made.cache.current(tx), batch, user_id=None, now_us=START_US)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        with made.store.read() as tx:
            joined = sum(stream.events for stream in tx.streams.page(StreamFilter(), limit=1_000_000))
        assert joined == (count if triggers else 0)
    return {"per second": round(count / wall), "per CPU second": round(count / cpu)}


def run_rate(url: str | None, streams: int, pipeline: Any) -> dict[str, Any]:
    """Let streams of 18 events fire into a pipeline of isolation batch; a worker on threads of this process."""
    events = list(notifications(streams * 18, 18))
    sandbox = ForkServerSandbox()
    worker = WorkerSettings(slots=1, lease_s=3600.0)
    with harness(url, sandbox=sandbox, worker=worker) as made:
        made.register_pipeline("usage", [Logging, pipeline], isolation="batch")
        made.use.triggers.put(made.admin, [TRIGGER])
        for batch in batches(events):
            with made.store.begin() as tx:
                accept_events(tx, made.cache.current(tx), batch, user_id=None, now_us=START_US)
        wall = time.perf_counter()
        made.fire_streams()
        made.settle()
        wall = time.perf_counter() - wall
        states = {stream.state.label for stream in made.streams}
        assert states == {"completed"}, states
        assert len(made.streams) == streams
    return {"streams/s": round(streams / wall)}


def play_rate(count: int) -> dict[str, Any]:
    """Play a day with all its firing, exactly at its times, through the same pipeline."""
    with Player() as player:
        player.harness.register_pipeline("usage", [Logging, Usage], isolation="batch")
        player.harness.use.triggers.put(player.harness.admin, [TRIGGER])
        wall = time.perf_counter()
        playback = playback_on(player.harness)
        playback.play(notifications(count, 18))
        played = playback.drain()
        wall = time.perf_counter() - wall
    return {"events/s": round(count / wall), "streams": played.fired + played.expired}


def databases(folder: Path, postgres: str | None) -> Iterator[tuple[str, Any]]:
    """Yield (name, function that makes a fresh database and returns its URL)."""
    numbers = itertools.count(1)

    def upgraded(url: str) -> str:
        store = open_store(url)
        store.upgrade()
        store.close()
        return url

    yield "SQLite", lambda: upgraded(f"sqlite:///{folder}/{next(numbers)}.db")
    if postgres is not None:
        yield "PostgreSQL", lambda: upgraded(postgresql.fresh(postgres, next(numbers)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000, help="notifications for each length")
    parser.add_argument("--lengths", default="10,18,100,1000,10000")
    parser.add_argument("--runs", type=int, default=1000, help="streams that fire")
    parser.add_argument("--no-postgres", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lengths = [int(length) for length in options.lengths.split(",")]
    print(machine(), file=sys.stderr)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = None if options.no_postgres else stack.enter_context(servers(peers=False))[0]
        joined, ran = [], []
        for name, fresh in databases(folder, postgres):
            plain = join_rate(fresh(), options.events, 18, triggers=False)
            joined.append({"database": name, "events per stream": "no trigger", **plain, "to winchester": ""})
            for length in lengths:
                rates = join_rate(fresh(), options.events, length)
                ratio = f"{rates['per CPU second'] / REFERENCE_EVENTS:.0f}x"
                joined.append({"database": name, "events per stream": length, **rates, "to winchester": ratio})
            for what, pipeline in (("no commit()", Usage), ("with commit()", Committing)):
                rate = run_rate(fresh(), options.runs, pipeline)
                ratio = f"{rate['streams/s'] / REFERENCE_STREAMS:.0f}x"
                ran.append({"database": name, "pipeline": what, **rate, "to winchester": ratio})
        show("Notifications that join streams, one process, batches of 500", joined, as_json=options.json)
        show(
            "Streams of 18 events through two handlers, isolation batch, a new event of each", ran, as_json=options.json
        )
        show("Playback with all firing, in memory", [play_rate(options.events)], as_json=options.json)


if __name__ == "__main__":
    main()
