"""Contract of the store: events are accepted once, and found again."""

from __future__ import annotations

import threading

import pytest
from store_world import World, make_event

from eventproc.abc import RetentionPolicy, Store
from eventproc.codec.events import payload_json
from eventproc.model import SECOND_US, NewRun


def test_an_event_comes_back_as_it_was_stored(store: Store):
    event = make_event(
        "e1",
        hook="compute.create",
        source="lab",
        tags=("a", "ü"),
        key="k",
        payload_json='{"text":"naïve \\u0000 ☃"}',
        trace_parent="00-ab-cd-01",
        hops=3,
        caused_by_run=7,
        time_us=2**53 + 1,
    )
    with store.begin() as tx:
        [(stored, new)] = tx.events.add([event])
    assert new
    assert stored.seq > 0
    with store.read() as tx:
        assert tx.events.get("e1") == stored
        assert tx.events.by_seq([stored.seq]) == {stored.seq: stored}
        assert tx.events.get("other") is None
    assert stored == make_event("e1").__class__(**{**_fields(event), "seq": stored.seq})


def _fields(event):
    return {name: getattr(event, name) for name in event.__dataclass_fields__}


def test_the_same_id_again_reports_the_first_and_changes_nothing(store: Store):
    with store.begin() as tx:
        [(first, _)] = tx.events.add([make_event("e1", payload_json='{"a":1}')])
    with store.begin() as tx:
        again = tx.events.add([make_event("e1", payload_json='{"a":2}', digest="other"), make_event("e2")])
    assert again[0] == (first, False)
    assert again[1][1]
    with store.read() as tx:
        assert tx.events.get("e1") == first


def test_an_id_twice_in_one_batch_is_new_once(store: Store):
    with store.begin() as tx:
        result = tx.events.add([make_event("e1"), make_event("e1", digest="other"), make_event("e2")])
    assert [new for _, new in result] == [True, False, True]
    assert result[0][0].seq == result[1][0].seq
    assert result[1][0].digest == "digest of e1"


def test_a_batch_keeps_its_order(store: Store):
    ids = [f"e{number}" for number in (5, 3, 9, 1, 7)]
    with store.begin() as tx:
        result = tx.events.add([make_event(event_id) for event_id in ids])
    seqs = [event.seq for event, _ in result]
    assert seqs == sorted(seqs)
    with store.read() as tx:
        assert [event.id for event in tx.events.page(newest_first=False)] == ids


def test_a_batch_of_thousands_is_accepted_at_once(store: Store):
    with store.begin() as tx:
        tx.events.add([make_event("e17")])
        result = tx.events.add([make_event(f"e{number}") for number in range(5000)])
    assert sum(new for _, new in result) == 4999
    assert not result[17][1]


def test_eight_threads_accept_the_same_ids_and_each_event_is_new_once(store: Store):
    ids = [f"e{number}" for number in range(60)]
    fresh: list[str] = []
    barrier = threading.Barrier(8)

    def accept(turn: int) -> None:
        mine = ids[turn:] + ids[:turn]
        barrier.wait()
        for start in range(0, len(mine), 10):
            with store.begin() as tx:
                result = tx.events.add([make_event(event_id) for event_id in mine[start : start + 10]])
            fresh.extend(event.id for event, new in result if new)

    threads = [threading.Thread(target=accept, args=(turn * 7,)) for turn in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fresh) == sorted(ids)


def test_ids_of_pruned_events_are_known_for_the_deduplication_window(store: Store):
    policy = RetentionPolicy(
        events_s=60, runs_s=60, failed_runs_s=60, logs_s=60, files_s=60, notices_s=60, audit_s=60, dedup_s=3600
    )
    start = 10_000 * SECOND_US
    with store.begin() as tx:
        tx.events.add([make_event("e1", accepted_us=start)])
    with store.begin() as tx:
        assert tx.retention.prune(policy, now_us=start + 100 * SECOND_US, limit=10)["events"] == 1
        assert tx.events.get("e1") is None
    with store.begin() as tx:
        [(known, new)] = tx.events.add([make_event("e1", digest="another")])
    assert not new
    assert (known.seq, known.digest) == (0, "digest of e1")
    with store.begin() as tx:
        tx.retention.prune(policy, now_us=start + 4000 * SECOND_US, limit=10)
    with store.begin() as tx:
        assert tx.events.add([make_event("e1")])[0][1]


def test_seqs_are_never_used_again(store: Store):
    policy = RetentionPolicy(
        events_s=1, runs_s=1, failed_runs_s=1, logs_s=1, files_s=1, notices_s=1, audit_s=1, dedup_s=1
    )
    with store.begin() as tx:
        last = tx.events.add([make_event("e1"), make_event("e2")])[-1][0].seq
    with store.begin() as tx:
        assert tx.retention.prune(policy, now_us=10**12, limit=10)["events"] == 2
    with store.begin() as tx:
        assert tx.events.add([make_event("e3")])[0][0].seq > last


@pytest.fixture
def history(store: Store) -> Store:
    """Thirty events: hooks a and b, tags even and three, two keys, times against the order of acceptance."""
    with store.begin() as tx:
        tx.events.add(
            [
                make_event(
                    f"e{number:02}",
                    hook="a" if number % 2 else "b",
                    tags=(*(("even",) if number % 2 == 0 else ()), *(("three",) if number % 3 == 0 else ())),
                    key=f"k{number % 2}" if number < 10 else None,
                    time_us=1000 - number,
                )
                for number in range(30)
            ]
        )
    return store


@pytest.mark.parametrize(
    ("which", "numbers"),
    [
        ({}, range(30)),
        ({"hook": "a"}, range(1, 30, 2)),
        ({"hook": "a", "tag": "three"}, range(3, 30, 6)),
        ({"tag": "even"}, range(0, 30, 2)),
        ({"key": "k1"}, range(1, 10, 2)),
        ({"since_us": 990}, range(11)),
        ({"until_us": 990}, range(11, 30)),
        ({"since_us": 980, "until_us": 990}, range(11, 21)),
        ({"since_us": 980, "until_us": 990, "hook": "b", "tag": "three"}, (12, 18)),
        ({"hook": "none"}, ()),
        ({"hook": ["a", "none"]}, range(1, 30, 2)),
        ({"hook": ["a", "b"]}, range(30)),
        ({"hook": ["a", "b"], "since_us": 980, "until_us": 990}, range(11, 21)),
        ({"hook": ["a", "b"], "tag": "three"}, range(0, 30, 3)),
        ({"hook": ["a", "b"], "key": "k1"}, range(1, 10, 2)),
        ({"hook": []}, ()),
    ],
)
@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("nearest", [1, 2000])
def test_pages_show_each_event_once_in_order(history, monkeypatch, which, numbers, newest_first, nearest):  # noqa: PLR0917 - pytest passes them by name
    monkeypatch.setattr("eventproc.store.event_pages.NEAREST", nearest)
    monkeypatch.setattr("eventproc.store.event_pages.MERGED", nearest)
    expected = [f"e{number:02}" for number in sorted(numbers, reverse=newest_first)]
    found = []
    after = None
    with history.read() as tx:
        while page := tx.events.page(**which, after=after, limit=4, newest_first=newest_first):
            assert len(page) <= 4
            found += page
            after = page[-1].seq
    assert [event.id for event in found] == expected


def test_runs_are_queued_once_for_event_handler_and_round(store: Store):
    world = World(store)
    handler = world.handler()
    with store.begin() as tx:
        [(event, _)] = tx.events.add([make_event("e1")])
        run = NewRun(handler_id=handler.id, version=0, isolation="run")
        first = tx.runs.add(event.seq, [run], now_us=5)
        assert len(first) == 1
        assert tx.runs.add(event.seq, [run], now_us=6) == []
        assert tx.runs.next_round(event.seq, handler.id) == 1
        again = NewRun(handler_id=handler.id, version=0, isolation="run", round=1)
        pairs = tx.runs.add_many([(event.seq, run), (event.seq, again), (event.seq, again)], now_us=7)
    assert [seq for seq, _ in pairs] == [event.seq]
    assert world.get(pairs[0][1]).round == 1
    assert world.get(first[0]).hook == "test.happened"


@pytest.mark.parametrize(
    "value",
    ["plain", "", 'with "quotes" and \\ in it', "ünïcode \u2028", "a,b:{c}", "line\nbreak", "\x07", 3, 3.5, True],
)
def test_events_are_found_by_a_member_of_their_payload(store, value):
    """Neither a member of a member, nor the same text under another name, nor as another kind of value."""
    others = [
        {"x": "other"},
        {"y": value},
        {"z": {"x": value}},
        {"x": [value]},
        {"x": f"{value}!"},
        {"x": str(value) + " "},
    ]
    with store.begin() as tx:
        for number, payload in enumerate([*others, {"x": value, "y": 1}]):
            tx.events.add([make_event(f"e{number}", payload_json=payload_json(payload))])
    with store.read() as tx:
        assert [event.id for event in tx.events.page(traits={"x": value})] == [f"e{len(others)}"]


def test_the_hooks_that_there_are_events_of(history):
    with history.read() as tx:
        assert tx.events.hooks() == ["a", "b"]


def test_no_events_are_of_no_hooks(store):
    with store.read() as tx:
        assert tx.events.hooks() == []


def test_traits_are_looked_for_in_events_of_several_hooks(store):
    with store.begin() as tx:
        tx.events.add([make_event(f"e-{hook}", hook=hook, payload_json='{"x":1}') for hook in ("a", "b", "c")])
    with store.read() as tx:
        found = tx.events.page(hook=["a", "c"], traits={"x": 1}, newest_first=False)
    assert [event.id for event in found] == ["e-a", "e-c"]
