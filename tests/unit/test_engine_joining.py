"""Events join streams as they are accepted: all of a batch at once, each into the stream that it belongs to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from stream_world import HOUR_US, PlainMatcher, make_trigger

from eventproc.engine.accept import accept_events
from eventproc.errors import EventConflict, EventprocError, UnknownHook
from eventproc.model import Accepted, HookSpec, NewEvent, Role, Stream, StreamFilter, TriggerDefinition, TriggerRecord
from eventproc.registry import CatalogueCache
from eventproc.store.memory import MemoryStore

NOW = 10 * HOUR_US


class Feed:
    """A store with triggers, and events that are told by id, type and distinguishing trait."""

    def __init__(self, *triggers: TriggerDefinition) -> None:
        self.store = MemoryStore()
        self.cache = CatalogueCache(self.store, compile_trigger=PlainMatcher)
        self.now_us = NOW
        self.number = 0
        with self.store.begin() as tx:
            self.user = tx.users.add("ada", Role.DEVELOPER, now_us=0)
            tx.hooks.put(HookSpec(name="test.*", summary=""), now_us=0, by="test")
        self.triggers = [self.put(trigger) for trigger in triggers]

    def put(self, definition: TriggerDefinition) -> TriggerRecord:
        with self.store.begin() as tx:
            return tx.triggers.put(definition, owner=self.user, now_us=self.now_us)

    def event(self, kind: str, who: Any = "x", *, name: str | None = None, **values: Any) -> NewEvent:
        self.number += 1
        values.setdefault("time_us", self.now_us)
        payload = {} if who is None else {"id": who}
        return NewEvent(hook=f"test.{kind}", payload=payload, id=name or f"e{self.number}", **values)

    def accept(self, *events: NewEvent, present_us: Sequence[int] | None = None) -> list[Accepted | EventprocError]:
        with self.store.begin() as tx:
            catalogue = self.cache.current(tx)
            return accept_events(tx, catalogue, events, user_id=None, now_us=self.now_us, present_us=present_us)

    def streams(self, **which: Any) -> list[Stream]:
        with self.store.read() as tx:
            return tx.streams.page(StreamFilter(**which), newest_first=False)

    def ids(self, stream: Stream) -> list[str]:
        with self.store.read() as tx:
            return [event.id for event in tx.streams.events([stream.id])[stream.id]]


def test_events_with_the_same_traits_share_a_stream_over_calls_and_within_one() -> None:
    feed = Feed(make_trigger())
    feed.accept(feed.event("a", "x"), feed.event("a", "y"), feed.event("b", "x"))
    feed.accept(feed.event("c", "y"))
    x, y = feed.streams()
    assert (feed.ids(x), feed.ids(y)) == (["e1", "e3"], ["e2", "e4"])
    assert (x.name, x.distinguished_by, x.events) == ("day", {"id": "x"}, 2)


def test_values_of_different_types_are_different_traits() -> None:
    feed = Feed(make_trigger())
    feed.accept(*[feed.event("a", value) for value in (1, 1.5, "1", True, 1, "1")])
    assert [feed.ids(stream) for stream in feed.streams()] == [["e1", "e5"], ["e2"], ["e3", "e6"], ["e4"]]


def test_an_event_joins_a_stream_of_each_trigger_that_it_matches() -> None:
    feed = Feed(
        make_trigger("all", distinguished_by=()), make_trigger("ones", match_criteria=({"event_type": "test.a"},))
    )
    first, second, none = feed.accept(feed.event("a"), feed.event("b", "y"), feed.event("b", None))
    all_, ones = feed.streams()
    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    assert first.streams == (all_.id, ones.id)
    assert second.streams == (all_.id,)
    assert isinstance(none, Accepted)
    assert all_.distinguished_by == {}
    assert all_.events == 3


def test_duplicates_change_nothing_and_a_refused_event_joins_nothing() -> None:
    feed = Feed(make_trigger())
    event = feed.event("a", name="same")
    feed.accept(event, event)
    again, conflict, unknown = feed.accept(
        event, feed.event("a", "z", name="same"), NewEvent(hook="nothing.such", payload={"id": "x"})
    )
    assert isinstance(again, Accepted)
    assert again.duplicate
    assert again.streams == ()
    assert isinstance(conflict, EventConflict)
    assert isinstance(unknown, UnknownHook)
    (stream,) = feed.streams()
    assert (stream.events, feed.ids(stream)) == (1, ["same"])


def test_late_events_take_their_place_by_time() -> None:
    feed = Feed(make_trigger())
    feed.accept(feed.event("a", time_us=NOW), feed.event("a", time_us=NOW - 5), feed.event("a", time_us=NOW + 3))
    (stream,) = feed.streams()
    assert (stream.first_us, stream.last_us, stream.expire_us) == (NOW - 5, NOW + 3, NOW + 3 + HOUR_US)
    assert feed.ids(stream) == ["e2", "e1", "e3"]


def test_a_stream_fires_once_all_criteria_are_met_by_enough_events() -> None:
    needs = ({"event_type": "test.a", "number": 2}, {"event_type": "test.*", "number": 3})
    feed = Feed(make_trigger(fire_criteria=needs, fire_delay_s=60))
    feed.accept(feed.event("a"), feed.event("b"))
    (stream,) = feed.streams()
    assert (stream.matched, stream.fire_us) == ((1, 2), None)
    feed.now_us += 7
    feed.accept(feed.event("a"))
    (stream,) = feed.streams()
    assert (stream.matched, stream.fire_us) == ((2, 3), NOW + 7 + 60_000_000)
    feed.now_us += 9
    feed.accept(feed.event("a"))
    (stream,) = feed.streams()
    assert (stream.events, stream.fire_us) == (4, NOW + 7 + 60_000_000)


def test_no_fire_criteria_hold_with_the_first_event() -> None:
    feed = Feed(make_trigger(fire_criteria=()))
    (accepted,) = feed.accept(feed.event("a"))
    assert feed.streams()[0].fire_us == NOW
    assert isinstance(accepted, Accepted)
    assert accepted.due_us == NOW


def test_an_expired_stream_is_not_joined_any_more_and_still_expires() -> None:
    feed = Feed(make_trigger())
    feed.accept(feed.event("a"))
    feed.now_us += HOUR_US - 1
    feed.accept(feed.event("a", time_us=NOW))
    feed.now_us += 1
    feed.accept(feed.event("a", time_us=NOW + 1))
    old, new = feed.streams()
    assert (feed.ids(old), feed.ids(new)) == (["e1", "e2"], ["e3"])
    assert (old.joinable, new.joinable) == (False, True)
    with feed.store.begin() as tx:
        assert [stream.id for stream in tx.streams.due(now_us=feed.now_us, limit=9, expiring=True)] == [old.id]


def test_each_event_of_a_batch_may_have_a_present_time_of_its_own() -> None:
    feed = Feed(make_trigger())
    times = [NOW, NOW + HOUR_US - 1, NOW + 3 * HOUR_US, NOW + 3 * HOUR_US]
    feed.accept(*[feed.event("a", time_us=time) for time in times], present_us=times)
    assert [feed.ids(stream) for stream in feed.streams()] == [["e1", "e2"], ["e3", "e4"]]


def test_events_of_long_ago_are_each_a_stream_that_has_expired() -> None:
    feed = Feed(make_trigger())
    feed.accept(*[feed.event("a", time_us=0) for _ in range(3)])
    feed.accept(feed.event("a", time_us=0))
    assert [stream.events for stream in feed.streams()] == [1, 1, 1, 1]
    assert sum(stream.joinable for stream in feed.streams()) == 1


def test_a_new_version_of_a_trigger_counts_its_streams_anew() -> None:
    feed = Feed(make_trigger())
    feed.accept(feed.event("a"), feed.event("b"), feed.event("b"))
    feed.put(make_trigger(fire_criteria=({"event_type": "test.c"}, {"event_type": "test.b", "number": 3})))
    feed.accept(feed.event("b"))
    (stream,) = feed.streams()
    assert (stream.trigger_version, stream.matched, stream.fire_us) == (1, (0, 3), None)
    feed.accept(feed.event("c"))
    assert feed.streams()[0].fire_us == NOW


def test_a_paused_trigger_collects_nothing() -> None:
    feed = Feed(make_trigger())
    with feed.store.begin() as tx:
        tx.triggers.set_paused(feed.triggers[0].id, paused=True, by="ada", now_us=NOW)
    feed.accept(feed.event("a"))
    assert feed.streams() == []


def test_the_longest_chain_of_causes_is_remembered() -> None:
    feed = Feed(make_trigger())
    feed.accept(feed.event("a", hops=3), feed.event("a", hops=7), feed.event("a"))
    assert feed.streams()[0].hops == 7


def test_what_is_rolled_back_joined_nothing() -> None:
    feed = Feed(make_trigger(debug_level=2))

    def accept_and_fail() -> None:
        with feed.store.begin() as tx:
            accept_events(tx, feed.cache.current(tx), [feed.event("a")], user_id=None, now_us=NOW)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        accept_and_fail()
    assert feed.streams() == []
    feed.cache.tally.flush()
    with feed.store.read() as tx:
        assert tx.events.get("e1") is None
        assert tx.triggers.checks(feed.triggers[0].id) == []


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_debug_level_says_what_is_counted(level: int) -> None:
    trigger = make_trigger(debug_level=level)
    feed = Feed(trigger, make_trigger("other", distinguished_by=()))
    feed.accept(feed.event("a"), feed.event("end", None), feed.event("a", "x"))
    feed.cache.tally.flush()
    with feed.store.read() as tx:
        found = {(c.kind, c.name): (c.checks, c.passed) for c in tx.triggers.checks(feed.triggers[0].id)}
    counts = {
        ("Match", ""): (3, 2),
        ("Fire", ""): (4, 0),  # of two events, and twice whether that is enough
        ("Counter", "New stream"): (1, 0),
        ("Counter", "Added events"): (1, 0),
    }
    reasons = {
        ("Match", "not 'id'"): (1, 0),
        ("Fire", "Wrong event type"): (2, 0),
        ("Fire", "Not enough matching criteria"): (2, 0),
    }
    assert found == [{}, counts, counts | reasons][level]


def test_many_feeders_of_one_stream_lose_nothing() -> None:
    feed = Feed(make_trigger(distinguished_by=()))

    def run(name: str) -> None:
        for number in range(20):
            feed.accept(NewEvent(hook="test.a", payload={}, id=f"{name}-{number}", time_us=NOW))

    threads = [threading.Thread(target=run, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (stream,) = feed.streams()
    assert stream.events == len(feed.ids(stream)) == 80
