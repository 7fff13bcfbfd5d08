"""kill -9 of any part at any point: afterwards every accepted event has its final state and each effect once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter

import psycopg
import pytest
from serving import Served
from waiting import wait_until

from eventproc.errors import EventprocError

SERIES = "5b0d3c4e-7c57-4b35-9d6c-3d9f1e6a2b11"
EVENTS = 60
FINAL = ("succeeded", "failed", "commit_failed", "cancelled")


def work(db, n, series, **kwargs):
    """Leave each kind of effect: an event with an id made from the message's, one without, a sample, a file."""
    import pathlib
    import time

    time.sleep(0.005)
    ep.emit("work.done", {"n": n}, id=f"done-{ep.event.message_id}")  # noqa: F821  # `ep` is there without import
    ep.emit("work.counted", {"n": n})  # noqa: F821
    db.insert(series, [1_000_000_000 * (n + 1)], [float(n)])
    pathlib.Path("note.txt").write_text(f"note {n}")
    ep.upload_file("note.txt", f"note-{n}.txt")  # noqa: F821
    return n


def make_series(db, series, **kwargs):
    db.create(series, "crash", name="numbers")


def prepare(served: Served) -> None:
    conn = served.connect()
    for hook in ("work", "work.done", "work.counted", "set.up"):
        conn.put_hook(hook, summary="x", sample={})
    conn.register(work, hook="work", notify_on_success="a@example.com", retries={"max": 20, "backoff": 0.05})
    conn.register(make_series, hook="set.up")
    run = conn.wait(conn.emit("set.up", {"series": SERIES})["runs"][0])
    assert run["state"] == "succeeded", run


class Emitter(threading.Thread):
    """Emits events with ids of their own until each is accepted, whatever happens to the server."""

    def __init__(self, served: Served, count: int = EVENTS) -> None:
        super().__init__(daemon=True)
        self.served = served
        self.count = count
        self.accepted: list[str] = []
        self.stop = threading.Event()

    def run(self) -> None:
        for n in range(self.count):
            while not self.stop.is_set():
                with contextlib.suppress(EventprocError, OSError, ValueError):  # it is down: try again
                    self.accepted.append(
                        self.served.connect().emit("work", {"n": n, "series": SERIES}, id=f"event-{n}")["id"]
                    )
                    break
                time.sleep(0.05)


def check_everything_once(served: Served, emitter: Emitter) -> None:
    emitter.join(120)
    assert emitter.accepted == [f"event-{n}" for n in range(emitter.count)]
    conn = served.connect()

    def all_final():
        runs = list(conn.runs(hook="work", limit=None))
        return runs if len(runs) == emitter.count and all(run["state"] in FINAL for run in runs) else None

    runs = wait_until(all_final, timeout_s=120, what="every event to reach its final state")
    assert Counter(run["state"] for run in runs) == {"succeeded": emitter.count}
    assert {run["event_id"]: run["result"] for run in runs} == {f"event-{n}": n for n in range(emitter.count)}
    done = Counter(event["id"] for event in conn.events(hook="work.done", limit=None))
    assert done == {f"done-event-{n}": 1 for n in range(emitter.count)}
    counted = Counter(event["payload"]["n"] for event in conn.events(hook="work.counted", limit=None))
    assert counted == dict.fromkeys(range(emitter.count), 1)
    values = conn.values(SERIES)
    assert sorted(values["values"]) == [float(n) for n in range(emitter.count)]
    for run in runs:
        assert [file["name"] for file in conn.run_files(run["id"])] == [f"note-{run['result']}.txt"]
    notices = wait_until(
        lambda: (
            (found := list(conn.notices(limit=None))) and all(notice["state"] == "sent" for notice in found) and found
        ),
        timeout_s=120,
        what="all mails to be sent",
    )
    assert Counter(notice["run"] for notice in notices) == {run["id"]: 1 for run in runs}


@pytest.mark.slow
@pytest.mark.parametrize("role", ["worker", "engine", "api", "notifier"])
def test_a_role_killed_again_and_again_loses_and_doubles_nothing(platform, role):
    prepare(platform)
    emitter = Emitter(platform)
    emitter.start()
    chance = random.Random(role)
    for _ in range(4):
        time.sleep(chance.uniform(0.05, 0.8))
        platform.kill_role(role)
    check_everything_once(platform, emitter)


@pytest.mark.slow
def test_a_first_start_killed_at_any_moment_is_made_good_by_the_next(serve):
    served = serve(wait=False)
    chance = random.Random(7)
    for _ in range(6):
        time.sleep(chance.uniform(0.2, 2.5))
        served.kill_all()
        served.start(wait=False)
    served.kill_all()
    served.start()
    conn = served.connect()
    assert conn.me()["name"] == "admin"
    assert "schedule.tick" in conn.hooks()
    assert served.json("doctor")["ok"] is True


@pytest.mark.slow
def test_everything_killed_again_and_again_loses_and_doubles_nothing(platform):
    prepare(platform)
    emitter = Emitter(platform)
    emitter.start()
    chance = random.Random(4711)
    for _ in range(3):
        time.sleep(chance.uniform(0.1, 1.0))
        platform.kill_all()
        platform.start()
    check_everything_once(platform, emitter)


def holds_a_transaction(served: Served) -> bool:
    """Tell whether some process of the platform is inside a transaction on its database."""
    url = served.environ.get("EVENTPROC_DATABASE_URL")
    if url is None:
        probe = sqlite3.connect(served.data / "eventproc.db", isolation_level=None, timeout=0.2)
        try:
            probe.execute("BEGIN IMMEDIATE")
            probe.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
        finally:
            probe.close()
        return False
    with psycopg.connect(url, autocommit=True) as conn:
        # With a transaction id: one that wrote, and so holds locks that others may wait for.
        recent = "xact_start < now() - interval '100 ms' AND backend_xid IS NOT NULL"
        (count,) = conn.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {recent}").fetchone()
    return count > 0


def freeze_worker(served: Served, *, inside: bool) -> int:
    """Stop the worker's process for now: inside a transaction, or outside of any."""
    pid = served.pid_of("worker")
    for _ in range(500):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.25)  # what others have open is closed by then
        if holds_a_transaction(served) is inside:
            return pid
        os.kill(pid, signal.SIGCONT)
        time.sleep(random.uniform(0.005, 0.05))
    pytest.fail(f"the worker was never met {'inside' if inside else 'outside of'} a transaction")


def another_worker_takes_over(served: Served, emitter: Emitter, frozen: int, *, thaw: bool) -> None:
    helper = Served(served.data, **{n: v for n, v in served.environ.items() if n.startswith("EVENTPROC_")})
    try:
        helper.start("--role", "worker")
        emitter.join(60)
        conn = served.connect()
        wait_until(
            lambda: (
                len(runs := conn.runs(hook="work", limit=None)) == emitter.count
                and all(run["state"] in FINAL for run in runs)
            ),
            timeout_s=60,
            what="the helper to finish all runs",
        )
        if thaw:
            os.kill(frozen, signal.SIGCONT)
        check_everything_once(served, emitter)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(frozen, signal.SIGCONT)
        helper.close()


@pytest.mark.slow
def test_a_worker_frozen_beyond_its_lease_can_not_write_over_its_successor(platform):
    """The frozen worker wakes with results of runs that others have taken over: the fencing token refuses them."""
    prepare(platform)
    emitter = Emitter(platform, count=20)
    emitter.start()
    wait_until(lambda: len(emitter.accepted) > 3, what="some events")
    frozen = freeze_worker(platform, inside=False)
    another_worker_takes_over(platform, emitter, frozen, thaw=True)


@pytest.mark.slow
@pytest.mark.external_service
def test_a_worker_frozen_inside_a_transaction_does_not_hold_up_the_others_for_ever(serve, postgres):
    platform = serve(EVENTPROC_DATABASE_URL=postgres.url(postgres.create()))
    prepare(platform)
    emitter = Emitter(platform, count=200)
    emitter.start()
    wait_until(lambda: len(emitter.accepted) > 3, what="some events")
    frozen = freeze_worker(platform, inside=True)
    another_worker_takes_over(platform, emitter, frozen, thaw=False)


def test_a_database_locked_by_another_process_delays_and_loses_nothing(serve):
    served = serve()
    prepare(served)
    locker = sqlite3.connect(served.data / "eventproc.db", isolation_level=None, check_same_thread=False)
    emitter = Emitter(served, count=10)
    try:
        locker.execute("BEGIN IMMEDIATE")
        emitter.start()
        time.sleep(4)
        assert served.connect().health()["status"] == "ok"
        locker.execute("ROLLBACK")
    finally:
        locker.close()
    check_everything_once(served, emitter)
