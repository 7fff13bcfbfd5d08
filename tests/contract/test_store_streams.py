"""Contract of the store: triggers and their versions; streams, who joins them, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from store_world import World, make_event
from stream_world import HOUR_US, make_trigger

from eventproc.abc import Check, Handover, Joinable, RetentionPolicy, Store
from eventproc.model import (
    STREAM_FIRED,
    Failure,
    RunState,
    Stream,
    StreamFilter,
    StreamState,
    TriggerRecord,
)

FOREVER = RetentionPolicy(
    events_s=100,
    runs_s=None,
    failed_runs_s=None,
    logs_s=None,
    files_s=None,
    notices_s=None,
    audit_s=None,
    dedup_s=10_000,
    streams_s=500,
)


class Streams(World):
    """A store with one trigger whose streams are made directly."""

    def trigger(self, name: str = "day", **values: object) -> TriggerRecord:
        owner = self.user()
        with self.store.begin() as tx:
            return tx.triggers.put(make_trigger(name, **values), owner=owner, now_us=self.now_us)

    def joinable(self, trigger: TriggerRecord, key: str, **values: object) -> Joinable:
        stream = Joinable(0, key, trigger.id, 0, 100, 100, 1, [0], 0, None, self.now_us + HOUR_US, name=trigger.name)
        for name, value in values.items():
            setattr(stream, name, value)
        return stream

    def add(self, trigger: TriggerRecord, *keys: str, **values: object) -> list[int]:
        made = [self.joinable(trigger, key, **values) for key in keys]
        with self.store.begin() as tx:
            assert tx.streams.add(made, now_us=self.now_us) == set(keys)
        return [stream.id for stream in made]

    def get_stream(self, stream_id: int) -> Stream:
        with self.store.read() as tx:
            found = tx.streams.get(stream_id)
        assert found is not None
        return found

    def state_of(self, stream_id: int) -> StreamState:
        return self.get_stream(stream_id).state

    def due(self, *, expiring: bool = False, limit: int = 100) -> list[int]:
        with self.store.begin() as tx:
            found = tx.streams.due(now_us=self.now_us, limit=limit, expiring=expiring)
        return [stream.id for stream in found]

    def give(self, stream_id: int, *, expiring: bool = False) -> int:
        """Give a stream to a run and return the run's id."""
        handler = self.handler(hook=STREAM_FIRED, name=f"p{stream_id}")
        run_id = self.run(handler)
        state = StreamState.EXPIRING if expiring else StreamState.FIRING
        with self.store.begin() as tx:
            tx.streams.hand_over(
                [Handover(stream_id=stream_id, state=state, expiring=expiring, run_id=run_id)], now_us=self.now_us
            )
        return run_id

    def follow(self, run_id: int) -> None:
        with self.store.begin() as tx:
            tx.streams.follow([run_id], now_us=self.now_us)

    def put_event(self, name: str, **values: object) -> int:
        with self.store.begin() as tx:
            return tx.events.add([make_event(name, **values)])[0][0].seq

    def link(self, *pairs: tuple[int, int]) -> None:
        with self.store.begin() as tx:
            tx.streams.link(pairs)


@pytest.fixture
def world(store: Store) -> Streams:
    return Streams(store)


# ------------------------------------------------------------------------------------------------ triggers


def test_a_trigger_that_says_something_new_gets_a_version_and_one_that_does_not_changes_nothing(world: Streams) -> None:
    first = world.trigger()
    with world.store.read() as tx:
        revision = tx.handlers.revision()
    assert (first.version, first.definition) == (0, make_trigger())
    assert world.trigger() == first
    second = world.trigger(expiration="$last + 2h")
    assert (second.id, second.version, second.definition.expiration) == (first.id, 1, "$last + 2h")
    with world.store.read() as tx:
        assert tx.triggers.find("day") == tx.triggers.get(first.id) == second
        assert tx.triggers.live() == [second]
        assert tx.handlers.revision() > revision


def test_a_deleted_trigger_frees_its_name_and_nothing_joins_its_streams(world: Streams) -> None:
    old = world.trigger()
    (stream_id,) = world.add(old, "k")
    with world.store.begin() as tx:
        assert tx.triggers.delete(old.id, by="ada", now_us=world.now_us)
        assert not tx.triggers.delete(old.id, by="ada", now_us=world.now_us)
        assert tx.streams.joinable(["k"]) == {}
    assert world.state_of(stream_id) is StreamState.ACTIVE
    new = world.trigger()
    assert new.id != old.id
    with world.store.read() as tx:
        assert tx.triggers.live() == [new]
        gone = tx.triggers.get(old.id)
    assert gone is not None
    assert gone.deleted_us == world.now_us


def test_pausing_is_remembered(world: Streams) -> None:
    trigger = world.trigger()
    with world.store.begin() as tx:
        assert tx.triggers.set_paused(trigger.id, paused=True, by="bob", now_us=world.now_us)
    with world.store.read() as tx:
        found = tx.triggers.get(trigger.id)
    assert found == replace(trigger, paused=True, updated_by="bob")


def test_checks_add_up_until_they_are_cleared(world: Streams) -> None:
    trigger = world.trigger()
    reason = Check(trigger_id=trigger.id, kind="Match", name="not 'id'", checks=2)
    checks = Check(trigger_id=trigger.id, kind="Match", name="", checks=5, passed=3)
    for _ in range(2):
        with world.store.begin() as tx:
            tx.triggers.add_checks([reason, checks])
    with world.store.begin() as tx:
        assert tx.triggers.checks(trigger.id) == [replace(checks, checks=10, passed=6), replace(reason, checks=4)]
        tx.triggers.clear_checks(trigger.id)
        assert tx.triggers.checks(trigger.id) == []


# ------------------------------------------------------------------------------------------------ joining


def test_one_joinable_stream_per_key(world: Streams) -> None:
    trigger = world.trigger()
    (stream_id,) = world.add(trigger, "a", matched=[1, 0], fire_us=7, hops=3, traits_json='{"id":"x"}')
    other = world.joinable(trigger, "b")
    with world.store.begin() as tx:
        found = tx.streams.joinable(["a", "b"])
        tx.streams.add([other], now_us=world.now_us)
    assert found == {"a": world.joinable(trigger, "a", id=stream_id, matched=[1, 0], fire_us=7, hops=3, name="")}
    assert world.get_stream(stream_id).distinguished_by == {"id": "x"}


def test_what_joining_changed_is_written_back(world: Streams) -> None:
    (stream_id,) = world.add(world.trigger(), "a")
    world.later(1)
    with world.store.begin() as tx:
        stream = tx.streams.joinable(["a"])["a"]
        stream.first_us, stream.last_us, stream.events, stream.matched = 50, 300, 4, [3]
        stream.fire_us, stream.expire_us, stream.hops, stream.trigger_version = 9, 400, 2, 5
        tx.streams.change([stream], now_us=world.now_us)
    found = world.get_stream(stream_id)
    assert (found.first_us, found.last_us, found.events, found.matched) == (50, 300, 4, (3,))
    assert (found.fire_us, found.expire_us, found.hops, found.trigger_version) == (9, 400, 2, 5)
    assert found.joinable
    assert found.updated_us == world.now_us


def test_a_closed_stream_leaves_its_key_to_the_next(world: Streams) -> None:
    trigger = world.trigger()
    (old,) = world.add(trigger, "a")
    with world.store.begin() as tx:
        stream = tx.streams.joinable(["a"])["a"]
        stream.key = None
        tx.streams.change([stream], now_us=world.now_us)
    (new,) = world.add(trigger, "a")
    with world.store.begin() as tx:
        assert tx.streams.joinable(["a"])["a"].id == new
    assert not world.get_stream(old).joinable
    assert world.state_of(old) is StreamState.ACTIVE


def test_events_come_by_time_and_an_event_may_be_in_many_streams(world: Streams) -> None:
    first, second = world.add(world.trigger(), "a", "b")
    late, early = world.put_event("late", time_us=200), world.put_event("early", time_us=100)
    world.link((first, late), (first, early), (second, late))
    with world.store.read() as tx:
        events = tx.streams.events([first, second])
        assert {key: sorted(ids) for key, ids in tx.streams.of_events([late, early]).items()} == {
            late: [first, second],
            early: [first],
        }
    assert [event.id for event in events[first]] == ["early", "late"]
    assert [event.id for event in events[second]] == ["late"]


# ------------------------------------------------------------------------------------------------ firing, expiring


def test_streams_are_due_by_fire_time_else_by_expiry(world: Streams) -> None:
    trigger, now = world.trigger(), world.now_us
    fires, waits = world.add(trigger, "a", fire_us=now, expire_us=0) + world.add(
        trigger, "b", fire_us=now + 1, expire_us=0
    )
    expires, lives = world.add(trigger, "c", expire_us=now) + world.add(trigger, "d", expire_us=now + 5)
    assert world.due() == [fires]
    assert world.due(expiring=True) == [expires]
    world.now_us += 5
    assert world.due() == [fires, waits]
    assert world.due(limit=1) == [fires]
    assert world.due(expiring=True) == [expires, lives]
    with world.store.read() as tx:
        assert tx.streams.next_due_us() == now


def test_nobody_else_is_given_a_stream_that_is_being_handed_over(shared_store: Store) -> None:
    world = Streams(shared_store)
    ids = world.add(world.trigger(), "a", "b", fire_us=1)
    assert world.due() == ids
    run_id = world.give(ids[0])
    assert world.due() == ids[1:]
    found = world.get_stream(ids[0])
    assert (found.state, found.run_id, found.attempts, found.serial) == (StreamState.FIRING, run_id, 1, 1)
    assert not found.joinable


FAILURE = Failure(kind="exception", message="boom", type="KeyError", traceback="Traceback ...")


@pytest.mark.parametrize("expiring", [False, True])
@pytest.mark.parametrize(
    ("path", "fired", "expired"),
    [
        ([], StreamState.FIRING, StreamState.EXPIRING),
        ([RunState.SUCCEEDED], StreamState.COMPLETED, StreamState.COMPLETED),
        ([RunState.COMMITTING], StreamState.COMPLETED, StreamState.COMPLETED),
        ([RunState.FAILED], StreamState.ERROR, StreamState.EXPIRE_ERROR),
        ([RunState.CANCELLED], StreamState.ERROR, StreamState.EXPIRE_ERROR),
        ([RunState.RETRYING], StreamState.FIRING, StreamState.EXPIRING),
        ([RunState.COMMITTING, RunState.COMMIT_FAILED], StreamState.COMMIT_ERROR, StreamState.COMMIT_ERROR),
    ],
)
def test_a_stream_follows_its_run(
    world: Streams, *, expiring: bool, path: list[RunState], fired: StreamState, expired: StreamState
) -> None:
    (stream_id,) = world.add(world.trigger(), "a")
    run_id = world.give(stream_id, expiring=expiring)
    (claim,) = world.claim()
    for state in path:
        failure = FAILURE if state in (RunState.FAILED, RunState.COMMIT_FAILED) else None
        assert world.finish(claim, state, failure=failure)
    world.follow(run_id)
    found = world.get_stream(stream_id)
    assert found.state is (expired if expiring else fired)
    assert found.failure == (FAILURE if path and path[-1] in (RunState.FAILED, RunState.COMMIT_FAILED) else None)


@pytest.mark.parametrize("expiring", [False, True])
def test_reset_makes_a_stream_due_again(world: Streams, *, expiring: bool) -> None:
    stream_id, other = world.add(world.trigger(), "a", "b")
    run_id = world.give(stream_id, expiring=expiring)
    assert world.finish(world.claim()[0], RunState.FAILED, failure=FAILURE)
    world.follow(run_id)
    assert stream_id not in world.due() + world.due(expiring=True)
    world.later(3)
    with world.store.begin() as tx:
        assert tx.streams.reset([stream_id, other, 999], now_us=world.now_us) == {stream_id}
    assert world.state_of(stream_id) is (StreamState.RETRY_EXPIRE if expiring else StreamState.RETRY_FIRE)
    assert stream_id in world.due(expiring=expiring)
    assert stream_id not in world.due(expiring=not expiring)


def test_a_stream_that_a_run_works_on_can_not_be_deleted(world: Streams) -> None:
    busy, idle = world.add(world.trigger(), "a", "b")
    event = world.put_event("e")
    world.link((busy, event), (idle, event))
    world.give(busy)
    with world.store.begin() as tx:
        assert tx.streams.delete([busy, idle]) == {idle}
    with world.store.read() as tx:
        assert tx.streams.get(idle) is None
        assert tx.streams.of_events([event]) == {event: [busy]}
        assert tx.events.get("e") is not None


# ------------------------------------------------------------------------------------------------ looking


def test_streams_are_found_by_name_state_traits_and_times(world: Streams) -> None:
    day, week = world.trigger("day"), world.trigger("week")
    (one,) = world.add(day, "1", traits_json='{"id":5,"who":"ada"}', first_us=10, last_us=20)
    (two,) = world.add(day, "2", traits_json='{"id":50,"who":"ada \\"x\\""}', first_us=30, last_us=90)
    (three,) = world.add(week, "3", traits_json='{"id":5}', first_us=30, last_us=40)
    world.give(three)

    def find(**values: object) -> list[int]:
        with world.store.read() as tx:
            return [stream.id for stream in tx.streams.page(StreamFilter(**values))]

    assert find() == [three, two, one]
    assert find(name="day") == [two, one]
    assert find(states=(StreamState.FIRING,)) == [three]
    assert find(distinguished_by={"id": 5}) == [three, one]
    assert find(distinguished_by={"id": 5, "who": "ada"}) == [one]
    assert find(distinguished_by={"who": 'ada "x"'}) == [two]
    assert find(older_than_us=30) == [one]
    assert find(younger_than_us=40) == [two]
    with world.store.read() as tx:
        page = tx.streams.page(StreamFilter(), after=two, limit=1)
        assert [stream.id for stream in page] == [one]
        ascending = tx.streams.page(StreamFilter(), after=one, newest_first=False)
        assert [stream.id for stream in ascending] == [two, three]
        assert tx.streams.counts() == {StreamState.ACTIVE: 2, StreamState.FIRING: 1}


# ------------------------------------------------------------------------------------------------ retention


def test_trimming_leaves_live_streams_alone_and_takes_completed_ones(world: Streams) -> None:
    live, done = world.add(world.trigger(), "a", "b")
    kept, gone, idle = (world.put_event(name, accepted_us=world.now_us) for name in ("kept", "gone", "idle"))
    world.link((live, kept), (live, gone), (done, gone))
    with world.store.begin() as tx:
        tx.streams.hand_over(
            [Handover(stream_id=done, state=StreamState.COMPLETED, expiring=False)], now_us=world.now_us
        )

    def prune() -> None:
        with world.store.begin() as tx:
            tx.retention.prune(FOREVER, now_us=world.now_us, limit=100)

    def left() -> set[int]:
        with world.store.read() as tx:
            return set(tx.events.by_seq([kept, gone, idle]))

    world.later(101)
    prune()
    assert left() == {kept, gone}
    with world.store.begin() as tx:
        tx.streams.hand_over(
            [Handover(stream_id=live, state=StreamState.COMPLETED, expiring=False)], now_us=world.now_us
        )
    prune()
    assert left() == set()
    assert world.state_of(done) is StreamState.COMPLETED
    world.later(402)
    prune()
    with world.store.read() as tx:
        assert tx.streams.get(done) is None
        assert tx.streams.get(live) is not None
