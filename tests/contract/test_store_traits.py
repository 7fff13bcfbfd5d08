"""Contract of the store: a search by traits finds the same with and without summaries of history, page by page."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from store_world import make_event
from waiting import wait_until

from eventproc.abc import Store
from eventproc.bus.memory import MemoryBus
from eventproc.engine.clock import ManualClock, SystemClock
from eventproc.engine.housekeeping import Housekeeper, HousekeeperSettings
from eventproc.model import Event
from eventproc.store import trait_blocks

COUNT = 400
VALUES = ("ada", "bob", "", "ü", 7, 7.5, -0.0, 0, True, False, 2**60, "7", "true", "long " * 20)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trait_blocks, "SIZE", 32)
    monkeypatch.setattr(trait_blocks, "READ", 3)


@pytest.fixture
def events(store: Store) -> list[Event]:
    """Events whose members come in clusters, as those of one order or machine do."""
    dice = random.Random(3)
    made = []
    for number in range(COUNT):
        payload: dict[str, Any] = {"number": number, "near": number // 50, "list": [number]}
        for name in ("who", "what"):
            if dice.random() < 0.4:
                payload[name] = dice.choice(VALUES)
        made.append(
            make_event(
                f"e{number}",
                hook=dice.choice(["app.a", "app.b"]),
                tags=("t",) if dice.random() < 0.3 else (),
                key=dice.choice(["k", None]),
                time_us=1000 + number + dice.choice([0, 0, -40]),
                payload_json=json.dumps(payload, ensure_ascii=False, sort_keys=True, separators=(",", ":")),
            )
        )
    with store.begin() as tx:
        return [event for event, _ in tx.events.add(made)]


def keeper(store: Store) -> Housekeeper:
    return Housekeeper(store=store, bus=MemoryBus(), clock=SystemClock())


def is_same(found: Any, wanted: Any) -> bool:
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    return type(found) is type(wanted) and bool(found == wanted)


def expected(events: list[Event], traits: Mapping[str, Any], **which: Any) -> list[str]:
    def fits(event: Event) -> bool:
        payload = json.loads(event.payload_json)
        return (
            all(name in payload and is_same(payload[name], value) for name, value in traits.items())
            and which.get("hook") in (None, event.hook)
            and (which.get("tag") is None or which["tag"] in event.tags)
            and which.get("key") in (None, event.key)
            and (which.get("since_us") is None or event.time_us >= which["since_us"])
            and (which.get("until_us") is None or event.time_us < which["until_us"])
        )

    return [event.id for event in events if fits(event)]


def paged(store: Store, traits: Mapping[str, Any], *, newest_first: bool, **which: Any) -> list[str]:
    found: list[Event] = []
    while True:
        with store.read() as tx:
            after = found[-1].seq if found else None
            page = tx.events.page(traits=traits, limit=3, after=after, newest_first=newest_first, **which)
        found += page
        if len(page) < 3:
            ids = [event.id for event in found]
            return ids[::-1] if newest_first else ids


QUESTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    *(({"who": value}, {}) for value in VALUES),
    ({"who": "ada", "what": "bob"}, {}),
    ({"near": 2}, {}),
    ({"number": 77}, {}),
    ({"number": 7777}, {}),
    ({"list": [77]}, {}),
    ({"who": "ada"}, {"hook": "app.b"}),
    ({"who": "ada"}, {"hook": "app.c"}),
    ({"who": "ada"}, {"tag": "t", "key": "k"}),
    ({"who": "ada"}, {"since_us": 1100, "until_us": 1200}),
    ({"who": "ada"}, {"until_us": 1100}),
    ({"near": 5}, {"since_us": 1390}),
]


@pytest.mark.parametrize("order", ["newest first", "oldest first"])
def test_summaries_change_nothing_but_the_time_it_takes(store: Store, events: list[Event], order: str) -> None:
    house = keeper(store)
    assert house.sum_up_traits() == 0  # something may still be on its way
    for _ in ("without", "with"):
        for traits, which in QUESTIONS:
            if isinstance(traits.get("who"), float) or traits.get("who") == 0:
                continue  # the stores differ in what they take for the same number
            found = paged(store, traits, newest_first=order == "newest first", **which)
            assert found == expected(events, traits, **which), (traits, which)
        house.sum_up_traits()
    with store.read() as tx:
        assert tx.events.next_block(events[-1].seq) is None


def test_pages_stay_where_they_are_while_events_come_and_history_is_summed_up(
    store: Store, events: list[Event]
) -> None:
    house = keeper(store)
    house.sum_up_traits()
    with store.read() as tx:
        first = tx.events.page(traits={"near": 3}, limit=10)
    with store.begin() as tx:
        tx.events.add([make_event(f"late{number}", payload_json='{"near":3}') for number in range(50)])
    house.sum_up_traits()
    with store.read() as tx:
        second = tx.events.page(traits={"near": 3}, limit=100, after=first[-1].seq)
    assert [event.id for event in [*first, *second]] == expected(events, {"near": 3})[::-1]


@pytest.mark.parametrize(("limit", "most"), [("MOST", 20), ("LONGEST", 1000)])
def test_a_block_with_too_much_in_it_is_read_by_every_search(
    store: Store, events: list[Event], monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    with store.read() as tx:
        block = tx.events.next_block(events[-1].seq)
        assert block is not None
        assert block.bits != trait_blocks.ANYTHING
        monkeypatch.setattr(trait_blocks, limit, most)
        cut = tx.events.next_block(events[-1].seq)
    assert cut == replace(block, bits=trait_blocks.ANYTHING)
    house = keeper(store)
    house.sum_up_traits()
    assert house.sum_up_traits() > 5
    for traits in ({"who": "ada"}, {"number": 77}, {"number": 7777}):
        assert paged(store, traits, newest_first=True) == expected(events, traits)


def test_history_is_summed_up_beside_the_other_duties(store: Store, events: list[Event]) -> None:
    settings = HousekeeperSettings(traits_every_s=0.01, breath_s=0.0)
    house = Housekeeper(store=store, bus=MemoryBus(), clock=ManualClock(2000), settings=settings)
    running = threading.Thread(target=house.run)
    running.start()

    def is_done() -> bool:
        with store.read() as tx:
            return tx.events.next_block(events[-1].seq) is None

    try:
        wait_until(is_done, what="all summaries")
    finally:
        house.stop(60)
        running.join()
    assert paged(store, {"near": 3}, newest_first=True) == expected(events, {"near": 3})


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
@pytest.mark.external_service
def test_nothing_is_summed_up_that_a_transaction_may_still_come_into(store: Store, events: list[Event]) -> None:
    house = keeper(store)
    with store.begin() as slow:
        slow.events.add([make_event("slow", payload_json='{"who":"slow"}')])
        with store.begin() as tx:
            tx.events.add([make_event(f"quick{number}") for number in range(100)])
        house.sum_up_traits()
        assert house.sum_up_traits() == 0
    assert house.sum_up_traits() > 0
    assert paged(store, {"who": "slow"}, newest_first=True) == ["slow"]
