"""Contract of the store: what becomes of a run, fenced by its lease."""

from __future__ import annotations

import pytest
from store_world import LEASE_US, World, make_bundle

from eventproc.abc import Store
from eventproc.model import Failure, Finish, Isolation, LogChunk, Options, RunFilter, RunState

FAILURE = Failure(kind="exception", message="boom", type="ValueError", traceback="Traceback …", rolled_back=True)


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


def requeue(world: World, *ids: int, current: bool = False) -> set[int]:
    with world.store.begin() as tx:
        return tx.runs.requeue(ids, now_us=world.now_us, current=current)


def expire(world: World, max_interruptions: int = 3):
    with world.store.begin() as tx:
        return tx.runs.expire_leases(now_us=world.now_us, max_interruptions=max_interruptions)


def test_a_run_succeeds_with_its_result(world: World):
    run_id = world.run(world.handler())
    [claim] = world.claim()
    world.later(1)
    assert world.finish(claim, result_json='{"n":1}', sandbox="process", cpu_us=1200, memory_bytes=5000)
    run = world.get(run_id)
    assert (run.state, run.result_json, run.failure, run.finished_us) == (
        RunState.SUCCEEDED,
        '{"n":1}',
        None,
        world.now_us,
    )
    assert (run.sandbox, run.cpu_us, run.memory_bytes, run.attempt) == ("process", 1200, 5000, 1)


def test_ids_and_handlers_of_runs_are_found_without_the_runs(world: World):
    first, second = world.handler(), world.handler(name="other")
    ids = [*world.runs(first, 3), *world.runs(second, 2)]
    with world.store.read() as tx:
        waiting = RunFilter(states=(RunState.QUEUED, RunState.FAILED))
        for which in (RunFilter(), waiting, RunFilter(handler_id=second.id)):
            for after in (None, ids[3]):
                found = tx.runs.find(which, after=after, limit=3)
                assert found == [run.id for run in tx.runs.page(which, after=after, limit=3)]
        handlers = tx.runs.handlers_of([*ids, 424242])
        assert tx.runs.handlers_of([]) == {}
    assert handlers == dict.fromkeys(ids[:3], (first.id, "handler")) | dict.fromkeys(ids[3:], (second.id, "other"))


def test_a_failure_is_kept_whole(world: World):
    run_id = world.run(world.handler())
    [claim] = world.claim()
    assert world.finish(claim, RunState.FAILED, failure=FAILURE)
    assert world.get(run_id).failure == FAILURE


def test_a_run_with_callbacks_keeps_its_lease_and_result_until_they_are_done(world: World):
    run_id = world.run(world.handler())
    [claim] = world.claim()
    assert world.finish(claim, RunState.COMMITTING, result_json="1")
    assert world.state(run_id) == "committing"
    assert world.get(run_id).finished_us is None
    assert world.claim_ids() == []
    assert world.finish(claim)
    run = world.get(run_id)
    assert (run.state, run.result_json) == (RunState.SUCCEEDED, "1")


def test_a_stale_finish_writes_nothing(world: World):
    handler = world.handler()
    run_id, other = world.runs(handler, 2)
    stale, good = world.claim()
    world.later(61)
    expire(world)
    [again, _] = world.claim(worker="w2")
    assert again.token > stale.token
    with world.store.begin() as tx:
        late = Finish(run_id=stale.run_id, token=stale.token, state=RunState.FAILED, failure=FAILURE, cpu_us=9)
        assert tx.runs.finish([late], now_us=world.now_us) == set()
    run = world.get(run_id)
    assert (run.state, run.worker, run.failure, run.cpu_us) == (RunState.RUNNING, "w2", None, None)
    assert world.finish(again)
    assert not world.finish(again)
    assert good.run_id == other


def test_of_many_finishes_the_stale_ones_are_told_apart(world: World):
    ids = world.runs(world.handler(), 5)
    claims = world.claim()
    assert world.finish(claims[1])
    with world.store.begin() as tx:
        finishes = [
            Finish(run_id=claim.run_id, token=claim.token + (claim is claims[3]), state=RunState.SUCCEEDED)
            for claim in claims
        ]
        assert tx.runs.finish(finishes, now_us=world.now_us) == {ids[0], ids[2], ids[4]}
        assert tx.runs.finish([], now_us=world.now_us) == set()
    assert world.state(ids[3]) == "running"


def test_a_run_that_never_started_is_given_back(world: World):
    run_id = world.run(world.handler())
    [claim] = world.claim()
    assert world.finish(claim, RunState.QUEUED, count_attempt=False)
    assert world.get(run_id).attempt == 0
    [again] = world.claim()
    assert (again.attempt, again.token) == (1, claim.token + 1)


def test_a_retry_comes_when_it_is_due(world: World):
    run_id = world.run(world.handler())
    [claim] = world.claim()
    assert world.finish(claim, RunState.RETRYING, failure=FAILURE, due_us=world.now_us + 2_000_000)
    run = world.get(run_id)
    assert (run.state, run.failure, run.due_us) == (RunState.RETRYING, FAILURE, world.now_us + 2_000_000)
    assert world.claim_ids() == []
    world.later(2)
    assert world.claim()[0].attempt == 2


# ------------------------------------------------------------------------------------------------ leases


def test_a_lease_is_renewed_by_its_holder_only(world: World):
    ids = world.runs(world.handler(), 2)
    first, second = world.claim()
    world.later(50)
    with world.store.begin() as tx:
        leases = [(first.run_id, first.token), (second.run_id, second.token + 1), (999, 1)]
        assert tx.runs.renew(leases, lease_us=LEASE_US, now_us=world.now_us) == {ids[0]}
        assert tx.runs.renew([], lease_us=LEASE_US, now_us=world.now_us) == set()
    world.later(20)
    assert [run.id for run in expire(world)] == [ids[1]]


def test_lost_leases_are_queued_again_until_there_were_too_many(world: World):
    run_id = world.run(world.handler())
    for lost in (1, 2, 3):
        assert world.claim_ids() == [run_id]
        assert expire(world) == []
        world.later(61)
        [run] = expire(world)
        assert (run.state, run.interruptions, run.failure) == (RunState.QUEUED, lost, None)
    world.claim()
    world.later(61)
    [run] = expire(world)
    assert run.state == RunState.FAILED
    assert run.failure is not None
    assert run.failure.kind == "lost"
    assert run.finished_us == world.now_us


def test_a_lease_lost_while_callbacks_ran_is_interrupted(world: World):
    world.run(world.handler())
    [claim] = world.claim()
    world.finish(claim, RunState.COMMITTING, result_json='"r"')
    world.later(61)
    [run] = expire(world)
    assert (run.state, run.result_json) == (RunState.COMMIT_FAILED, '"r"')
    assert run.failure is not None
    assert run.failure.kind == "interrupted"
    assert not world.finish(claim)


def test_leases_expire_in_chunks(world: World):
    world.runs(world.handler(), 5)
    world.claim()
    world.later(61)
    with world.store.begin() as tx:
        assert len(tx.runs.expire_leases(now_us=world.now_us, max_interruptions=3, limit=3)) == 3
    assert len(expire(world)) == 2


# ------------------------------------------------------------------------------------------------ cancel


def test_waiting_runs_are_cancelled_and_leased_ones_asked_to_end(world: World):
    handler = world.handler()
    leased, waiting, done = world.runs(handler, 3)
    claims = world.claim(3)
    world.finish(claims[2])
    world.finish(claims[1], RunState.RETRYING, due_us=world.now_us)
    with world.store.begin() as tx:
        assert tx.runs.cancel([leased, waiting, done, 999], now_us=world.now_us, reason="no need") == (
            {waiting},
            {leased},
        )
        assert tx.runs.cancel([], now_us=world.now_us, reason="") == (set(), set())
    run = world.get(waiting)
    assert run.state == RunState.CANCELLED
    assert run.failure == Failure(kind="cancelled", message="no need")
    with world.store.begin() as tx:
        assert tx.runs.cancel_requests([leased, waiting]) == {leased}
        assert tx.runs.renew([(leased, claims[0].token)], lease_us=LEASE_US, now_us=world.now_us) == set()
    assert world.finish(claims[0], RunState.CANCELLED, failure=Failure(kind="cancelled", message="no need"))
    assert world.claim_ids() == []


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.RETRYING])
def test_a_run_to_be_cancelled_is_not_queued_again(world: World, state):
    run_id = world.run(world.handler())
    [claim] = world.claim()
    with world.store.begin() as tx:
        tx.runs.cancel([run_id], now_us=world.now_us, reason="no need")
    assert world.finish(claim, state, due_us=world.now_us)
    assert world.state(run_id) == "cancelled"


def test_a_run_to_be_cancelled_whose_worker_is_lost_is_cancelled(world: World):
    run_id = world.run(world.handler())
    world.claim()
    with world.store.begin() as tx:
        tx.runs.cancel([run_id], now_us=world.now_us, reason="no need")
    world.later(61)
    assert [run.state for run in expire(world)] == [RunState.CANCELLED]


def test_deregistering_cancels_what_waits_and_lets_running_ones_finish(world: World):
    handler = world.handler()
    running, waiting = world.runs(handler, 2)
    [claim] = world.claim(1)
    with world.store.begin() as tx:
        assert tx.handlers.deregister(handler.id, by="ada", now_us=world.now_us)
        assert not tx.handlers.deregister(handler.id, by="ada", now_us=world.now_us)
    assert claim.run_id == running
    assert world.state(waiting) == "cancelled"
    assert world.finish(claim)
    assert world.state(running) == "succeeded"


def test_a_retry_of_a_deregistered_handler_is_cancelled(world: World):
    handler = world.handler()
    run_id = world.run(handler)
    [claim] = world.claim(1)
    with world.store.begin() as tx:
        tx.handlers.deregister(handler.id, by="ada", now_us=world.now_us)
    world.finish(claim, RunState.RETRYING, due_us=world.now_us)
    assert world.state(run_id) == "cancelled"


def test_a_run_queued_after_its_handler_was_deregistered_is_cancelled_in_time(world: World):
    handler = world.handler()
    with world.store.begin() as tx:
        tx.handlers.deregister(handler.id, by="ada", now_us=world.now_us)
    run_id = world.run(handler)
    assert world.claim_ids() == []
    expire(world)
    assert world.state(run_id) == "cancelled"


# ------------------------------------------------------------------------------------------------ requeue


def test_a_failed_run_starts_afresh_with_its_own_version(world: World):
    handler = world.handler()
    run_id = world.run(handler)
    [claim] = world.claim()
    world.finish(claim, RunState.FAILED, failure=FAILURE)
    world.handler(bundle=make_bundle(b"second"))
    assert requeue(world, run_id, 999) == {run_id}
    run = world.get(run_id)
    assert (run.state, run.attempt, run.failure, run.serial, run.finished_us) == (RunState.QUEUED, 0, None, 1, None)
    [again] = world.claim()
    assert (again.attempt, again.handler.version, again.serial, again.callbacks_only) == (1, 0, 1, False)
    assert again.token > claim.token
    assert requeue(world, run_id) == set()


def test_requeue_can_switch_to_the_current_version_and_its_isolation(world: World):
    handler = world.handler()
    run_id = world.run(handler)
    [claim] = world.claim()
    world.finish(claim, RunState.FAILED, failure=FAILURE)
    world.handler(bundle=make_bundle(b"second"), options=Options(isolation=Isolation.BATCH))
    requeue(world, run_id, current=True)
    with world.store.begin() as tx:
        [again] = tx.runs.claim(worker="w", pythons=(), want_run=0, want_batch=1, lease_us=1, now_us=world.now_us)
    assert again.handler.version == 1


def test_a_commit_failed_run_keeps_its_result_and_runs_callbacks_only(world: World):
    handler = world.handler()
    run_id = world.run(handler)
    [claim] = world.claim()
    world.finish(claim, RunState.COMMITTING, result_json='"recorded"')
    world.finish(claim, RunState.COMMIT_FAILED, failure=FAILURE)
    world.handler(bundle=make_bundle(b"second"))
    assert requeue(world, run_id, current=True) == {run_id}
    [again] = world.claim()
    assert (again.callbacks_only, again.attempt, again.handler.version, again.serial) == (True, 2, 0, 1)
    world.finish(again)
    run = world.get(run_id)
    assert (run.state, run.result_json, run.failure) == (RunState.SUCCEEDED, '"recorded"', None)


def test_recorded_effects_are_never_recorded_again_however_the_run_ends(world: World):
    run_id = world.run(world.handler())
    [claim] = world.claim()
    world.finish(claim, RunState.COMMITTING)
    world.finish(claim, RunState.COMMIT_FAILED, failure=FAILURE)
    requeue(world, run_id)
    world.claim()
    world.later(61)
    [run] = expire(world, max_interruptions=0)
    assert run.state == RunState.COMMIT_FAILED
    requeue(world, run_id)
    [again] = world.claim()
    world.finish(again, RunState.FAILED, failure=FAILURE)
    requeue(world, run_id)
    assert world.claim()[0].callbacks_only


def test_runs_of_a_deregistered_handler_are_not_requeued(world: World):
    handler = world.handler()
    run_id = world.run(handler)
    with world.store.begin() as tx:
        tx.handlers.deregister(handler.id, by="ada", now_us=world.now_us)
    assert requeue(world, run_id) == set()


def test_a_cancelled_run_can_be_requeued(world: World):
    run_id = world.run(world.handler())
    with world.store.begin() as tx:
        tx.runs.cancel([run_id], now_us=world.now_us, reason="oops")
    requeue(world, run_id)
    [claim] = world.claim()
    with world.store.read() as tx:
        assert tx.runs.cancel_requests([run_id]) == set()
    assert world.finish(claim)


# ------------------------------------------------------------------------------------------------ reading


def test_pages_of_runs_show_each_once_newest_first(world: World):
    first, second = world.handler(name="first"), world.handler("test.*", name="second")
    ids = []
    for number in range(12):
        ids.append(world.run(first, event=f"a{number}"))
        ids.append(world.run(second, event=f"b{number}", hook="test.other" if number % 2 else "test.happened"))
        world.later(1)
    for claim in world.claim(5):
        world.finish(claim)
    newest = ids[::-1]

    def paged(**which) -> list[int]:
        found: list[int] = []
        while page := world.page(**which, limit=4, **({"after": found[-1]} if found else {})):
            found += page
        return found

    runs = {run_id: world.get(run_id) for run_id in ids}
    assert paged() == newest
    assert paged(handler_id=second.id) == [run_id for run_id in newest if runs[run_id].handler_id == second.id]
    assert paged(hook="test.other") == [run_id for run_id in newest if runs[run_id].hook == "test.other"]
    assert paged(hook="test.other", handler_id=first.id) == []
    assert paged(states=(RunState.SUCCEEDED,)) == [r for r in newest if runs[r].state == RunState.SUCCEEDED]
    assert paged(states=(RunState.SUCCEEDED, RunState.QUEUED)) == newest
    assert paged(hook="test.happened", states=(RunState.QUEUED,)) == [
        r for r in newest if runs[r].hook == "test.happened" and runs[r].state == RunState.QUEUED
    ]
    assert paged(event_id="b3") == [ids[7]]
    assert paged(event_id="none") == []
    since, until = runs[ids[4]].created_us, runs[ids[10]].created_us
    assert paged(since_us=since, until_us=until) == [r for r in newest if since <= runs[r].created_us < until]


def test_counts_show_what_is_open_and_what_is_dead(world: World):
    handler = world.handler()
    world.runs(handler, 6)
    claims = world.claim(4)
    world.finish(claims[0])
    world.finish(claims[1], RunState.FAILED, failure=FAILURE)
    world.finish(claims[2], RunState.CANCELLED)
    with world.store.read() as tx:
        assert tx.runs.counts() == {"queued": 2, "running": 1, "failed": 1}
        assert tx.runs.backlog(handler.id) == 2


def test_logs_come_back_in_order_and_in_pages(world: World):
    run_id, other = world.runs(world.handler(), 2)
    with world.store.begin() as tx:
        tx.runs.add_logs(
            [
                LogChunk(run_id=run_id, attempt=1, stream="stdout", at_us=number, text=f"línea {number}\n")
                for number in range(5)
            ]
        )
        tx.runs.add_logs([LogChunk(run_id=other, attempt=1, stream="log", at_us=1, text="x")])
        tx.runs.add_logs([])
    with world.store.read() as tx:
        first = tx.runs.logs(run_id, limit=3)
        rest = tx.runs.logs(run_id, after=first[-1].id)
    assert [chunk.text for chunk in first + rest] == [f"línea {number}\n" for number in range(5)]
