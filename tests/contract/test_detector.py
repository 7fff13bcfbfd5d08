"""The port of anomaly detectors: one suite for every implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from htm_world import SMALL, daily, stamps
from hypothesis import given, settings
from hypothesis import strategies as st

from eventproc.htm import (
    HTM,
    AnomalyModel,
    Detector,
    HtmCore,
    NumentaHTM,
    StateError,
    Statistics,
    WindowedGaussian,
    detector_names,
    find_detector,
    load_detector,
)

SMALL_NUMENTA = {**SMALL, "value_bits": 200}
MAKERS: dict[str, Callable[[], Detector]] = {
    "default": lambda: AnomalyModel(**SMALL),
    "statistics": lambda: Statistics(learning=100, shape_lags=200),
    "htm": lambda: HTM(**SMALL),
    "gaussian": lambda: WindowedGaussian(window=200, learning=100, step=10),
    "numenta": lambda: NumentaHTM(**SMALL_NUMENTA),
    "htm.core": lambda: HtmCore(**SMALL_NUMENTA),
}


@pytest.fixture(params=sorted(MAKERS))
def make(request: pytest.FixtureRequest) -> Callable[[], Detector]:
    if request.param == "htm.core":
        pytest.importorskip("htm.bindings.algorithms", reason="htm.core is not installed here: its checks were not run")
    return MAKERS[request.param]


def test_every_implementation_is_found_by_its_name(make: Callable[[], Detector]) -> None:
    detector = make()
    assert detector.kind in detector_names()
    assert find_detector(detector.kind) is type(detector)
    assert isinstance(detector, Detector)


def test_asking_changes_nothing(make: Callable[[], Detector]) -> None:
    detector = make()
    detector.score_many(daily(150), stamps(150))
    before = detector.save()
    for x in (0.0, 55.5, math.nan, 1e300):
        detector.score_one(x, 1_700_000_000.0)
        detector.ask_one(x)
    assert detector.save() == before


def test_asking_says_what_processing_says(make: Callable[[], Detector]) -> None:
    detector = make()
    values = daily(220)
    values[180] = 60.0
    for x, t in zip(values, stamps(220), strict=True):
        asked = detector.ask_one(x, t)
        assert detector.score_one(x, t) == asked.score
        said = detector.process_one(x, t)
        if not said.training:
            assert said == asked or repr(said) == repr(asked)  # NaN is not equal to itself


def test_the_same_records_give_the_same_scores_whatever_the_way(make: Callable[[], Detector]) -> None:
    """Many at once, one by one, scored then learnt: all the same."""
    values, times = daily(240), stamps(240)
    values[200:203] = 70.0
    one, two, three = make(), make(), make()
    at_once = np.concatenate([one.score_many(values[:7], times[:7]), one.score_many(values[7:], times[7:])])
    singly = [two.process_one(x, t).score for x, t in zip(values, times, strict=True)]
    apart = []
    for x, t in zip(values, times, strict=True):
        apart.append(three.score_one(x, t))
        three.learn_one(x, t)
    assert at_once.tolist() == singly == apart
    assert one.save() == two.save() == three.save()
    assert one.seen == 240


def test_scores_lie_between_0_and_1_and_a_monster_is_found(make: Callable[[], Detector]) -> None:
    values = daily(400)
    values[350] = 500.0
    detector = make()
    if detector.kind == "htm":
        pytest.skip("ten raw scores make its mean: one record is none of its business")
    scores = detector.score_many(values, stamps(400))
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[350] == scores.max() > 0.8


def test_saving_and_loading_at_any_record_changes_nothing(make: Callable[[], Detector]) -> None:
    values, times = daily(260), stamps(260)
    straight, broken = make(), make()
    want = [straight.process_one(x, t).score for x, t in zip(values, times, strict=True)]
    got = []
    for i, (x, t) in enumerate(zip(values, times, strict=True)):
        got.append(broken.process_one(x, t).score)
        if i % 17 == 0 or 80 <= i < 120:
            loaded = load_detector(broken.save())
            assert type(loaded) is type(broken)
            assert loaded.save() == broken.save()
            broken = loaded
    assert got == want
    assert broken.save() == straight.save()


def test_a_difference_is_loaded_with_the_blob_it_was_made_against(make: Callable[[], Detector]) -> None:
    detector = make()
    detector.score_many(daily(300), stamps(300))
    base = detector.save()
    detector.process_one(3.0, 1_700_900_000.0)
    difference = detector.save(base=base)
    assert len(difference) < len(base)
    assert load_detector(difference, base=base).save() == detector.save()
    with pytest.raises(StateError, match="difference"):
        load_detector(difference)
    with pytest.raises(StateError, match="another blob"):
        load_detector(difference, base=make().save())


def test_a_damaged_state_is_refused(make: Callable[[], Detector]) -> None:
    detector = make()
    detector.score_many(daily(150))
    saved = bytearray(detector.save())
    for place in (0, 7, 20, len(saved) // 2, len(saved) - 1):
        damaged = bytearray(saved)
        damaged[place] ^= 0x55
        with pytest.raises(StateError):
            load_detector(bytes(damaged))
    for bad in (b"", b"EPHTM", bytes(saved[:-3]), b"x" * 500):
        with pytest.raises(StateError):
            load_detector(bad)


def test_a_state_of_another_detector_is_refused(make: Callable[[], Detector]) -> None:
    other = Statistics() if make().kind != "statistics" else WindowedGaussian()
    with pytest.raises(StateError, match="detector"):
        make().load(other.save())


def test_a_clone_knows_nothing_and_learns_the_same(make: Callable[[], Detector]) -> None:
    detector = make()
    values = daily(150)
    first = detector.score_many(values, stamps(150)).tolist()
    clone = detector.clone()
    assert clone.seen == 0
    assert clone.score_many(values, stamps(150)).tolist() == first
    assert detector.clone(learning=50).save() != detector.clone().save()


def test_missing_values_score_0_and_are_not_learnt(make: Callable[[], Detector]) -> None:
    with_holes, without = make(), make()
    for i, x in enumerate(daily(200)):
        if i % 5 == 0:
            for missing in (math.nan, None, math.inf, -math.inf):
                reading = with_holes.process_one(missing)
                assert (reading.score, reading.cause) == (0.0, "missing")
                assert with_holes.score_one(missing) == 0.0
        assert with_holes.process_one(x).score == without.process_one(x).score
    assert with_holes.save() == without.save()


def test_a_constant_series_is_no_anomaly(make: Callable[[], Detector]) -> None:
    scores = make().score_many(np.full(300, 42.0), stamps(300))
    assert scores.max() < 0.6


def test_extreme_values_do_no_harm(make: Callable[[], Detector]) -> None:
    detector = make()
    values = daily(300)
    values[120:126] = [1e308, -1e308, 5e-324, 0.0, -0.0, 1e-300]
    scores = detector.score_many(values, stamps(300))
    assert np.isfinite(scores).all()
    assert math.isfinite(load_detector(detector.save()).score_one(1.0))


def test_times_may_stand_still_go_back_be_missing_or_be_of_any_kind(make: Callable[[], Detector]) -> None:
    detector = make()
    start = datetime(2024, 3, 31, 0, 30, tzinfo=UTC)
    naive = datetime(2024, 1, 1)  # noqa: DTZ001 - a time without zone is what is tested
    for t in (start, start, start - timedelta(days=900), None, 0, -5.5, np.datetime64("2030-01-01T05"), naive):
        assert 0.0 <= detector.process_one(1.0, t).score <= 1.0


def test_a_record_of_one_feature_is_its_value(make: Callable[[], Detector]) -> None:
    """As river passes records."""
    one, two = make(), make()
    for x in daily(120):
        one.learn_one({"cpu": x})
        two.learn_one(x)
    assert one.save() == two.save()
    with pytest.raises(ValueError, match="one value, this has 2: a, b"):
        one.learn_one({"a": 1.0, "b": 2.0})


@settings(max_examples=15)
@given(
    values=st.lists(st.one_of(st.floats(), st.floats(-5, 5), st.none()), min_size=1, max_size=60),
    cuts=st.sets(st.integers(0, 59)),
    kind=st.sampled_from(["default", "statistics", "gaussian", "numenta"]),
)
def test_any_series_gives_the_same_scores_with_a_save_and_load_anywhere(
    values: list[float | None], cuts: set[int], kind: str
) -> None:
    straight, broken = (MAKERS[kind]().clone(learning=10) for _ in range(2))
    for i, x in enumerate(values):
        if i in cuts:
            broken = load_detector(broken.save())
        want = straight.process_one(x).score
        assert 0.0 <= want <= 1.0
        assert broken.process_one(x).score == want
    assert broken.save() == straight.save()
