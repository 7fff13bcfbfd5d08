"""kill -9 around a pipeline's commit(): what the completion stored stays, once; the commit is an error of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import stream_roles
from serving import Served
from waiting import wait_until

from eventproc import Connection, register_pipeline
from eventproc.model import HookSpec, StreamState
from eventproc.store import open_store
from eventproc.testing import Harness

TRIGGER = {
    "name": "orders",
    "distinguished_by": ["order"],
    "expiration": "$last + 1h",
    "fire_pipeline": "bill",
    "match_criteria": [{"event_type": "shop.closed"}],
    "fire_criteria": [{"event_type": "shop.closed"}],
}


class Bill:
    """Makes an event, and does in its commit() what `how` says when it is called for the first time."""

    def __init__(self, how="fine"):
        self.how = how

    def handle_events(self, events, env):
        last = events[-1]
        made = {"message_id": f"bill-{last['order']}", "event_type": "shop.billed", "timestamp": last["timestamp"]}
        self.order = last["order"]
        print("handled", self.order)
        return [*events, made]

    def commit(self):
        print("commit of", self.order, "in attempt", ep.event.attempt)  # noqa: F821  # `ep` is there without import
        if ep.event.attempt > 1:  # noqa: F821
            print("committed", self.order)
        elif self.how == "hangs":
            import time

            time.sleep(600)
        elif self.how == "dies" and self.order in ("run1", "batch1"):
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        else:
            print("committed", self.order)


def prepare(conn: Connection, how: str, **options: Any) -> None:
    conn.put_hook("shop.*", summary="a shop")
    register_pipeline("bill", [(Bill, {"how": how})], conn=conn, **options)
    conn.request("POST", "/triggers", json={"definition": TRIGGER})


def stream_of(conn: Connection, order: str) -> dict[str, Any]:
    (found,) = conn.streams(trait=f"order:{order}")
    return found


def wait_for(conn: Connection, order: str, state: str) -> dict[str, Any]:
    wait_until(lambda: stream_of(conn, order)["state"] == state, timeout_s=60, what=f"stream {order} is {state}")
    return stream_of(conn, order)


def log_of(conn: Connection, stream: dict[str, Any]) -> str:
    return "".join(chunk["text"] for chunk in conn.logs(stream["run"]))


def check_repeated(conn: Connection, order: str) -> None:
    """A reset repeats the commit, and what the pipeline made stays what it was."""
    before = conn.event(f"bill-{order}")
    assert [event["id"] for event in conn.events(hook="shop.billed", limit=None)].count(f"bill-{order}") == 1
    conn.request("POST", "/streams/reset", json={"ids": [stream_of(conn, order)["id"]]})
    stream = wait_for(conn, order, "completed")
    # Output may come into the store a moment after the state.
    wait_until(lambda: f"committed {order}" in log_of(conn, stream), what="the repeated commit is in the log")
    assert conn.event(f"bill-{order}") == before
    assert [event["id"] for event in conn.events(hook="shop.billed", limit=None)].count(f"bill-{order}") == 1
    assert conn.run(stream["run"])["state"] == "succeeded"


def test_a_worker_killed_during_commit(platform: Served) -> None:
    prepare(platform.connect(), "hangs")
    for order, everything in (("o1", False), ("o2", True)):
        platform.connect().emit("shop.closed", {"order": order})
        run_id = committing(platform, order)
        # The event is there while the commit still goes on: it came with the completion.
        assert platform.connect().event(f"bill-{order}")["caused_by_run"] == run_id
        if everything:
            platform.kill_all()
            platform.start()
        else:
            platform.kill_role("worker")
        conn = platform.connect()
        stream = wait_for(conn, order, "commit_error")
        assert (stream["failure"]["kind"], stream["run"]) == ("interrupted", run_id)
        check_repeated(conn, order)


def committing(platform: Served, order: str) -> int:
    conn = platform.connect()

    def run() -> int | None:
        run_id = next(iter(conn.streams(trait=f"order:{order}")))["run"]
        return run_id if run_id and conn.run(run_id)["state"] == "committing" else None

    return wait_until(run, timeout_s=60, what="its commit() to begin")


def test_the_process_of_the_pipeline_killed_during_commit(serve: Any) -> None:
    conn = serve().connect()
    for isolation in ("run", "batch"):
        prepare(conn, "dies", isolation=isolation)
        orders = [f"{isolation}{number}" for number in range(6)]
        for order in orders:
            conn.emit("shop.closed", {"order": order})

        def ended(orders: list[str] = orders) -> bool:
            return all(stream_of(conn, order)["state"] in ("completed", "commit_error") for order in orders)

        wait_until(ended, timeout_s=60, what="all streams to end")
        failed = [order for order in orders if stream_of(conn, order)["state"] == "commit_error"]
        # In a batch, others may have waited for their commit() in the same process.
        assert f"{isolation}1" in failed
        assert isolation == "batch" or len(failed) == 1
        assert {stream_of(conn, order)["failure"]["kind"] for order in failed} == {"interrupted"}
        for order in failed:
            check_repeated(conn, order)
        billed = [event["id"] for event in conn.events(hook="shop.billed", limit=None)]
        assert sorted(each for each in billed if isolation in each) == sorted(f"bill-{order}" for order in orders)


class Tell:
    """Says in a file when it is committed."""

    def __init__(self, path):
        self.path = path

    def handle_events(self, events, env):
        made = {"message_id": f"told-{events[0]['number']}", "event_type": "feed.told", "timestamp": 1}
        self.number = events[0]["number"]
        return [*events, made]

    def commit(self):
        with open(self.path, "a") as file:  # noqa: PTH123  # a handler of the simplest kind
            print(self.number, file=file)


def test_a_worker_killed_between_completion_and_commit(tmp_path: Path) -> None:
    """It ends itself right after the transaction with the completion, before any commit() is called."""
    url, told = f"sqlite:///{tmp_path}/events.db", tmp_path / "told"
    store = open_store(url)
    store.upgrade()
    with Harness(store=store) as harness:
        with store.begin() as tx:
            tx.hooks.put(HookSpec(name="feed.*", summary=""), now_us=harness.clock.now_us(), by="test")
        harness.clock.set(stream_roles.START_US)
        harness.register_pipeline("bill", [(Tell, {"path": str(told)})])
        harness.add_trigger(**{**TRIGGER, "distinguished_by": ["number"], "match_criteria": [{}], "fire_criteria": []})
        harness.emit("feed.part", {"number": 4})
    command = [sys.executable, stream_roles.__file__, "die-before-commit", url]
    environ = {**os.environ, "EVENTPROC_TEST_START_US": str(stream_roles.START_US)}
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE) as worker:
        assert worker.wait(60) == -signal.SIGKILL
    assert not told.exists()
    with Harness(store=open_store(url)) as harness:
        (stream,) = harness.streams
        assert stream.state is StreamState.COMPLETED  # that is what was stored, with the event
        assert [event.id for event in harness.events if event.hook == "feed.told"] == ["told-4"]
        harness.clock.set(stream_roles.START_US + 3_600_000_000)
        harness.expire_leases()
        (stream,) = harness.streams
        assert (stream.state, stream.failure and stream.failure.kind) == (StreamState.COMMIT_ERROR, "interrupted")
        harness.use.streams.reset(harness.admin, [stream.id])
        harness.settle(60)
        assert harness.streams[0].state is StreamState.COMPLETED
        assert [event.id for event in harness.events if event.hook == "feed.told"] == ["told-4"]
    assert told.read_text() == "4\n"
