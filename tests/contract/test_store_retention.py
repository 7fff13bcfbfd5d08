"""Contract of the store: what is past its time goes in chunks, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from store_world import World, make_event

from eventproc.abc import RetentionPolicy, Store
from eventproc.model import Failure, FileRecord, HookSpec, LogChunk, NewNotice, RunState

FAILURE = Failure(kind="exception", message="boom")
POLICY = RetentionPolicy(
    events_s=100, runs_s=100, failed_runs_s=1000, logs_s=50, files_s=100, notices_s=100, audit_s=100, dedup_s=10_000
)
FOREVER = RetentionPolicy(
    events_s=None,
    runs_s=None,
    failed_runs_s=None,
    logs_s=None,
    files_s=None,
    notices_s=None,
    audit_s=None,
    dedup_s=10_000,
)


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


def prune(world: World, policy: RetentionPolicy = POLICY, limit: int = 100) -> dict[str, int]:
    with world.store.begin() as tx:
        return tx.retention.prune(policy, now_us=world.now_us, limit=limit)


def exists(world: World, run_id: int) -> bool:
    with world.store.read() as tx:
        return tx.runs.get(run_id) is not None


def event_ids(world: World) -> list[str]:
    with world.store.read() as tx:
        return [event.id for event in tx.events.page(newest_first=False)]


def test_done_runs_go_with_their_logs_and_events(world: World):
    handler = world.handler()
    run_id = world.run(handler, event="e1")
    world.finish(world.claim()[0])
    with world.store.begin() as tx:
        tx.runs.add_logs([LogChunk(run_id=run_id, attempt=1, stream="log", at_us=world.now_us, text="x")])
    world.later(60)
    assert prune(world)["logs"] == 1
    assert exists(world, run_id)
    world.later(41)
    gone = prune(world)
    assert (gone["runs"], gone["events"]) == (1, 1)
    assert event_ids(world) == []


def test_failed_runs_keep_their_event_and_log_for_longer(world: World):
    run_id = world.run(world.handler(), event="e1")
    world.finish(world.claim()[0], RunState.FAILED, failure=FAILURE)
    with world.store.begin() as tx:
        tx.runs.add_logs([LogChunk(run_id=run_id, attempt=1, stream="log", at_us=world.now_us, text="x")])
    world.later(500)
    assert prune(world) == {"logs": 0, "runs": 0, "streams": 0, "events": 0, "notices": 0, "audit": 0}
    with world.store.read() as tx:
        assert len(tx.runs.logs(run_id)) == 1
    world.later(501)
    gone = prune(world)
    assert (gone["runs"], gone["events"]) == (1, 1)


def test_what_is_not_final_stays(world: World):
    handler = world.handler()
    world.run(handler, event="queued")
    run_id = world.run(handler, event="noticed")
    claims = {claim.run_id: claim for claim in world.claim()}
    world.finish(claims[run_id])
    with world.store.begin() as tx:
        tx.notices.add([NewNotice(run_id=run_id, outcome="success", recipients=("a@x",), due_us=0)], now_us=1)
    world.later(5000)
    assert prune(world) == {"logs": 0, "runs": 0, "streams": 0, "events": 0, "notices": 0, "audit": 0}
    with world.store.begin() as tx:
        [notice] = tx.notices.claim(limit=1, lease_us=1, now_us=world.now_us)
        tx.notices.sent(notice.id, notice.token, now_us=world.now_us)
    assert prune(world)["runs"] == 1
    assert event_ids(world) == ["queued"]


def test_a_hooks_own_times_come_first(world: World):
    with world.store.begin() as tx:
        tx.hooks.put(HookSpec(name="short", summary="s", keep_s=10), now_us=1, by="ada")
        tx.hooks.put(HookSpec(name="long", summary="s", keep_s=100_000), now_us=1, by="ada")
        tx.hooks.put(HookSpec(name="idle.*", summary="s", keep_idle_s=10), now_us=1, by="ada")
    busy = world.run(world.handler("idle.one"), event="busy", hook="idle.one")
    done = world.run(world.handler("short"), event="short with run")
    for claim in world.claim():
        world.finish(claim)
    with world.store.begin() as tx:
        for hook in ("short", "long", "idle.one", "plain"):
            tx.events.add([make_event(hook, hook=hook, accepted_us=world.now_us)])
    world.later(11)
    prune(world)
    assert event_ids(world) == ["busy", "long", "plain"]
    assert exists(world, busy)
    assert not exists(world, done)
    world.later(100)
    prune(world)
    assert event_ids(world) == ["long"]


def test_ids_of_what_the_platform_itself_reported_are_not_remembered(world: World):
    user = world.user().id
    own = make_event("own", source="models", accepted_us=world.now_us)
    others = [
        make_event("users", source="models", user_id=user, accepted_us=world.now_us),
        make_event("callers", source="shop", accepted_us=world.now_us),
    ]
    with world.store.begin() as tx:
        tx.events.add([own, *others])
    world.later(101)
    assert prune(world)["events"] == 3
    with world.store.begin() as tx:
        assert [is_new for _, is_new in tx.events.add([own, *others])] == [True, False, False]


def test_a_failed_run_keeps_an_event_past_its_hooks_own_time(world: World):
    with world.store.begin() as tx:
        tx.hooks.put(HookSpec(name="test.happened", summary="s", keep_s=10), now_us=1, by="ada")
    world.run(world.handler(), event="e1")
    world.finish(world.claim()[0], RunState.FAILED, failure=FAILURE)
    world.later(50)
    prune(world)
    assert event_ids(world) == ["e1"]


def test_pruning_goes_by_chunks_and_gets_past_what_must_stay(world: World):
    handler = world.handler()
    kept = world.runs(handler, 12)
    with world.store.begin() as tx:
        tx.events.add([make_event(f"free-{number}", accepted_us=world.now_us) for number in range(10)])
    world.later(101)
    counts = [prune(world, limit=2)["events"] for _ in range(9)]
    assert max(counts) == 2
    assert sum(counts) == 10
    assert len(event_ids(world)) == len(kept)
    assert prune(world, limit=2)["events"] == 0


def test_notices_and_audit_entries_go_when_they_are_past_their_time(world: World):
    run_id = world.run(world.handler())
    with world.store.begin() as tx:
        tx.notices.add(
            [NewNotice(run_id=run_id, outcome="success", recipients=("a@x",), due_us=0)], now_us=world.now_us
        )
        tx.audit.add(user="ada", action="a", object="o", detail={}, now_us=world.now_us)
        [notice] = tx.notices.claim(limit=1, lease_us=1, now_us=world.now_us)
        tx.notices.failed(notice.id, notice.token, error="no", retry_us=None, now_us=world.now_us)
    world.later(99)
    assert prune(world)["notices"] == 0
    world.later(2)
    gone = prune(world)
    assert (gone["notices"], gone["audit"]) == (1, 1)


def test_none_keeps_for_ever(world: World):
    world.run(world.handler(), event="e1")
    world.finish(world.claim()[0])
    world.later(10**6)
    assert sum(prune(world, FOREVER).values()) == 0
    with world.store.begin() as tx:
        assert tx.retention.expired_files(now_us=world.now_us, policy=FOREVER, limit=5) == []


def test_expired_files_are_named_so_that_their_bytes_can_go(world: World):
    files = [
        FileRecord(code=f"{number:032}", run_id=1, name="f", size=1, digest="d", created_us=world.now_us)
        for number in range(3)
    ]
    with world.store.begin() as tx:
        tx.files.add([*files, replace(files[0], code="f" * 32, created_us=world.now_us + 50_000_000)])
    world.later(101)
    with world.store.begin() as tx:
        first = tx.retention.expired_files(now_us=world.now_us, policy=POLICY, limit=2)
        second = tx.retention.expired_files(now_us=world.now_us, policy=POLICY, limit=2)
    assert sorted(first + second) == [file.code for file in files]
    with world.store.read() as tx:
        assert tx.files.exists([*first, "f" * 32]) == {"f" * 32}


def test_an_event_can_be_looked_for_by_tag_after_its_neighbours_went(world: World):
    with world.store.begin() as tx:
        tx.events.add([make_event("old", tags=("t",), accepted_us=world.now_us)])
        tx.events.add([make_event("new", tags=("t",), accepted_us=world.now_us + 60_000_000)])
    world.later(101)
    prune(world)
    with world.store.read() as tx:
        assert [event.id for event in tx.events.page(tag="t")] == ["new"]
