"""Contract of the store: which runs a worker gets, and in what order."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from store_world import World, make_bundle

from eventproc.abc import Store
from eventproc.model import Concurrency, Failure, HookSpec, Isolation, Occupied, Options, Rate, RunState
from eventproc.store import candidates

BATCH = Options(isolation=Isolation.BATCH)


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


def test_a_claim_brings_all_that_is_needed_to_execute(world: World):
    handler = world.handler(tags=("t",), bundle=make_bundle(b"code"))
    run_id = world.run(handler, event="e1")
    [claim] = world.claim()
    assert (claim.run_id, claim.attempt, claim.interruptions, claim.callbacks_only) == (run_id, 1, 0, False)
    assert claim.handler == handler.current
    assert claim.handler_name == "handler"
    assert claim.owner_id == world.user().id
    assert claim.event.id == "e1"
    assert claim.lease_until_us == world.now_us + 60_000_000
    run = world.get(run_id)
    assert (run.state, run.worker, run.started_us) == (RunState.RUNNING, "w1", world.now_us)


def test_nothing_is_claimed_twice_and_nothing_before_it_is_due(world: World):
    handler = world.handler()
    now = world.run(handler)
    later = world.run(handler, due_us=world.now_us + 5_000_000)
    assert world.claim_ids() == [now]
    assert world.claim_ids() == []
    world.later(5)
    assert world.claim_ids() == [later]


def test_runs_come_in_the_order_in_which_they_are_due(world: World):
    handler = world.handler()
    late = world.run(handler, due_us=500)
    early = world.run(handler, due_us=100)
    assert world.claim_ids() == [early, late]


def test_kinds_of_isolation_are_claimed_apart(world: World):
    alone = world.runs(world.handler(name="alone"), 3)
    cell = world.runs(world.handler(name="cell", options=Options(isolation=Isolation.CELL)), 3)
    batch = world.runs(world.handler(name="batch", options=BATCH), 3)
    with world.store.begin() as tx:
        claims = tx.runs.claim(worker="w", pythons=(), want_run=4, want_batch=2, lease_us=1, now_us=world.now_us)
    taken = {claim.run_id for claim in claims}
    assert len(taken & set(alone + cell)) == 4
    assert len(taken & set(batch)) == 2
    assert {*alone[:2], *cell[:2], *batch[:2]} == taken


def test_handlers_take_turns_so_that_a_flood_starves_nobody(world: World):
    flood = world.handler(name="flood")
    world.runs(flood, 200)
    quiet = world.runs(world.handler(name="quiet"), 2)
    assert set(quiet) <= set(world.claim_ids(4))


def claimed(world: World, *, run: dict[str, int] | None = None, batch: dict[str, int] | None = None) -> Counter[str]:
    """Claim with slots that work for these owners, of whose slots nobody may have more than two; count by handler."""

    def occupied(slots: dict[str, int] | None) -> Occupied:
        return Occupied(by_owner={world.user(name).id: count for name, count in (slots or {}).items()}, most=2)

    with world.store.begin() as tx:
        claims = tx.runs.claim(
            worker="w",
            pythons=(),
            want_run=4,
            want_batch=40,
            lease_us=1,
            now_us=world.now_us,
            run_slots=occupied(run),
            batch_slots=occupied(batch),
        )
    return Counter(claim.handler_name for claim in claims)


def test_nobody_gets_all_slots_where_others_have_handlers(world: World):
    for name in ("flood", "flood too"):
        world.runs(world.handler(name=name, owner="mallory"), 20)
    assert claimed(world, run={"mallory": 1}).total() == 1  # nobody else is there, and no more slots for one
    world.handler(name="quiet", owner="ada")
    assert claimed(world, run={}).total() == 2
    assert claimed(world, run={"mallory": 1}).total() == 1
    assert claimed(world, run={"mallory": 2}).total() == 0
    world.run(world.handler(name="quiet", owner="ada"))
    assert claimed(world, run={"mallory": 2}) == {"quiet": 1}


def test_a_claim_says_whether_runs_were_left_for_their_owner_having_enough(world: World):
    def held_back(held: int) -> bool:
        slots = Occupied(by_owner={world.user("mallory").id: held}, most=2)
        with world.store.begin() as tx:
            tx.runs.claim(
                worker="w", pythons=(), want_run=2, want_batch=0, lease_us=1, now_us=world.now_us, run_slots=slots
            )
            return tx.runs.held_back

    flood = world.handler(name="flood", owner="mallory")
    world.handler(name="quiet", owner="ada")
    assert not held_back(2)  # nothing waits
    world.runs(flood, 4)
    assert not held_back(0)
    assert held_back(2)


def test_a_slot_is_for_all_that_is_claimed_of_a_handler_of_isolation_batch(world: World):
    for name in ("flood", "flood too", "flood three"):
        world.runs(world.handler(name=name, owner="mallory", options=BATCH), 20)
    world.handler(name="alone", owner="ada")  # of another kind
    assert len(claimed(world)) == 3
    quiet = world.handler(name="quiet", owner="ada", options=BATCH)
    got = claimed(world, batch={"mallory": 1})
    assert len(got) == 1
    assert got.total() > 1
    assert claimed(world, batch={"mallory": 2}).total() == 0
    world.runs(quiet, 3)
    assert claimed(world, batch={"mallory": 2}) == {"quiet": 3}


def test_the_start_moves_on_when_there_is_room_for_one_only(world: World):
    handlers = [world.handler(name=f"h{number}") for number in range(3)]
    for handler in handlers:
        world.runs(handler, 3)
    order = [world.get(run_id).handler_id for _ in range(9) for run_id in world.claim_ids(1)]
    assert order == [handler.id for handler in handlers] * 3


def test_one_busy_handler_gets_all_the_room_there_is(world: World):
    world.run(world.handler(name="quiet"))
    world.runs(world.handler(name="busy"), 50)
    assert len(world.claim_ids(40)) == 40


def test_runs_of_one_handler_version_come_together(world: World):
    first, second = (world.handler(name=name, options=BATCH) for name in ("first", "second"))
    for _ in range(5):
        world.run(first)
        world.run(second)
    names = [claim.handler_name for claim in world.claim(10)]
    assert names == ["first"] * 5 + ["second"] * 5


def test_only_pythons_that_the_worker_has_are_claimed(world: World):
    world.handler(bundle=make_bundle(python="3.8"))
    both = world.handler(bundle=make_bundle(python="3.12"))
    old = world.run(both, version=0)
    new = world.run(both, version=1)
    world.run(world.handler(name="elsewhere", bundle=make_bundle(python="3.9")))
    assert world.claim_ids(pythons=["3.12", "3.11"]) == [new]
    assert world.claim_ids(pythons=["3.8"]) == [old]
    assert world.claim_ids(pythons=["3.10"]) == []


# ------------------------------------------------------------------------------------------------ pausing


def test_a_paused_handler_waits_until_it_is_resumed(world: World):
    handler = world.handler()
    run_id = world.run(handler)
    with world.store.begin() as tx:
        assert tx.handlers.set_paused(handler.id, paused=True, by="ada", now_us=1)
    assert world.claim_ids() == []
    with world.store.read() as tx:
        assert tx.runs.next_due_us() is None
        assert tx.runs.backlog(handler.id) == 1
    with world.store.begin() as tx:
        tx.handlers.set_paused(handler.id, paused=False, by="ada", now_us=1)
    assert world.claim_ids() == [run_id]


def test_a_disabled_user_pauses_the_handlers_he_owns(world: World):
    run_id = world.run(world.handler(owner="eve"))
    other = world.run(world.handler(name="other"))
    with world.store.begin() as tx:
        tx.users.update(world.users["eve"].id, disabled=True)
    assert world.claim_ids() == [other]
    with world.store.begin() as tx:
        tx.users.update(world.users["eve"].id, disabled=False)
    assert world.claim_ids() == [run_id]


@pytest.mark.parametrize(
    ("paused", "waiting"), [("compute.create", {"compute.create"}), ("compute.*", {"compute.create", "compute.delete"})]
)
def test_a_paused_hook_holds_back_its_events_also_for_handlers_of_a_glob(world: World, paused, waiting):
    with world.store.begin() as tx:
        for name in ("compute.*", "compute.create", "network.up"):
            tx.hooks.put(HookSpec(name=name, summary="s"), now_us=1, by="ada")
        assert tx.hooks.set_paused(paused, paused=True)
    exact = world.handler("compute.create", "exact")
    glob = world.handler("compute.*", "glob")
    runs = {
        world.run(exact): "compute.create",
        world.run(glob, hook="compute.create"): "compute.create",
        world.run(glob, hook="compute.delete"): "compute.delete",
        world.run(world.handler("network.up", "up")): "network.up",
    }
    assert {runs[run_id] for run_id in world.claim_ids()} == set(runs.values()) - waiting
    with world.store.begin() as tx:
        tx.hooks.set_paused(paused, paused=False)
    assert {runs[run_id] for run_id in world.claim_ids()} == waiting


# ------------------------------------------------------------------------------------------------ order


def test_a_run_waits_for_the_earlier_one_of_its_key(world: World):
    handler = world.handler()
    first, second = world.runs(handler, 2, order_key="a")
    other = world.run(handler, order_key="b")
    free = world.run(handler)
    [claim, *rest] = world.claim()
    assert {claim.run_id, *(item.run_id for item in rest)} == {first, other, free}
    assert world.claim_ids() == []
    world.finish(next(item for item in [claim, *rest] if item.run_id == first))
    assert world.claim_ids() == [second]


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED])
def test_a_dead_run_does_not_block_its_key(world: World, state):
    handler = world.handler()
    world.run(handler, order_key="a")
    second = world.run(handler, order_key="a")
    [claim] = world.claim()
    world.finish(claim, state, failure=Failure(kind="exception", message="no"))
    assert world.claim_ids() == [second]


def test_a_retrying_run_blocks_its_key_and_comes_again_first(world: World):
    handler = world.handler()
    first, second = world.runs(handler, 2, order_key="a")
    [claim] = world.claim()
    world.finish(claim, RunState.RETRYING, due_us=world.now_us + 5_000_000)
    assert world.claim_ids() == []
    world.later(5)
    [claim] = world.claim()
    assert (claim.run_id, claim.attempt) == (first, 2)
    world.finish(claim)
    assert world.claim_ids() == [second]


def test_keys_of_different_handlers_do_not_block_each_other(world: World):
    runs = [world.run(world.handler(name=name), order_key="a") for name in ("one", "two")]
    assert sorted(world.claim_ids()) == runs


def test_a_requeued_run_waits_for_the_one_of_its_key_that_runs(world: World):
    handler = world.handler()
    first, second = world.runs(handler, 2, order_key="a")
    [claim] = world.claim()
    world.finish(claim, RunState.FAILED, failure=Failure(kind="exception", message="no"))
    [running] = world.claim()
    assert running.run_id == second
    with world.store.begin() as tx:
        tx.runs.requeue([first], now_us=world.now_us, current=False)
    assert world.claim_ids() == []
    world.finish(running)
    assert world.claim_ids() == [first]


def test_a_long_backlog_of_one_key_does_not_hide_the_others(world: World):
    handler = world.handler()
    first = world.runs(handler, 3 * candidates.window(4), order_key="b")[0]
    others = [world.run(handler, order_key=key) for key in ("a", "c", "d", "e", "f", "a")]
    assert world.claim_ids(4) == [first, *others[:3]]
    assert world.claim_ids(1) == [others[3]]
    assert world.claim_ids(4) == [others[4]]
    assert world.claim_ids(4) == []


# ------------------------------------------------------------------------------------------------ limits


def test_concurrency_limits_a_handlers_leased_runs(world: World):
    handler = world.handler(options=Options(concurrency=Concurrency(count=2)))
    world.runs(handler, 5)
    claims = world.claim()
    assert len(claims) == 2
    assert world.claim_ids() == []
    with world.store.read() as tx:
        assert tx.runs.next_due_us() is None
    world.finish(claims[0])
    assert len(world.claim_ids()) == 1
    world.finish(claims[1], RunState.COMMITTING)
    assert world.claim_ids() == []


def test_concurrency_with_a_key_limits_each_value(world: World):
    handler = world.handler(options=Options(concurrency=Concurrency(count=1, key="site")))
    ids = [world.run(handler, limit_key=key) for key in ("a", "a", "a", "b", "b", None)]
    assert set(world.claim_ids()) == {ids[0], ids[3], ids[5]}
    assert world.claim_ids() == []


def test_a_long_backlog_of_one_limited_key_does_not_hide_the_others(world: World):
    handler = world.handler(options=Options(concurrency=Concurrency(count=1, key="site")))
    first = world.runs(handler, 3 * candidates.window(4), limit_key="a")[0]
    others = [world.run(handler, limit_key=key) for key in ("b", "c", "c")]
    assert world.claim_ids(4) == [first, *others[:2]]
    assert world.claim_ids(4) == []


def test_a_new_version_changes_the_limit_for_runs_that_wait(world: World):
    handler = world.handler(options=Options(concurrency=Concurrency(count=1)))
    world.runs(handler, 5)
    assert len(world.claim_ids()) == 1
    world.handler(options=Options(concurrency=Concurrency(count=3)))
    assert len(world.claim_ids()) == 2


def test_a_rate_limits_starts_in_a_window(world: World):
    handler = world.handler(options=Options(rate=Rate(count=2, per_s=10)))
    ids = world.runs(handler, 5)
    assert world.claim_ids() == ids[:2]
    start = world.now_us
    world.later(3)
    assert world.claim_ids() == []
    with world.store.read() as tx:
        assert tx.runs.next_due_us() == start + 10_000_000
        assert tx.runs.next_due_us(after_us=world.now_us) == start + 10_000_000
    world.later(7)
    assert world.claim_ids() == ids[2:4]
    world.later(10)
    assert world.claim_ids() == ids[4:]


def test_a_rate_with_a_key_limits_each_value(world: World):
    handler = world.handler(options=Options(rate=Rate(count=1, per_s=10, key="site")))
    ids = [world.run(handler, rate_key=key) for key in ("a", "a", "b", None, None)]
    assert set(world.claim_ids()) == {ids[0], ids[2], ids[3]}
    world.later(10)
    assert set(world.claim_ids()) == {ids[1], ids[4]}


def test_rate_and_concurrency_hold_together(world: World):
    handler = world.handler(options=Options(rate=Rate(count=3, per_s=10), concurrency=Concurrency(count=2)))
    world.runs(handler, 6)
    claims = world.claim()
    assert len(claims) == 2
    for claim in claims:
        world.finish(claim)
    assert len(world.claim_ids()) == 1


# ------------------------------------------------------------------------------------------------ when


def test_the_next_due_time_is_that_of_the_first_waiting_run(world: World):
    with world.store.read() as tx:
        assert tx.runs.next_due_us() is None
    handler = world.handler()
    world.run(handler, due_us=9_000_000)
    world.run(handler, due_us=7_000_000)
    with world.store.read() as tx:
        assert tx.runs.next_due_us() == 7_000_000
        assert tx.runs.next_due_us(after_us=7_000_000) == 9_000_000
        assert tx.runs.next_due_us(after_us=9_000_000) is None


# ------------------------------------------------------------------------------------------------ two workers


@pytest.mark.parametrize("options", [Options(), BATCH, Options(concurrency=Concurrency(count=3))])
def test_workers_in_threads_never_get_the_same_run_and_all_get_done(store: Store, options):
    world = World(store)
    handler = world.handler(options=options)
    ids = world.runs(handler, 60) + [world.run(handler, order_key=f"k{number % 5}") for number in range(60)]
    seen: Counter[int] = Counter()
    running: Counter[str] = Counter()
    guard = threading.Lock()
    problems: list[str] = []

    def work(name: str) -> None:
        idle = 0
        while idle < 300:
            claims = world.claim(7, worker=name)
            idle = 0 if claims else idle + 1
            with guard:
                seen.update(claim.run_id for claim in claims)
                running["all"] += len(claims)
                if options.concurrency and running["all"] > 3:
                    problems.append(f"{running['all']} at a time")
            for claim in claims:
                with guard:
                    running["all"] -= 1
                assert world.finish(claim)
            if len(seen) == len(ids):
                return

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert seen == Counter(ids)
