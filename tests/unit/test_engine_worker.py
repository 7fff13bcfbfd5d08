"""The worker: executing, retrying, committing, rolling back; handlers run on threads of the test's process."""

# ruff: noqa: PTH110, PTH123, F821 - handlers open files as users do, and `ep` is there for them

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from engine_lab import Lab
from waiting import wait_until

from eventproc.abc import Store, Tx
from eventproc.engine.clock import ManualClock
from eventproc.errors import StoreUnavailable
from eventproc.model import RunState
from eventproc.store.memory import MemoryStore

S = RunState


@pytest.fixture
def lab():
    with Lab() as made:
        yield made


@pytest.fixture
def notes(tmp_path) -> Path:
    """A file that handlers append to."""
    return tmp_path / "notes"


def written(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def echo(db, **payload):
    print("hello from", payload["n"])
    return {"n": payload["n"]}


def failing(db, **payload):
    with open(payload["notes"], "a") as file:
        file.write(f"{ep.event.attempt} ")
    raise ValueError("it does not work")


def emitting(db, **payload):
    ep.emit("test.result", {"from": ep.event.message_id}, id=payload.get("id"))
    if payload.get("fail"):
        raise ValueError("after emitting")
    return "done"


def test_code_that_is_damaged_in_the_store_is_never_loaded_and_fails_at_once(lab, monkeypatch):
    """Nobody knows what half a blob would do; no retry can mend it."""
    lab.register(echo, retries=3, failure="a@example.com")
    with lab.store.read() as tx:
        rows = type(tx.handlers)
    whole = rows.blob
    monkeypatch.setattr(rows, "blob", lambda self, handler_id, version: whole(self, handler_id, version)[:40])
    lab.start()
    run = lab.result_of(payload={"n": 1})
    assert (run.state, run.attempt, run.failure.kind) == (S.FAILED, 1, "load")
    assert "code of handler 'echo' version 0 is damaged" in run.failure.message
    assert "register the handler again" in run.failure.message


# --------------------------------------------------------------------------------------------------- success


def test_a_run_succeeds_with_result_output_and_figures(lab):
    lab.register(echo)
    lab.start()
    run = lab.result_of(payload={"n": 7})
    assert run.state is S.SUCCEEDED
    assert run.result_json == '{"n":7}'
    assert run.attempt == 1
    assert run.sandbox
    assert run.worker
    assert run.started_us <= run.finished_us
    assert "hello from 7" in lab.logs(run.id)


def test_one_notice_tells_of_success_to_all_who_asked(lab):
    lab.register(echo, success="a@example.com, b@example.com", failure="c@example.com")
    lab.start()
    run = lab.result_of(payload={"n": 1})
    assert lab.notices(run.id) == [("success", ("a@example.com", "b@example.com"))]


@pytest.mark.parametrize("isolation", ["run", "batch", "cell"])
def test_many_runs_are_each_executed_once(lab, notes, isolation):
    def note(db, path, n):
        with open(path, "a") as file:
            file.write(f"{n} ")

    lab.register(note, isolation=isolation)
    runs = [lab.emit(payload={"path": str(notes), "n": n}).runs[0] for n in range(60)]
    lab.start()
    assert all(lab.ended(run).state is S.SUCCEEDED for run in runs)
    assert sorted(map(int, written(notes))) == list(range(60))


@pytest.mark.parametrize(("isolation", "counts"), [("run", "111"), ("batch", "123"), ("cell", "111")])
def test_what_a_handler_keeps_in_its_globals_outlives_a_run_in_batches_only(lab, isolation, counts):
    kept = []

    def counting(db, **payload):
        kept.append(1)
        return len(kept)

    lab.register(counting, isolation=isolation)
    lab.start(batch_slots=1)
    assert "".join(str(lab.result_of().result_json) for _ in range(3)) == counts


def test_events_that_a_run_emits_are_written_with_its_success(lab):
    lab.register(emitting)
    lab.start()
    run = lab.result_of()
    assert lab.events("test.result") == [{"from": run.event_id}]
    with lab.store.read() as tx:
        (event,) = tx.events.page(hook="test.result")
    assert event.caused_by_run == run.id
    assert event.hops == 1
    assert event.user_id == lab.user.id


def test_a_chain_of_events_runs_on_and_a_loop_ends(lab):
    def again(db, **payload):
        ep.emit("test.happened", {"n": payload["n"] + 1})

    lab.register(again)
    lab.start()
    lab.emit(payload={"n": 0})
    wait_until(lambda: lab.runs(states=(S.FAILED,)), what="the loop to be broken")
    (last,) = lab.runs(states=(S.FAILED,))
    assert "loop" in last.failure.message
    assert len(lab.events("test.happened")) == 17


# --------------------------------------------------------------------------------------------------- failure


def test_a_failed_run_says_why_and_leaves_nothing_behind(lab):
    lab.register(emitting, failure="a@example.com", success="b@example.com")
    lab.start()
    run = lab.result_of(payload={"fail": True})
    assert run.state is S.FAILED
    assert (run.failure.kind, run.failure.type, run.failure.message) == ("exception", "ValueError", "after emitting")
    assert "emitting" in run.failure.traceback
    assert lab.events("test.result") == []
    assert lab.notices(run.id) == [("failure", ("a@example.com",))]


def test_exceptions_are_retried_as_often_as_registered_and_then_told_once(lab, notes):
    lab.register(failing, retries={"max": 2, "backoff": "10ms", "jitter": 0}, failure="a@example.com")
    lab.start()
    run = lab.result_of(payload={"notes": str(notes)})
    assert run.state is S.FAILED
    assert run.attempt == 3
    assert written(notes) == ["1", "2", "3"]
    assert len(lab.notices(run.id)) == 1
    assert len(lab.events("run.failed")) == 1


def test_a_retry_that_works_is_a_success(lab, notes):
    def third_time(db, path):
        with open(path, "a+") as file:
            file.write("x ")
        if ep.event.attempt < 3:
            raise ValueError("not yet")

    lab.register(third_time, retries={"max": 5, "backoff": "10ms"}, failure="a@example.com")
    lab.start()
    run = lab.result_of(payload={"path": str(notes)})
    assert (run.state, run.attempt, run.failure) == (S.SUCCEEDED, 3, None)
    assert lab.notices(run.id) == []
    assert lab.events("run.failed") == []


def test_a_retry_waits_for_its_time_on_the_platforms_clock(notes):
    with Lab(clock=ManualClock()) as lab:
        lab.register(failing, retries={"max": 1, "backoff": "1h", "jitter": 0})
        lab.start(poll_s=0.02)
        (run_id,) = lab.emit(payload={"notes": str(notes)}).runs
        run = lab.in_state(run_id, S.RETRYING)
        assert run.due_us - lab.now_us() == 3600 * 10**6
        assert run.failure.message == "it does not work"
        lab.clock.advance(3599)
        assert not threading.Event().wait(0.1)
        assert lab.run(run_id).state is S.RETRYING
        lab.clock.advance(2)
        assert lab.ended(run_id).attempt == 2


def test_a_failure_is_an_event_that_handlers_can_run_on(lab):
    def fails(db, **payload):
        raise KeyError("the cause")

    def repairs(db, run, failure, handler, **rest):
        return [run, failure["type"], handler["name"]]

    lab.register(fails, tags=["a"])
    lab.register(repairs, "run.failed")
    lab.start()
    run = lab.result_of(tags=["a"])
    wait_until(lambda: lab.runs(hook="run.failed", states=(S.SUCCEEDED,)), what="the handler of run.failed")
    (repair,) = lab.runs(hook="run.failed")
    assert repair.result_json == f'[{run.id},"KeyError","fails"]'


def test_handlers_of_run_failed_never_cause_run_failed(lab):
    def fails(db, **payload):
        raise ValueError("always")

    lab.register(fails)
    lab.register(fails, "run.failed", name="also", failure="a@example.com")
    lab.start()
    lab.result_of()
    wait_until(lambda: lab.runs(hook="run.failed", states=(S.FAILED,)), what="the second failure")
    assert len(lab.events("run.failed")) == 1
    (second,) = lab.runs(hook="run.failed")
    assert lab.notices(second.id) == [("failure", ("a@example.com",))]


def test_a_result_that_json_can_not_hold_is_a_failure(lab):
    def strange(db, **payload):
        return {"x": object()}

    lab.register(strange)
    lab.start()
    run = lab.result_of()
    assert (run.state, run.failure.kind) == (S.FAILED, "result")


# -------------------------------------------------------------------------------------------------- commit and rollback


def append(path, word):
    with open(path, "a") as file:
        file.write(word + " ")


def with_callbacks(db, **payload):
    def note(word):
        append(payload["notes"], word)

    def commits():
        note("commit")
        with open(payload["notes"]) as file:
            count = file.read().count("commit")
        if count <= payload.get("failures", 0):
            raise OSError(f"commit number {count} failed")

    ep.on_commit(lambda: note("first"))
    ep.on_commit(commits)
    ep.on_rollback(lambda: note("rollback"))
    ep.emit("test.result", {"n": 1}, id=payload.get("id"))
    note("run")
    if payload.get("fail"):
        raise ValueError("no")
    return "done"


@pytest.mark.parametrize("isolation", ["run", "batch", "cell"])
def test_commit_callbacks_run_after_the_result_is_written(lab, notes, isolation):
    lab.register(with_callbacks, isolation=isolation, success="a@example.com")
    lab.start()
    run = lab.result_of(payload={"notes": str(notes)})
    assert (run.state, run.result_json) == (S.SUCCEEDED, '"done"')
    assert written(notes) == ["run", "first", "commit"]
    assert len(lab.events("test.result")) == 1
    assert len(lab.notices(run.id)) == 1


def test_effects_are_visible_when_commit_callbacks_run(lab):
    def asks(db, **payload):
        ep.emit("test.result", {})
        ep.on_commit(lambda: print("seen:", len(db.events(hook="test.result"))))
        print("before:", len(db.events(hook="test.result")))

    lab.register(asks)
    lab.start()
    run = lab.result_of()
    assert run.state is S.SUCCEEDED, run.failure
    wait_until(lambda: "seen: 1" in lab.logs(run.id), what="the output of the callback")
    assert "before: 0" in lab.logs(run.id)


def test_only_the_callbacks_that_failed_are_repeated(lab, notes):
    lab.register(with_callbacks)
    lab.start(commit_pause_s=0.01)
    run = lab.result_of(payload={"notes": str(notes), "failures": 2})
    assert run.state is S.SUCCEEDED
    assert written(notes) == ["run", "first", "commit", "commit", "commit"]


def test_callbacks_that_go_on_failing_make_a_commit_failure_with_effects_kept(lab, notes):
    lab.register(with_callbacks, failure="a@example.com")
    lab.start(commit_tries=2, commit_pause_s=0.01)
    run = lab.result_of(payload={"notes": str(notes), "failures": 3})
    assert run.state is S.COMMIT_FAILED
    assert "commit number 2 failed" in run.failure.message
    assert run.result_json == '"done"'
    assert len(lab.events("test.result")) == 1
    assert lab.notices(run.id) == [("failure", ("a@example.com",))]
    assert [event["state"] for event in lab.events("run.failed")] == ["commit_failed"]


def test_a_requeued_commit_failure_runs_its_callbacks_and_writes_its_effects_not_again(lab, notes):
    lab.register(with_callbacks, success="a@example.com", failure="a@example.com")
    lab.start(commit_tries=2, commit_pause_s=0.01)
    run = lab.result_of(payload={"notes": str(notes), "failures": 2})
    assert run.state is S.COMMIT_FAILED
    with lab.store.begin() as tx:
        assert tx.runs.requeue([run.id], now_us=lab.now_us(), current=False) == {run.id}
    lab.bus.wake("runs")
    lab.in_state(run.id, S.SUCCEEDED)
    assert lab.run(run.id).result_json == '"done"'
    assert len(lab.events("test.result")) == 1
    assert [outcome for outcome, _ in lab.notices(run.id)] in (["success", "failure"], ["failure", "success"])


def test_an_exception_rolls_back_and_commits_nothing(lab, notes):
    lab.register(with_callbacks)
    lab.start()
    run = lab.result_of(payload={"notes": str(notes), "fail": True})
    assert run.state is S.FAILED
    assert run.failure.rolled_back is True
    assert written(notes) == ["run", "rollback"]
    assert lab.events("test.result") == []


@pytest.mark.parametrize("isolation", ["run", "batch", "cell"])
def test_effects_that_have_become_impossible_fail_the_run_and_roll_it_back(lab, notes, tmp_path, isolation):
    go = tmp_path / "go"

    def slow(db, notes, go):
        import os
        import time

        ep.emit("test.result", {"mine": True}, id="taken")
        ep.emit("test.result", {"mine": True})
        ep.on_rollback(lambda: append(notes, "rollback"))
        append(notes, "run")
        while not os.path.exists(go):
            time.sleep(0.005)
        print("last words")

    lab.register(slow, "test.slow", isolation=isolation)
    lab.register(echo, isolation=isolation)
    lab.start()
    (run_id,) = lab.emit("test.slow", {"notes": str(notes), "go": str(go)}).runs
    wait_until(lambda: written(notes) == ["run"], what="the handler")
    lab.emit("test.result", {"mine": False}, id="taken")
    go.touch()
    run = lab.ended(run_id)
    assert (run.state, run.failure.kind, run.failure.type) == (S.FAILED, "result", "EventConflict")
    assert "'taken'" in run.failure.message
    assert written(notes) == ["run", "rollback"]
    assert lab.events("test.result") == [{"mine": False}]
    assert "last words" in lab.logs(run_id)


def test_impossible_effects_of_one_run_leave_its_neighbours_alone(lab):
    def emits(db, id):
        ep.emit("test.result", {"n": ep.event.message_id}, id=id)

    lab.register(emits, "test.in", isolation="batch")
    runs = [lab.emit("test.in", {"id": f"id{n // 2}"}).runs[0] for n in range(40)]
    lab.start(finish_delay_s=0.05)
    states = [lab.ended(run).state for run in runs]
    assert states.count(S.SUCCEEDED) == 20
    assert states.count(S.FAILED) == 20
    assert len(lab.events("test.result")) == 20


# --------------------------------------------------------------------------------------------------- order and limits


def test_runs_of_one_key_keep_their_order_even_when_one_is_retried(lab, notes):
    def first_fails_once(db, path, n):
        if n == 0 and ep.event.attempt == 1:
            raise ValueError("again, please")
        with open(path, "a") as file:
            file.write(f"{n} ")

    lab.register(first_fails_once, isolation="batch", retries={"max": 1, "backoff": "50ms"})
    runs = [lab.emit(payload={"path": str(notes), "n": n}, key="k").runs[0] for n in range(8)]
    lab.start(slots=4)
    for run in runs:
        assert lab.ended(run).state is S.SUCCEEDED
    assert written(notes) == [str(n) for n in range(8)]


def test_a_retry_is_on_time_though_others_wait_behind_it(lab):
    def first_fails_once(db, n):
        if n == 0 and ep.event.attempt == 1:
            raise ValueError("again, please")

    lab.register(first_fails_once, order_by="key", retries={"max": 1, "backoff": "50ms"})
    runs = [lab.emit(payload={"n": n}, key="k").runs[0] for n in range(3)]
    lab.start(poll_s=300.0)  # what is due and can not start yet must not leave the retry to the next look at everything
    assert [lab.ended(run).state for run in runs] == [S.SUCCEEDED] * 3


def test_a_paused_handler_waits_until_it_is_resumed(lab):
    record = lab.register(echo)
    lab.start()
    with lab.store.begin() as tx:
        tx.handlers.set_paused(record.id, paused=True, by="ada", now_us=1)
    other = lab.register(echo, "test.other", name="other")
    (run_id,) = lab.emit(payload={"n": 1}).runs
    assert lab.result_of("test.other", {"n": 2}).handler_id == other.id
    assert lab.run(run_id).state is S.QUEUED
    with lab.store.begin() as tx:
        tx.handlers.set_paused(record.id, paused=False, by="ada", now_us=1)
    lab.bus.wake("runs")
    assert lab.ended(run_id).state is S.SUCCEEDED


def test_without_any_wake_up_work_is_found_by_polling(lab):
    lab.register(echo)
    lab.start(poll_s=0.05)
    lab.bus.wake = lambda *topics: None  # the broker is gone
    assert lab.result_of(payload={"n": 1}).state is S.SUCCEEDED


def test_two_workers_share_the_work_and_do_nothing_twice(lab, notes):
    def note(db, path, n):
        with open(path, "a") as file:
            file.write(f"{n} ")

    lab.register(note, isolation="batch")
    lab.start(batch_max=5)
    lab.start(batch_max=5)
    runs = [lab.emit(payload={"path": str(notes), "n": n}).runs[0] for n in range(100)]
    ended = [lab.ended(run) for run in runs]
    assert {run.attempt for run in ended} == {1}
    assert sorted(map(int, written(notes))) == list(range(100))


# --------------------------------------------------------------------------------------------------- trouble


class Flaky(Store):
    """A store whose writing can be taken away."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.away = threading.Event()
        self.refusals = 0

    @contextmanager
    def begin(self) -> Iterator[Tx]:
        if self.away.is_set():
            self.refusals += 1
            raise StoreUnavailable("locked by another process")
        with self.inner.begin() as tx:
            yield tx

    def read(self):
        return self.inner.read()

    def join(self, session):
        return self.inner.join(session)

    def upgrade(self):
        self.inner.upgrade()

    def revision(self):
        return self.inner.revision()

    def close(self):
        self.inner.close()


def test_an_outcome_is_kept_while_the_store_is_away(notes, tmp_path):
    go = tmp_path / "go"

    def waits(db, notes, go):
        import os
        import time

        append(notes, "run")
        while not os.path.exists(go):
            time.sleep(0.005)
        return "kept"

    store = Flaky(MemoryStore())
    with Lab(store=store) as lab:
        lab.register(waits)
        lab.start()
        (run_id,) = lab.emit(payload={"notes": str(notes), "go": str(go)}).runs
        wait_until(lambda: written(notes) == ["run"], what="the handler")
        store.away.set()
        go.touch()
        wait_until(lambda: store.refusals > 3, what="tries to write")
        store.away.clear()
        run = lab.ended(run_id)
        assert (run.state, run.result_json, run.attempt) == (S.SUCCEEDED, '"kept"', 1)
        assert written(notes) == ["run"]
        lab.register(echo, "test.next", name="next")
        assert lab.result_of("test.next", {"n": 1}).state is S.SUCCEEDED


class Answerless(Flaky):
    """A store whose connection is lost right after some commits."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.lose = 0

    @contextmanager
    def begin(self) -> Iterator[Tx]:
        with self.inner.begin() as tx:
            finishing = False
            finish = tx.runs.finish

            def watched(finishes, *, now_us):
                nonlocal finishing
                finishing = any(item.state in (S.SUCCEEDED, S.COMMITTING) for item in finishes)
                return finish(finishes, now_us=now_us)

            tx.runs.finish = watched
            yield tx
        if finishing and self.lose > 0:
            self.lose -= 1
            raise StoreUnavailable("connection lost")


@pytest.mark.parametrize("callbacks", [False, True])
def test_a_commit_without_an_answer_is_neither_doubled_nor_taken_back(notes, callbacks):
    def makes(db, notes, callbacks):
        import pathlib

        pathlib.Path(notes + ".txt").write_text("content")
        ep.upload_file(notes + ".txt", "report.txt")
        ep.emit("test.result", {})
        append(notes, "run")
        if callbacks:
            ep.on_commit(lambda: append(notes, "commit"))
        else:
            ep.on_rollback(lambda: append(notes, "rollback"))

    store = Answerless(MemoryStore())
    with Lab(store=store) as lab:
        lab.register(makes, success="a@example.com")
        lab.start()
        store.lose = 1
        run = lab.result_of(payload={"notes": str(notes), "callbacks": callbacks})
        assert store.lose == 0
        assert run.state is S.SUCCEEDED
        with store.read() as tx:
            (file,) = tx.files.of_run(run.id)
        wait_until(lambda: len(lab.workers[0]._leases) == 0, what="the end of the lease")
        assert lab.blobs.open(file.code).read() == b"content"
        assert len(lab.events("test.result")) == 1
        assert len(lab.notices(run.id)) == 1
        assert written(notes) == ["run", "commit"][: 1 + callbacks]


def test_a_sandbox_that_gives_no_process_is_tried_again(lab):
    from eventproc.errors import SandboxError

    spawn, refusals = lab.sandbox.spawn, []

    def refuse_twice(program, limits):
        if len(refusals) < 2:
            refusals.append(1)
            raise SandboxError("no processes left")
        return spawn(program, limits)

    lab.sandbox.spawn = refuse_twice
    lab.register(echo, retries={"max": 0, "backoff": "10ms"})
    lab.start()
    run = lab.result_of(payload={"n": 1})
    assert (run.state, run.attempt) == (S.SUCCEEDED, 3)


def test_a_sandbox_that_never_gives_a_process_fails_the_run_with_its_words(lab):
    from eventproc.errors import SandboxError

    def refuse(program, limits):
        raise SandboxError("no processes left")

    lab.sandbox.spawn = refuse
    lab.register(echo, retries={"max": 0, "backoff": "5ms"})
    lab.start()
    run = lab.result_of(payload={"n": 1})
    assert (run.state, run.failure.kind, run.failure.message) == (S.FAILED, "sandbox", "no processes left")


def test_a_lost_lease_means_that_nothing_is_written(lab, notes, tmp_path):
    go = tmp_path / "go"

    def waits(db, notes, go):
        import os
        import time

        attempt = ep.event.attempt
        ep.emit("test.result", {"attempt": attempt})
        append(notes, str(attempt))
        while attempt == 1 and not os.path.exists(go):
            time.sleep(0.005)

    lab.register(waits)
    lab.start(lease_s=600.0)
    (run_id,) = lab.emit(payload={"notes": str(notes), "go": str(go)}).runs
    wait_until(lambda: written(notes) == ["1"], what="the first attempt")
    with lab.store.begin() as tx:
        tx.runs.expire_leases(now_us=lab.now_us() + 3600 * 10**6, max_interruptions=3)
    lab.bus.wake("runs")
    wait_until(lambda: lab.run(run_id).attempt == 2, what="the second claim")
    go.touch()
    run = lab.ended(run_id)
    assert (run.state, run.attempt, run.interruptions) == (S.SUCCEEDED, 2, 1)
    assert lab.events("test.result") == [{"attempt": 2}]
    lab.workers[0].stop(5.0)
    assert lab.events("test.result") == [{"attempt": 2}]


# --------------------------------------------------------------------------------------------------- stopping


def test_stopping_lets_running_handlers_end_and_gives_the_rest_back(lab, notes, tmp_path):
    go = tmp_path / "go"

    def waits(db, notes, go, n):
        import os
        import time

        append(notes, str(n))
        while not os.path.exists(go):
            time.sleep(0.005)

    lab.register(waits, isolation="batch")
    runs = [lab.emit(payload={"notes": str(notes), "go": str(go), "n": n}).runs[0] for n in range(10)]
    worker = lab.start()
    wait_until(lambda: written(notes), what="the first handler")
    stopper = threading.Thread(target=worker.stop, args=(20.0,))
    stopper.start()
    go.touch()
    stopper.join(20)
    assert not stopper.is_alive()
    states = [lab.run(run).state for run in runs]
    assert states[0] is S.SUCCEEDED
    assert set(states) == {S.SUCCEEDED, S.QUEUED}
    given_back = [lab.run(run) for run in runs if lab.run(run).state is S.QUEUED]
    assert {run.attempt for run in given_back} == {0}
    lab.start()
    assert all(lab.ended(run).state is S.SUCCEEDED for run in runs)
    assert sorted(map(int, written(notes))) == list(range(10))


def test_a_stopped_worker_takes_nothing_more(lab):
    lab.register(echo)
    worker = lab.start()
    lab.result_of(payload={"n": 1})
    worker.stop(5.0)
    (run_id,) = lab.emit(payload={"n": 2}).runs
    assert not threading.Event().wait(0.1)
    assert lab.run(run_id).state is S.QUEUED


def test_stop_before_run_is_a_run_that_ends_at_once(lab):
    worker = lab.start()
    worker.stop(1.0)
    worker.stop(1.0)
