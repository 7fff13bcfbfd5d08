"""Series keep every sample, and their windows say the same as a plain loop over the samples would."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from eventproc.abc import Tx
from eventproc.codec import chunks
from eventproc.engine import series
from eventproc.errors import DamagedData, InvalidInput, NotFound
from eventproc.model import Chunk, Series
from eventproc.store.memory import MemoryStore

START = 1_500_000_000_000_000_000
ALL = (series.MIN_TIME_NS, series.MAX_TIME_NS + 1)
TARGET = chunks.TARGET_SAMPLES


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    memory = MemoryStore()
    yield memory
    memory.close()


@pytest.fixture
def tx(store: MemoryStore) -> Iterator[Tx]:
    with store.begin() as transaction:
        transaction.series.put(Series(uuid="u", name="IA"))
        yield transaction


def everything(tx: Tx) -> dict[int, float]:
    times, values = series.values(tx, "u", *ALL)
    assert times.dtype == np.int64
    assert values.dtype == np.float64
    assert (times[1:] > times[:-1]).all()
    return dict(zip(times.tolist(), values.tolist(), strict=True))


def stored(tx: Tx) -> list[Chunk]:
    return tx.series.chunks("u", *ALL)


def rows(windows: series.Windows) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in windows.tolist()]


# ------------------------------------------------------------------------------------------------ inserting


def test_samples_come_back_in_order_however_they_were_given(tx: Tx) -> None:
    assert series.insert(tx, "u", [30, 10, 20], [3.0, 1.0, 2.0]) == 3
    assert everything(tx) == {10: 1.0, 20: 2.0, 30: 3.0}


def test_a_later_sample_at_the_same_time_replaces_the_earlier_one(tx: Tx) -> None:
    series.insert(tx, "u", [10, 20], [1.0, 2.0])
    series.insert(tx, "u", [20], [7.0])
    assert everything(tx) == {10: 1.0, 20: 7.0}


def test_within_one_insert_the_last_of_equal_times_counts(tx: Tx) -> None:
    assert series.insert(tx, "u", [10, 10, 5, 10], [1.0, 2.0, 9.0, 3.0]) == 2
    assert everything(tx) == {5: 9.0, 10: 3.0}


def test_the_ends_of_the_range_can_be_stored(tx: Tx) -> None:
    series.insert(tx, "u", [series.MIN_TIME_NS, series.MAX_TIME_NS], [1.0, 2.0])
    assert everything(tx) == {series.MIN_TIME_NS: 1.0, series.MAX_TIME_NS: 2.0}


def test_pages_hold_each_sample_once(tx: Tx) -> None:
    times = np.arange(5 * TARGET) * 10
    series.insert(tx, "u", times, times * 0.5)
    begin, end = 15, int(times[-1]) - 5
    at: int | None = begin
    parts = []
    while at is not None:
        got, values, at = series.page(tx, "u", at, end, limit=2 * TARGET)
        assert len(got) <= 2 * TARGET
        assert (values == got * 0.5).all()
        parts.append(got)
    assert len(parts) == 3
    assert (np.concatenate(parts) == times[2:-1]).all()
    assert series.page(tx, "u", end + 6, end + 100, limit=1)[2] is None


def test_nothing_to_insert_changes_nothing(tx: Tx) -> None:
    assert series.insert(tx, "u", [], []) == 0
    assert stored(tx) == []


@pytest.mark.parametrize(
    ("times", "values", "message"),
    [
        ([1, 2], [1.0], "equal length"),
        ([1.5], [1.0], "must be integers"),
        ([series.MAX_TIME_NS + 1], [1.0], "beyond the range"),
        (np.array([1 << 63], dtype=np.uint64), [1.0], "beyond the range"),
    ],
)
def test_samples_that_can_not_be_stored_are_refused(
    tx: Tx, times: list[int], values: list[float], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        series.insert(tx, "u", times, values)


def test_an_unknown_series_is_an_error_everywhere(tx: Tx) -> None:
    for call in (
        lambda: series.insert(tx, "?", [1], [1.0]),
        lambda: series.values(tx, "?", 0, 1),
        lambda: series.windows(tx, "?", 0, 1, 1),
        lambda: series.aligned_windows(tx, "?", 0, 1, 1),
        lambda: series.count(tx, "?"),
        lambda: series.earliest(tx, "?"),
        lambda: series.nearest(tx, "?", 0),
    ):
        with pytest.raises(NotFound, match="no series"):
            call()


def test_many_samples_are_cut_into_chunks_of_a_good_size(tx: Tx) -> None:
    series.insert(tx, "u", np.arange(5 * TARGET + 10), np.zeros(5 * TARGET + 10))
    counts = [chunk.count for chunk in stored(tx)]
    assert sum(counts) == 5 * TARGET + 10
    assert all(TARGET <= count <= TARGET * 5 // 4 for count in counts)


def test_many_small_appends_fill_chunks_instead_of_making_new_ones(tx: Tx) -> None:
    for begin in range(0, 1000, 10):
        series.insert(tx, "u", np.arange(begin, begin + 10), np.zeros(10))
    assert [chunk.count for chunk in stored(tx)] == [1000]
    for begin in range(0, -1000, -10):
        series.insert(tx, "u", np.arange(begin - 10, begin), np.zeros(10))
    assert [chunk.count for chunk in stored(tx)] == [2000]


def test_only_the_chunks_that_hold_a_new_time_are_written_again(tx: Tx) -> None:
    series.insert(tx, "u", np.arange(4 * TARGET) * 10, np.zeros(4 * TARGET))
    before = stored(tx)
    series.insert(tx, "u", [5, TARGET * 20 + 5], [1.0, 1.0])
    after = stored(tx)
    assert [old.data == new.data for old, new in zip(before, after, strict=True)] == [False, True, False, True]


def test_a_gap_is_filled_without_touching_full_chunks_around_it(tx: Tx) -> None:
    for begin in (0, 10 * TARGET):
        series.insert(tx, "u", np.arange(begin, begin + TARGET), np.zeros(TARGET))
    before = stored(tx)
    series.insert(tx, "u", np.arange(3 * TARGET, 3 * TARGET + 100), np.ones(100))
    after = stored(tx)
    assert [chunk.data for chunk in after[::2]] == [chunk.data for chunk in before]
    assert after[1].count == 100


def test_a_scale_is_kept_when_a_chunk_is_written_again(tx: Tx) -> None:
    scale = chunks.Scale(0.000361849, 0.05)
    steps = np.arange(1000.0)
    series.insert(tx, "u", np.arange(1000), steps * scale.a + scale.b, scale=scale)
    series.insert(tx, "u", [1000], [7 * scale.a + scale.b])
    (chunk,) = stored(tx)
    assert chunks.scale_of(chunk.data) == scale
    assert everything(tx)[1000] == 7 * scale.a + scale.b


def test_the_registry_knows_count_and_ends(tx: Tx) -> None:
    series.insert(tx, "u", np.arange(100, 200), np.zeros(100))
    series.insert(tx, "u", [50], [1.0])
    row = tx.series.get("u")
    assert row is not None
    assert (row.count, row.earliest_ns, row.latest_ns) == (101, 50, 199)


class Inserting(RuleBasedStateMachine):
    """Whatever is inserted in whatever order, the series holds what a dictionary would."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(series, "_TARGET", 8)  # small chunks, so that few samples meet all cases
        self.patch.setattr(series, "_SLACK", 2)
        self.patch.setattr(series, "_BATCH", 2)
        self.model: dict[int, float] = {}
        with self.store.begin() as tx:
            tx.series.put(Series(uuid="u", name="x"))

    def teardown(self) -> None:
        self.patch.undo()
        self.store.close()

    @rule(
        times=st.lists(st.integers(-60, 60), min_size=1, max_size=30),
        value=st.floats(-1e6, 1e6),
    )
    def insert(self, times: list[int], value: float) -> None:
        values = [value + i for i in range(len(times))]
        self.model |= dict(zip(times, values, strict=True))
        with self.store.begin() as tx:
            assert series.insert(tx, "u", times, values) == len(set(times))

    @rule(first=st.integers(-200, 200), count=st.integers(1, 40))
    def insert_a_run(self, first: int, count: int) -> None:
        times = list(range(first, first + count))
        self.model |= dict.fromkeys(times, float(first))
        with self.store.begin() as tx:
            series.insert(tx, "u", times, [float(first)] * count)

    @invariant()
    def holds_what_the_dictionary_holds(self) -> None:
        with self.store.read() as tx:
            assert everything(tx) == self.model
            assert series.count(tx, "u") == len(self.model)
            parts = stored(tx)
        assert all(1 <= chunk.count <= 10 for chunk in parts)
        assert all(left.end_ns < right.start_ns for left, right in pairwise(parts))

    @rule(start=st.integers(-250, 250), length=st.integers(0, 300))
    def ranges_agree(self, start: int, length: int) -> None:
        inside = {time: value for time, value in self.model.items() if start <= time < start + length}
        with self.store.read() as tx:
            times, values = series.values(tx, "u", start, start + length)
            assert dict(zip(times.tolist(), values.tolist(), strict=True)) == inside
            assert series.count(tx, "u", start, start + length) == len(inside)

    @rule(time=st.integers(-300, 300), backward=st.booleans())
    def nearest_agrees(self, time: int, backward: bool) -> None:  # noqa: FBT001 - hypothesis calls by name
        if backward:
            expected = max((other for other in self.model if other < time), default=None)
        else:
            expected = min((other for other in self.model if other >= time), default=None)
        with self.store.read() as tx:
            point = series.nearest(tx, "u", time, backward=backward)
        assert point == (None if expected is None else (expected, self.model[expected]))

    @rule(start=st.integers(-250, 250), length=st.integers(0, 300), width=st.integers(1, 80))
    def windows_agree(self, start: int, length: int, width: int) -> None:
        with self.store.read() as tx:
            got = series.windows(tx, "u", start, start + length, width)
        assert got["time"].tolist() == [start + i * width for i in range(length // width)]
        for row in got:
            self._check(row, width)

    @rule(
        start=st.integers(-250, 250),
        length=st.integers(0, 300),
        pointwidth=st.integers(0, 9),
        limit=st.none() | st.integers(1, 9),
    )
    def aligned_windows_agree(self, start: int, length: int, pointwidth: int, limit: int | None) -> None:
        width = 2**pointwidth
        with self.store.read() as tx:
            got = series.aligned_windows(tx, "u", start, start + length, pointwidth, limit=limit)
        bounds = range(start // width * width, (start + length) // width * width, width)
        assert (
            got["time"].tolist()
            == [begin for begin in bounds if any(begin <= time < begin + width for time in self.model)][:limit]
        )
        for row in got:
            self._check(row, width)

    def _check(self, row: np.void, width: int) -> None:
        inside = [value for time, value in self.model.items() if row["time"] <= time < row["time"] + width]
        assert row["count"] == len(inside)
        if inside:
            assert (row["min"], row["max"]) == (min(inside), max(inside))
            assert row["mean"] == pytest.approx(np.mean(inside), rel=1e-9, abs=1e-6)
            assert row["stddev"] == pytest.approx(np.std(inside), rel=1e-6, abs=1e-5)
        else:
            assert all(math.isnan(row[name]) for name in ("min", "mean", "max", "stddev"))


TestInserting = Inserting.TestCase
TestInserting.settings = settings(max_examples=40, stateful_step_count=20)


# ------------------------------------------------------------------------------------------------ reading


def test_ranges_include_their_start_and_not_their_end(tx: Tx) -> None:
    series.insert(tx, "u", [10, 20, 30], [1.0, 2.0, 3.0])
    assert series.values(tx, "u", 10, 30)[0].tolist() == [10, 20]
    assert series.values(tx, "u", 11, 11)[0].tolist() == []
    assert series.count(tx, "u", start_ns=20) == 2
    assert series.count(tx, "u", end_ns=20) == 1


def test_an_end_before_the_start_is_refused(tx: Tx) -> None:
    with pytest.raises(InvalidInput, match="lies before the start"):
        series.values(tx, "u", 2, 1)


def test_an_empty_series_has_no_ends(tx: Tx) -> None:
    assert series.earliest(tx, "u") is None
    assert series.latest(tx, "u") is None
    assert series.nearest(tx, "u", 0) is None
    assert series.count(tx, "u", 0, 10) == 0
    assert len(series.aligned_windows(tx, "u", 0, 10, 1)) == 0


def test_the_ends_are_points(tx: Tx) -> None:
    series.insert(tx, "u", [10, 20, 30], [1.0, 2.0, 3.0])
    assert series.earliest(tx, "u") == (10, 1.0)
    assert series.latest(tx, "u") == (30, 3.0)


def test_nearest_finds_a_neighbour_years_away(tx: Tx) -> None:
    series.insert(tx, "u", [0, START], [1.0, 2.0])
    assert series.nearest(tx, "u", 1) == (START, 2.0)
    assert series.nearest(tx, "u", START, backward=True) == (0, 1.0)
    assert series.nearest(tx, "u", series.MAX_TIME_NS, backward=True) == (START, 2.0)
    assert series.nearest(tx, "u", series.MIN_TIME_NS) == (0, 1.0)


def test_a_damaged_chunk_is_named(tx: Tx) -> None:
    series.insert(tx, "u", [10, 20], [1.0, 2.0])
    (chunk,) = stored(tx)
    broken = Chunk(series="u", start_ns=10, end_ns=20, count=2, data=chunk.data[:-1])
    tx.series.replace_chunks("u", [10], [broken])
    with pytest.raises(DamagedData, match=r"damaged.*series u, 2 samples from 10"):
        series.values(tx, "u", *ALL)


# ------------------------------------------------------------------------------------------------ windows


def btrdb_example(tx: Tx) -> tuple[int, int]:
    """The samples of btrdb's own documentation: 1.0 to 10.0, a tenth of a second apart."""
    series.insert(tx, "u", START + np.arange(10) * 100_000_000, np.arange(1.0, 11.0))
    return START, START + 1_000_000_000


def test_aligned_windows_are_those_of_the_btrdb_documentation(tx: Tx) -> None:
    start, end = btrdb_example(tx)
    deviation = pytest.approx(0.816496580927726)
    assert rows(series.aligned_windows(tx, "u", start, end, 28)) == [
        (1499999999814008832, 1.0, 1.0, 1.0, 1, 0.0),
        (1500000000082444288, 2.0, 3.0, 4.0, 3, deviation),
        (1500000000350879744, 5.0, 6.0, 7.0, 3, deviation),
        (1500000000619315200, 8.0, 8.5, 9.0, 2, 0.5),
    ]


def test_windows_are_those_of_the_btrdb_documentation(tx: Tx) -> None:
    start, end = btrdb_example(tx)
    deviation = pytest.approx(0.816496580927726)
    assert rows(series.windows(tx, "u", start, end, 300_000_000)) == [
        (1500000000000000000, 1.0, 2.0, 3.0, 3, deviation),
        (1500000000300000000, 4.0, 5.0, 6.0, 3, deviation),
        (1500000000600000000, 7.0, 8.0, 9.0, 3, deviation),
    ]


def test_windows_without_samples_count_nothing_and_have_no_statistics(tx: Tx) -> None:
    series.insert(tx, "u", [0, 20], [1.0, 2.0])
    got = series.windows(tx, "u", 0, 30, 10)
    assert got["count"].tolist() == [1, 0, 1]
    assert np.isnan(got["mean"]).tolist() == [False, True, False]
    assert series.aligned_windows(tx, "u", 0, 32, 3)["time"].tolist() == [0, 16]


def test_statistics_leave_missing_values_out(tx: Tx) -> None:
    series.insert(tx, "u", [0, 1, 2, 10], [1.0, math.nan, 3.0, math.nan])
    assert rows(series.windows(tx, "u", 0, 10, 10)) == [(0, 1.0, 2.0, 3.0, 2, 1.0)]
    assert series.windows(tx, "u", 10, 20, 10)["count"].tolist() == [0]
    assert series.aligned_windows(tx, "u", 0, 16, 3)["time"].tolist() == [0]
    assert series.count(tx, "u") == 4


def test_infinite_samples_do_not_upset_their_neighbours(tx: Tx) -> None:
    series.insert(tx, "u", [0, 1, 10], [1.0, math.inf, 5.0])
    got = series.windows(tx, "u", 0, 20, 10)
    assert (got["min"][0], got["mean"][0], got["max"][0]) == (1.0, math.inf, math.inf)
    assert rows(got[1:]) == [(10, 5.0, 5.0, 5.0, 1, 0.0)]


def test_a_wide_window_spans_many_chunks_and_stays_accurate(tx: Tx) -> None:
    count = 80 * TARGET  # more than are decoded at once
    values = 1e9 + np.sin(np.arange(count))  # a large mean, where a sum of squares would lose all digits
    series.insert(tx, "u", np.arange(count), values)
    (row,) = series.windows(tx, "u", 0, count, count)
    assert row["count"] == count
    assert row["mean"] == pytest.approx(values.mean(), rel=1e-15)
    assert row["stddev"] == pytest.approx(values.std(), rel=1e-7)


def test_the_first_windows_are_whole_wherever_chunks_end(tx: Tx) -> None:
    count = 20 * TARGET  # more than are decoded at once
    series.insert(tx, "u", np.arange(count) * 3, np.arange(count) % 7)
    everything = series.aligned_windows(tx, "u", 0, 3 * count, 4)
    for limit in (1, 8 * TARGET * 3 // 16, 8 * TARGET * 3 // 16 + 1, 2**15, len(everything) - 1, len(everything)):
        got = series.aligned_windows(tx, "u", 0, 3 * count, 4, limit=limit)
        assert got.tobytes() == everything[:limit].tobytes()


def test_windows_over_the_whole_range_of_time_work(tx: Tx) -> None:
    series.insert(tx, "u", [series.MIN_TIME_NS, 0, series.MAX_TIME_NS], [1.0, 2.0, 3.0])
    got = series.windows(tx, "u", *ALL, 1 << 62)
    assert got["count"].tolist() == [1, 0, 1]  # the last window is cut off by the end and dropped
    assert series.aligned_windows(tx, "u", *ALL, 62)["count"].tolist() == [1, 1]


@pytest.mark.parametrize("width", [0, -1])
def test_a_width_below_one_is_refused(tx: Tx, width: int) -> None:
    with pytest.raises(InvalidInput, match="at least 1 ns"):
        series.windows(tx, "u", 0, 10, width)


@pytest.mark.parametrize("pointwidth", [-1, 63])
def test_a_pointwidth_out_of_range_is_refused(tx: Tx, pointwidth: int) -> None:
    with pytest.raises(InvalidInput, match="0 to 62"):
        series.aligned_windows(tx, "u", 0, 10, pointwidth)


def test_more_windows_than_memory_would_hold_are_refused(tx: Tx) -> None:
    with pytest.raises(InvalidInput, match="5000000 are the limit"):
        series.windows(tx, "u", 0, series.MAX_TIME_NS, 1)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=60))
def test_a_mean_lies_between_the_extremes(store: MemoryStore, values: list[float]) -> None:
    with store.begin() as tx:
        tx.series.put(Series(uuid="m", name="m"))
        series.insert(tx, "m", np.arange(len(values)), values)
        for row in series.windows(tx, "m", 0, len(values), 7):
            assert row["min"] <= row["mean"] <= row["max"]
            assert row["stddev"] >= 0
