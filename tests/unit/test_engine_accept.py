"""Accepting events: checked, written and dispatched together."""

from __future__ import annotations

import json

import pytest
from engine_lab import Lab

from eventproc.engine.accept import accept_events
from eventproc.engine.clock import ManualClock
from eventproc.errors import EventConflict, EventprocError, InvalidInput, InvalidPayload, TooLarge, UnknownHook
from eventproc.model import MAX_HOPS, Accepted, HookSpec, NewEvent, RunFilter
from eventproc.registry.catalogue import Catalogue


@pytest.fixture
def lab():
    with Lab(clock=ManualClock()) as made:
        yield made


def nothing(db, **payload):
    return None


def new(hook="test.happened", payload=None, **more):
    return NewEvent(hook=hook, payload=payload or {}, **more)


def test_an_event_gets_what_its_sender_left_out(lab):
    accepted = lab.emit(payload={"b": 1, "a": [1.5, None]})
    with lab.store.read() as tx:
        event = tx.events.get(accepted.id)
    assert len(event.id) == 32
    assert event.source == "api"
    assert event.time_us == event.accepted_us == lab.now_us()
    assert event.user_id == lab.user.id
    assert json.loads(event.payload_json) == {"b": 1, "a": [1.5, None]}


def test_what_the_sender_said_is_kept(lab):
    lab.emit(id="mine", source="plc-7", time_us=5, tags=["x", "y"], key="k", payload={"a": 1})
    with lab.store.read() as tx:
        event = tx.events.get("mine")
    assert (event.source, event.time_us, event.tags, event.key) == ("plc-7", 5, ("x", "y"), "k")


def test_each_event_is_refused_by_itself(lab):
    lab.hook(HookSpec(name="strict", summary="", schema={"required": ["n"], "properties": {"n": {"type": "integer"}}}))
    results = lab.accept(
        new(id="1"),
        new("strict", {"n": "x"}),
        new("unknown.hook"),
        new("test.*"),
        new(payload={"a": float("nan")}),
        new(payload={"a": "x" * 2_000_000}),
        new(id="x" * 256),
        new(id="bad\x00id"),
        new(tags=["t"] * 101),
        new(time_us=10**18),
        new(hops=MAX_HOPS + 1),
        new(key=""),
        new(trace_parent="x"),
        new("strict", {"n": 1}, id="2"),
    )
    kinds = [type(result) for result in results]
    assert kinds == [
        Accepted,
        InvalidPayload,
        UnknownHook,
        InvalidInput,
        InvalidPayload,
        TooLarge,
        *[InvalidInput] * 7,
        Accepted,
    ]
    assert results[1].details["path"] == "$.n"
    with lab.store.read() as tx:
        assert [event.id for event in tx.events.page(newest_first=False)] == ["1", "2"]


def test_the_same_id_with_the_same_content_changes_nothing_and_reports_the_first(lab):
    lab.register(nothing)
    first = lab.emit(id="one", payload={"a": 1, "b": 2}, tags=["x", "y"])
    lab.clock.advance(5)
    again = lab.emit(id="one", payload={"b": 2, "a": 1}, tags=["y", "x"])
    assert (again.id, again.seq, again.duplicate, again.runs) == ("one", first.seq, True, ())
    assert len(lab.runs()) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"payload": {"a": 2}},
        {"payload": {"a": 1}, "tags": ["x"]},
        {"payload": {"a": 1}, "key": "k"},
        {"payload": {"a": 1}, "hook": "test.other"},
    ],
)
def test_the_same_id_with_other_content_is_refused(lab, other):
    lab.emit(id="one", payload={"a": 1})
    with pytest.raises(EventConflict, match="'one' is already used"):
        lab.emit(**{"id": "one", **other})


def test_the_same_id_twice_in_one_batch_is_one_event(lab):
    lab.register(nothing)
    first, second, third = lab.accept(new(id="a"), new(id="a"), new(id="a", payload={"other": 1}))
    assert not first.duplicate
    assert len(first.runs) == 1
    assert second.duplicate
    assert isinstance(third, EventConflict)


def test_events_run_the_handlers_that_match(lab):
    one = lab.register(nothing, name="one", tags=["a"])
    two = lab.register(nothing, name="two", filter={"v": [{"numeric": [">", 1]}]})
    three = lab.register(nothing, "test.*", name="three", tags=["b"])
    lab.register(nothing, "test.elsewhere", name="four")

    def runs(**event):
        return {lab.run(run_id).handler_id for run_id in lab.emit(**event).runs}

    assert runs() == {one.id, three.id}
    assert runs(payload={"v": 2}) == {one.id, two.id, three.id}
    assert runs(tags=["a"]) == {one.id}
    assert runs(tags=["c"]) == set()


def test_runs_carry_the_keys_of_order_and_limits(lab):
    lab.register(nothing, name="by-key")
    lab.register(nothing, name="by-path", order_by="metric.name", concurrency={"count": 1, "key": "host"})
    lab.register(nothing, name="none", order_by="none")
    accepted = lab.emit(key="k", payload={"metric": {"name": "m"}, "host": ["a", 1]})
    orders = {run.handler_name: run.order_key for run in lab.runs(event_id=accepted.id)}
    assert orders == {"by-key": "k", "by-path": '"m"', "none": None}
    accepted = lab.emit(payload={"metric": {"name": "m" * 1000}})
    orders = {run.handler_name: run.order_key for run in lab.runs(event_id=accepted.id)}
    assert orders["by-key"] is None
    assert len(orders["by-path"]) == 64


def test_nothing_is_accepted_when_the_callers_transaction_fails(lab):
    lab.register(nothing)
    listener = lab.bus.listen("runs")

    def accept_then_fail():
        with lab.store.begin() as tx:
            accept_events(tx, lab.cache.current(tx), [new(id="a")], user_id=None, now_us=1, bus=lab.bus)
            raise RuntimeError("the caller's own fault")

    with pytest.raises(RuntimeError):
        accept_then_fail()
    assert lab.runs() == []
    assert listener.wait(0) == set()
    lab.emit(id="a")
    assert listener.wait(60) == {"runs"}


def test_the_catalogue_follows_changes(lab):
    assert lab.emit().runs == ()
    record = lab.register(nothing)
    assert len(lab.emit().runs) == 1
    with lab.store.begin() as tx:
        tx.handlers.deregister(record.id, by="ada", now_us=1)
    assert lab.emit().runs == ()


def test_a_snapshot_stays_what_it_was(lab):
    before = lab.cache.latest()
    lab.register(nothing)
    after = lab.cache.latest()
    assert isinstance(after, Catalogue)
    assert (len(before.handlers), len(after.handlers)) == (0, 1)
    assert lab.cache.latest() is after


def test_a_paused_hook_accepts_events_and_their_runs_wait(lab):
    lab.register(nothing)
    with lab.store.begin() as tx:
        tx.hooks.set_paused("test.*", paused=True)
    accepted = lab.emit()
    assert len(accepted.runs) == 1
    with lab.store.begin() as tx:
        claims = tx.runs.claim(worker="w", pythons=[], want_run=9, want_batch=9, lease_us=10**6, now_us=lab.now_us())
    assert claims == []
    with lab.store.read() as tx:
        assert len(tx.runs.page(RunFilter())) == 1


def test_errors_are_values_that_say_what_to_do(lab):
    (error,) = lab.accept(new("test.happened", hops=99))
    assert isinstance(error, EventprocError)
    assert "loop" in error.message
