"""What a handler reads with `db.values`, `windows` and `aligned_windows` comes in pages, from every database."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from eventproc.abc import Store
from eventproc.child.db import MAX_WINDOWS, Db
from eventproc.child.runs import Execution
from eventproc.engine import series
from eventproc.model import NewMetric, Series
from eventproc.service import reads
from eventproc.service.context import ServiceContext

UUID = "6f0c9c51-5a0e-4b0e-9d7a-3c1c8e0f7a11"
WIDTH = 1 << 13


class Asked:
    """What a handler's `db` asks of the worker, answered from the store; `between` is called before the second page."""

    def __init__(self, store: Store, between: Callable[[], None] = lambda: None) -> None:
        self._ops = reads.Reads(cast("ServiceContext", SimpleNamespace(store=store))).ops()
        self._between = between
        self.pages: list[int] = []
        self.sizes: list[int] = []

    def ask(self, op: str, args: Mapping[str, Any], bodies: Sequence[bytes] = ()) -> tuple[Any, Sequence[bytes]]:
        assert not bodies
        if len(self.pages) == 1:
            self._between()
        answer, parts = self._ops[op](args)
        self.pages.append(answer["count"])
        self.sizes.append(sum(map(len, parts)))
        return answer, parts

    def db(self) -> Db:
        return Db(cast("Execution", self))


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "PAGE_WINDOWS", 7)
    monkeypatch.setattr(reads, "PAGE_SAMPLES", 500)
    monkeypatch.setattr(series, "_ROWS", 50)


def as_series(store: Store, times: Sequence[int], values: Sequence[float]) -> str:
    with store.begin() as tx:
        tx.series.put(Series(uuid=UUID, name="level"))
        series.insert(tx, UUID, times, values)
    return UUID


def as_metric(store: Store, times: Sequence[int], values: Sequence[float]) -> str:
    with store.begin() as tx:
        metric = tx.metrics.create([NewMetric(name="level")], now_us=1)[0][0]
        tx.samples.add_batch([metric.id] * len(times), [time // 1000 for time in times], values)
    return metric.uid


def samples() -> dict[int, float]:
    """Return samples of whole microseconds, with gaps of many windows, from before 1970 on."""
    random = np.random.default_rng(5)
    steps = random.integers(1, 5, 900) + np.where(random.random(900) < 0.05, random.integers(10, 200, 900), 0)
    times = (np.cumsum(steps) * 1000 - 400_000).tolist()
    return dict(zip(times, random.integers(-50, 50, 900).astype(float).tolist(), strict=True))


def expected(kept: Mapping[int, float], begin: int, width: int) -> tuple[Any, ...]:
    inside = [value for time, value in kept.items() if begin <= time < begin + width]
    if not inside:
        return begin, *[pytest.approx(math.nan, nan_ok=True)] * 3, 0, pytest.approx(math.nan, nan_ok=True)
    return (
        begin,
        min(inside),
        pytest.approx(np.mean(inside)),
        max(inside),
        len(inside),
        pytest.approx(np.std(inside), abs=1e-6),
    )


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("made", [as_series, as_metric])
def test_pages_of_windows_add_up_to_what_one_answer_would_be(
    store: Store, made: Callable[[Store, Sequence[int], Sequence[float]], str]
) -> None:
    kept = samples()
    uuid, asked = made(store, list(kept), list(kept.values())), Asked(store)
    start, end = -300_001, max(kept) - 12_345
    found = asked.db().windows(uuid, start, end, WIDTH)
    begins = range(start, end - WIDTH + 1, WIDTH)
    assert [tuple(row) for row in found.tolist()] == [expected(kept, begin, WIDTH) for begin in begins]
    assert asked.pages == [7] * (len(begins) // 7) + [len(begins) % 7] * bool(len(begins) % 7)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("made", [as_series, as_metric])
def test_pages_of_aligned_windows_add_up_to_what_one_answer_would_be(
    store: Store, made: Callable[[Store, Sequence[int], Sequence[float]], str]
) -> None:
    kept = samples()
    uuid, asked = made(store, list(kept), list(kept.values())), Asked(store)
    start, end = -300_001, max(kept) - 12_345
    found = asked.db().aligned_windows(uuid, start, end, 13)
    begins = sorted({time // WIDTH * WIDTH for time in kept if start // WIDTH <= time // WIDTH < end // WIDTH})
    assert [tuple(row) for row in found.tolist()] == [expected(kept, begin, WIDTH) for begin in begins]
    assert asked.pages[:-1] == [7] * (len(begins) // 7)
    assert sum(asked.pages) == len(begins)


@pytest.mark.usefixtures("small_pages")
def test_a_metric_comes_in_pages_of_few_rows(store: Store) -> None:
    kept = samples()
    asked = Asked(store)
    times, values = asked.db().values(as_metric(store, list(kept), list(kept.values())))
    assert dict(zip(times.tolist(), values.tolist(), strict=True)) == kept
    assert max(asked.pages) == 50


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("aligned", [True, False])
def test_what_is_committed_between_pages_is_whole_in_the_windows_behind(store: Store, *, aligned: bool) -> None:
    """Windows of the first page are as they were, all others as they are now; none is there twice or is left out."""
    before = dict.fromkeys(range(0, 40 * WIDTH, WIDTH // 4), 1.0)
    more = {time + 1: 9.0 for time in itertools.chain(before, range(40 * WIDTH, 60 * WIDTH, WIDTH // 4))}
    as_series(store, list(before), list(before.values()))

    def insert() -> None:
        with store.begin() as tx:
            series.insert(tx, UUID, list(more), list(more.values()))

    asked = Asked(store, insert)
    db = asked.db()
    found = db.aligned_windows(UUID, 0, 60 * WIDTH, 13) if aligned else db.windows(UUID, 0, 60 * WIDTH, WIDTH)
    after = before | more
    assert [tuple(row) for row in found.tolist()] == [
        expected(before if number < 7 else after, number * WIDTH, WIDTH) for number in range(60)
    ]


def test_no_answer_is_larger_than_a_page(store: Store) -> None:
    as_series(store, [5], [1.0])
    asked = Asked(store)
    found = asked.db().windows(UUID, 0, 600_000 * 10, 10)
    assert (len(found), found["count"].sum(), found["time"][-1]) == (600_000, 1, 5_999_990)
    assert max(asked.sizes) == reads.PAGE_WINDOWS * 48
    with pytest.raises(ValueError, match=r"over 2,000,000 windows.*wider windows") as caught:
        asked.db().windows(UUID, 0, (MAX_WINDOWS + 1) * 10, 10)
    assert caught.value.details == {"limit": MAX_WINDOWS}  # type: ignore[attr-defined]
    assert len(asked.pages) == 3  # none of those was fetched


def test_memory_does_not_grow_with_the_length_of_what_is_summed_up(store: Store) -> None:
    count = 1_500_000
    with store.begin() as tx:
        tx.series.put(Series(uuid=UUID, name="level"))
        series.insert(tx, UUID, np.arange(count), np.random.default_rng(1).normal(size=count))

    def peak(end: int) -> int:
        tracemalloc.start()
        try:
            (row,) = Asked(store).db().windows(UUID, 0, end, end)
            assert Asked(store).ask("count", {"uuid": UUID, "start": 0, "end": end})[0] == {"count": end}
            assert row["count"] == end
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)  # what is made once
    assert peak(count) < 1.5 * peak(count // 5)
