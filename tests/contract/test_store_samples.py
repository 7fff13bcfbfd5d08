"""Contract of the store: samples are numbered per metric without gaps, and only ever grow newer."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventproc.abc import Store, Tx
from eventproc.abc.metrics import ACCEPTED, DUPLICATE, LATE, NO_METRIC, NOT_FINITE
from eventproc.model import NewMetric, Sample, SampleScores, SampleStatistics, StoredRange
from eventproc.store.memory import MemoryStore


def metric_of(store: Store, name: str = "m") -> int:
    with store.begin() as tx:
        return tx.metrics.create([NewMetric(name=name)], now_us=1)[0][0].id


def fill(store: Store, count: int, *, name: str = "m", step_us: int = 10) -> int:
    """Store `count` samples: rowid n at time n * step_us with value n."""
    metric_id = metric_of(store, name)
    with store.begin() as tx:
        numbers = range(1, count + 1)
        tx.samples.add_batch([metric_id] * count, [number * step_us for number in numbers], [*map(float, numbers)])
    return metric_id


def rowids(samples: list[Sample]) -> list[int]:
    return [sample.rowid for sample in samples]


def test_a_batch_numbers_each_metrics_samples_and_says_what_it_stored(store: Store):
    a, b = metric_of(store, "a"), metric_of(store, "b")
    with store.begin() as tx:
        tx.metrics.set_status(b, 1)
        result = tx.samples.add_batch([b, a, b, a, a], [10, 10, 20, 20, 30], [1.0, 2.0, 3.0, 4.0, -0.5])
    assert result.verdicts.tolist() == [ACCEPTED] * 5
    assert list(result.stored) == [StoredRange(a, 0, 1, 3), StoredRange(b, 1, 1, 2)]
    assert result.accepted == 5
    with store.begin() as tx:
        result = tx.samples.add_batch([a], [40], [5.0])
        assert list(result.stored) == [StoredRange(a, 0, 4, 4)]
        assert [(s.rowid, s.time_us, s.value) for s in tx.samples.query(a)] == [
            (1, 10, 2.0),
            (2, 20, 4.0),
            (3, 30, -0.5),
            (4, 40, 5.0),
        ]
        assert tx.samples.query(b)[0] == Sample(b, 1, 10, 1.0)
        found = tx.metrics.get(a)
    assert found is not None
    assert (found.last_rowid, found.last_time_us) == (4, 40)


def test_what_is_not_newer_than_everything_before_is_refused_alone(store: Store):
    """The example of htmengine's own test: from a newest sample at 0, these remain: 2, 4, 5."""
    metric_id = metric_of(store)
    minutes = [(-5, -1), (5, 2), (0, -3), (0, -3), (10, 4), (10, -4), (15, 5)]
    with store.begin() as tx:
        tx.samples.add_batch([metric_id], [0], [0.0])
        result = tx.samples.add_batch([metric_id] * 7, [at for at, _ in minutes], [value for _, value in minutes])
        assert [sample.value for sample in tx.samples.after(metric_id, 1)] == [2, 4, 5]
        found = tx.metrics.get(metric_id)
    assert result.verdicts.tolist() == [LATE, ACCEPTED, LATE, LATE, ACCEPTED, DUPLICATE, ACCEPTED]
    assert found is not None
    assert (found.rejected, found.last_rowid, found.last_time_us) == (4, 4, 15)


def test_unknown_metrics_and_values_that_are_no_numbers_harm_nobody_else(store: Store):
    metric_id = metric_of(store)
    with store.begin() as tx:
        result = tx.samples.add_batch(
            [metric_id, 999, metric_id, metric_id, metric_id, 0], range(6), [1.0, 1.0, math.nan, math.inf, 2.0, 1.0]
        )
        assert result.verdicts.tolist() == [ACCEPTED, NO_METRIC, NOT_FINITE, NOT_FINITE, ACCEPTED, NO_METRIC]
        assert tx.samples.add_batch([], [], []).accepted == 0
        assert tx.samples.add_batch([998], [1], [1.0]).verdicts.tolist() == [NO_METRIC]
        with pytest.raises(ValueError, match="1 metric ids, 2 times and 1 values"):
            tx.samples.add_batch([metric_id], [1, 2], [1.0])


def test_times_and_values_come_back_exactly(store: Store):
    metric_id = metric_of(store)
    values = [0.1, -0.0, 1e-308, 1.7976931348623157e308, 5e-324, 1 / 3, 2.0**53]
    times = [-62_135_596_800_000_000, -1, 0, 1, 1_700_000_000_123_457, 253_402_300_799_999_999, 2**62]
    with store.begin() as tx:
        tx.samples.add_batch([metric_id] * 7, times, values)
    with store.read() as tx:
        found = tx.samples.query(metric_id)
        columns = tx.samples.columns(metric_id)
    assert [sample.time_us for sample in found] == times == columns[0].tolist()
    assert [math.copysign(1, s.value) * abs(s.value) for s in found] == values == columns[1].tolist()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12), st.sampled_from([1.0, math.nan])), max_size=14),
        max_size=5,
    )
)
def test_scrubbing_agrees_with_one_sample_after_the_other(batches):
    """The batches at once must do what the obvious loop does."""
    store = MemoryStore()
    with store.begin() as tx:
        created = tx.metrics.create([NewMetric(name=f"m{number}") for number in range(4)], now_us=1)
        ids = [metric.id for metric, _ in created] + [12_345]
        newest: dict[int, int] = {}
        expected: dict[int, list[int]] = {}
        for batch in batches:
            verdicts = []
            for index, time_us, value in batch:
                if index == 4:
                    verdicts.append(NO_METRIC)
                elif math.isnan(value):
                    verdicts.append(NOT_FINITE)
                elif time_us == newest.get(index):
                    verdicts.append(DUPLICATE)
                elif time_us < newest.get(index, -1):
                    verdicts.append(LATE)
                else:
                    verdicts.append(ACCEPTED)
                    newest[index] = time_us
                    expected.setdefault(index, []).append(time_us)
            parts = zip(*batch, strict=True) if batch else ((), (), ())
            indexes, times, values = (list(part) for part in parts)
            result = tx.samples.add_batch([ids[index] for index in indexes], times, values)
            assert result.verdicts.tolist() == verdicts
        for index in range(4):
            found = tx.samples.query(ids[index])
            assert [sample.time_us for sample in found] == expected.get(index, [])
            assert rowids(found) == list(range(1, len(found) + 1))
    store.close()


def test_samples_behind_a_row_come_in_order_for_one_or_many_metrics(store: Store):
    a, b, c = fill(store, 5, name="a"), fill(store, 3, name="b"), fill(store, 2, name="c")
    with store.read() as tx:
        assert rowids(tx.samples.after(a, 2)) == [3, 4, 5]
        assert rowids(tx.samples.after(a, 2, limit=2)) == [3, 4]
        assert tx.samples.after(a, 5) == []
        found = tx.samples.after_many([(b, 1), (a, 0), (c, 2), (999, 0)], limit=4)
        assert tx.samples.after_many([]) == {}
    assert {key: rowids(rows) for key, rows in found.items()} == {a: [1, 2, 3, 4], b: [2, 3]}


def test_rows_that_retention_took_do_not_hide_the_later_ones(store: Store):
    a = fill(store, 30)
    with store.begin() as tx:
        tx.samples.prune(201, limit=100)
        assert rowids(tx.samples.after(a, 0, limit=2)) == [21, 22]
        assert {key: rowids(rows) for key, rows in tx.samples.after_many([(a, 0)], limit=2).items()} == {a: [21, 22]}


@pytest.mark.parametrize("pruned", [0, 40])
def test_samples_are_found_by_time(store: Store, pruned: int):
    a = fill(store, 100)  # times 10 … 1000
    fill(store, 7, name="other")
    with store.begin() as tx:
        tx.samples.prune(pruned * 10 + 1, limit=1000)
        first = pruned + 1
        for time_us in (-5, 0, 401, 405, 410, 411, 999, 1000):
            assert tx.samples.place(a, time_us) == max(first, math.ceil(time_us / 10))
        assert tx.samples.place(a, 1001) == 101
        query = tx.samples.query
        assert rowids(query(a, start_us=500, end_us=530)) == [50, 51, 52]
        assert rowids(query(a, start_us=981)) == [99, 100]
        assert rowids(query(a, end_us=first * 10 + 11)) == [first, first + 1]
        assert rowids(query(a, newest_first=True, limit=2)) == [100, 99]
        assert rowids(query(a, newest_first=True, after_rowid=99, limit=2)) == [98, 97]
        assert rowids(query(a, after_rowid=98, start_us=0)) == [99, 100]
        assert query(a, start_us=2000) == query(a, end_us=5) == query(a, start_us=500, end_us=500) == []
        times, values = tx.samples.columns(a, 500, 530)
        assert (times.tolist(), values.tolist()) == ([500, 510, 520], [50.0, 51.0, 52.0])
        assert tx.samples.columns(a, 500, 530, limit=2)[0].tolist() == [500, 510]
        assert tx.samples.columns(a, limit=1)[0].tolist() == [first * 10]
        times, values = tx.samples.columns(a, 2000)
        assert (len(times), str(times.dtype), str(values.dtype)) == (0, "int64", "float64")
        assert tx.samples.place(999, 5) == 1


def test_windows_and_statistics_sum_up(store: Store):
    a = fill(store, 10)  # times 10 … 100, values 1 … 10
    empty = metric_of(store, "empty")
    with store.begin() as tx:
        tx.samples.set_scores([SampleScores(a, 3, 0.5, 0.25), SampleScores(a, 4, 0.5, 0.75)])
        found = tx.samples.windows(a, 5, 85, 20)
        assert [(w.start_us, w.count, w.min, w.mean, w.max, w.anomaly) for w in found] == [
            (5, 2, 1.0, 1.5, 2.0, None),
            (25, 2, 3.0, 3.5, 4.0, 0.75),
            (45, 2, 5.0, 5.5, 6.0, None),
            (65, 2, 7.0, 7.5, 8.0, None),
        ]
        assert [w.count for w in tx.samples.windows(a, 0, 10**15, 10**12)] == [10]
        assert len(tx.samples.windows(a, 0, 1000, 10, limit=4)) == 4
        assert tx.samples.windows(empty, 0, 100, 10) == []
        assert tx.samples.statistics(a) == SampleStatistics(1.0, 10.0, 10)
        assert tx.samples.statistics(empty) is None


def score(tx: Tx, metric_id: int, **scores: float) -> None:
    tx.samples.set_scores([SampleScores(metric_id, int(key[1:]), 1.0, value) for key, value in scores.items()])


def test_scores_are_written_found_and_taken_away(store: Store):
    a, b = fill(store, 4, name="a"), fill(store, 4, name="b")
    with store.begin() as tx:
        tx.samples.set_scores(
            [
                SampleScores(a, 2, 0.25, 0.5, 1000.5, '{"1": 2}'),
                SampleScores(a, 4, 1, 0.99),
                SampleScores(a, 77, 0.25, 0.5),
            ]
        )
        tx.samples.set_scores([])
        score(tx, b, r1=0.95, r2=0.2)
        assert tx.samples.query(a)[1] == Sample(a, 2, 20, 2.0, 0.25, 0.5, 1000.5, '{"1": 2}')
        assert rowids(tx.samples.query(a, scored=True)) == [2, 4]
        assert rowids(tx.samples.query(a, min_score=0.6)) == [4]
        tx.samples.clear_scores(a)
        assert tx.samples.query(a, scored=True) == []
        assert tx.samples.query(a)[1] == Sample(a, 2, 20, 2.0)
        assert rowids(tx.samples.query(b, scored=True)) == [1, 2]


def test_old_samples_go_a_few_at_a_time_and_numbers_go_on(store: Store):
    ids = [fill(store, 100, name=f"m{number}") for number in range(5)]
    empty = metric_of(store, "empty")
    gone = []
    while True:
        with store.begin() as tx:
            gone.append(tx.samples.prune(901, limit=37))
        if gone[-1] == 0:
            break
    assert sum(gone) == 450
    assert max(gone) == 37
    with store.begin() as tx:
        for metric_id in ids:
            assert rowids(tx.samples.query(metric_id)) == list(range(91, 101))
        assert tx.samples.prune(10**9, limit=1000) == 50
        late = tx.samples.add_batch([ids[0], ids[0], empty], [990, 1010, 1], [1.0, 1.0, 1.0])
        assert late.verdicts.tolist() == [LATE, ACCEPTED, ACCEPTED]
        assert rowids(tx.samples.query(ids[0])) == [101]
