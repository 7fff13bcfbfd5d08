"""What a model can be fed with, and what it says of the future."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from htm_world import SMALL, daily, digest, stamps
from hypothesis import given, settings
from hypothesis import strategies as st

from eventproc.htm import AnomalyModel, HtmCore, NumentaHTM, find_detector, load_detector, of_config, of_range
from eventproc.htm.foresight import exponential
from eventproc.htm.htmcore import available

ALONE: dict[str, Any] = {**SMALL, "streams": False, "gap": 0, "report": 0.0}


def mean_raw(model: AnomalyModel, values: Any, times: Any = None, last: int = 100) -> float:
    return float(np.nanmean(model.process_many(values, times)[-last:, 3]))


# Best next values.


def test_the_best_next_values_of_a_repeated_sequence_are_its_next_values() -> None:
    """After 2 comes 9 or 7, depending on what came before."""
    sequence = [1.0, 5.0, 2.0, 9.0, 2.0, 7.0]
    model = AnomalyModel(predict_steps=(1, 2, 5), learning=50)
    for value in sequence * 200:
        reading = model.process_one(value)
        assert set(reading.predictions) == set(reading.probabilities) <= {1, 2, 5}
    assert reading.predictions == pytest.approx({1: 1.0, 2: 5.0, 5: 2.0}, abs=0.01)
    assert min(reading.probabilities.values()) > 0.9
    assert model.process_one(1.0).predictions[1] == pytest.approx(5.0, abs=0.01)


def test_predictions_of_a_noisy_wave_beat_the_last_value() -> None:
    values = daily(3000, noise=0.2)
    table = AnomalyModel(predict_steps=(1, 8)).process_many(values, stamps(3000))
    for place, step in enumerate((1, 8)):
        said = table[2000:-step, 16 + place]
        ours = np.abs(said - values[2000 + step :]).mean()
        assert ours < 0.9 * np.abs(values[2000 + step :] - values[2000:-step]).mean()


def test_predictions_are_the_same_after_a_save_and_load() -> None:
    values = daily(260)
    straight, broken = (AnomalyModel(**SMALL, predict_steps=(1, 3), predict_classes=16) for _ in range(2))
    for i, value in enumerate(values):
        if i % 40 == 0:
            broken = AnomalyModel.load(broken.save())
        one, two = straight.process_one(value), broken.process_one(value)
        assert (one.predictions, one.probabilities) == (two.predictions, two.probabilities)
    assert digest(straight) == digest(broken)


@settings(max_examples=10)
@given(
    values=st.lists(st.one_of(st.floats(), st.floats(-5, 5)), min_size=1, max_size=50), cuts=st.sets(st.integers(0, 49))
)
def test_any_series_with_every_input_goes_on_after_a_save_and_load(values: list[float], cuts: set[int]) -> None:
    every = {"learning": 8, "delta_on": 7, "adaptive": True, "day_on": 3, "weekend_on": 3, "pooler_learns": True}
    straight, broken = (AnomalyModel(**{**SMALL, **every}, predict_steps=(2,)) for _ in range(2))
    for i, value in enumerate(values):
        if i in cuts:
            broken = AnomalyModel.load(broken.save())
        assert repr(straight.process_one(value, i * 9000.0)) == repr(broken.process_one(value, i * 9000.0))
    assert digest(straight) == digest(broken)


def test_predicting_changes_no_score() -> None:
    values = daily(300)
    with_them = AnomalyModel(**SMALL, predict_steps=(1,)).process_many(values, stamps(300))
    without = AnomalyModel(**SMALL).process_many(values, stamps(300))
    assert np.array_equal(with_them[:, :16], without, equal_nan=True)


def test_nothing_is_predicted_before_the_memory_works_nor_when_only_asked() -> None:
    model = AnomalyModel(**SMALL, predict_steps=(1,))
    assert model.process_one(1.0).predictions == {}
    model.process_many(daily(200))
    assert model.ask_one(1.0).predictions == {}
    assert model.process_one(None).predictions == {}


def test_numentas_detector_predicts_too() -> None:
    detector = NumentaHTM(of_range("numenta_cpp", classifier=True, minimum=0.0, maximum=10.0), **SMALL)
    for value in [1.0, 5.0, 2.0, 9.0] * 60:
        reading = detector.process_one(value)
    assert reading.predictions[1] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("x", [0.0, -1e-9, -0.5, -1.0, -7.25, -30.0])
def test_the_exponential_of_our_own_is_one(x: float) -> None:
    assert exponential(x) == pytest.approx(math.exp(x), rel=1e-7)


# Inputs.


def test_words_are_a_sequence_like_any_other() -> None:
    model = AnomalyModel(**ALONE, category=True)
    for word in ["start", "work", "work", "stop"] * 60:
        reading = model.process_one(word)
    assert reading.raw == 0.0
    surprise = model.process_one("crash")
    assert surprise.raw > 0.8
    assert "at crash" in surprise.explain() or surprise.explain() == "Nothing unusual."
    assert model.process_one(None).cause == "missing"


def test_numbers_that_are_categories_have_no_neighbours() -> None:
    """Codes 200 and 201 are as different as any two."""
    model = AnomalyModel(**ALONE, category=True)
    model.process_many([200, 404] * 100)
    assert model.process_one(200).raw == 0.0
    assert model.process_one(405).raw > 0.8
    one, two = AnomalyModel(**ALONE, category=True), AnomalyModel(**ALONE, category=True)
    assert np.array_equal(one.score_many(["a", "b"] * 30), [two.process_one({"x": w}).score for w in ["a", "b"] * 30])


def test_changes_are_what_a_delta_sees() -> None:
    """A staircase: no value comes twice, every step does."""
    stairs = np.cumsum([1.0, 1.0, 4.0, 1.0] * 150)
    seen = {
        on: mean_raw(AnomalyModel(**{**ALONE, "value_on": 0 if on else 21}, resolution=0.25, delta_on=on), stairs)
        for on in (0, 21)
    }
    assert seen[21] < 0.1 < seen[0]


def test_an_adaptive_range_follows_what_comes() -> None:
    """Ten times the amplitude: with the first range most values are new, again and again."""
    values = np.concatenate([daily(300), daily(2500, noise=2.0) * 10])
    fixed, adaptive = (AnomalyModel(**ALONE, adaptive=adaptive) for adaptive in (False, True))
    assert mean_raw(adaptive, values) < mean_raw(fixed, values)
    assert load_detector(adaptive.save()).save() == adaptive.save()


def test_a_resolution_that_is_given_needs_no_waiting() -> None:
    model = AnomalyModel(**ALONE, resolution=0.5)
    assert math.isfinite(model.process_one(3.0).raw)
    assert model.arrays()["pending"].size == 0


def test_days_of_the_week_tell_apart_what_hours_do_not() -> None:
    """Another value on Sundays."""
    days = np.arange(7 * 60)
    values, times = np.where(days % 7 == 6, 50.0, 10.0), 345_600.0 + days * 86_400.0
    with_days = AnomalyModel(**ALONE, minimum=0.0, maximum=100.0, day_on=21)
    with_days.process_many(values, times)
    sunday, monday = times[-1] + 7 * 86_400.0, times[-1] + 86_400.0
    assert with_days.ask_one(10.0, monday).raw < 0.2
    assert with_days.ask_one(10.0, sunday).raw > with_days.ask_one(10.0, monday).raw


def test_the_time_zone_decides_which_day_it_is() -> None:
    kiritimati, utc = (AnomalyModel(**ALONE, day_on=7, weekend_on=7, timezone=z) for z in ("Pacific/Kiritimati", "UTC"))
    for model in (kiritimati, utc):
        model.process_many(daily(150), stamps(150))
    assert digest(kiritimati) != digest(utc)


# Parameter sets by name.


def test_a_range_is_divided_as_htmengine_does() -> None:
    parameters = of_range("numenta_cpp", minimum=5000.0, maximum=10_000.0)
    assert resolution(parameters) == pytest.approx(5000 / 130)
    assert resolution(of_range("numenta_tm_cpp", minimum=0.0, maximum=1.0, min_resolution=0.5)) == 0.5
    assert resolution(of_range(minimum=0.0, maximum=0.0)) == pytest.approx(1 / 130)
    assert resolution(of_range(minimum=0.0, maximum=0.01)) == 0.001
    assert of_range(classifier=True).predict_steps == (1,)
    assert of_range().waits


def resolution(parameters: Any) -> float:
    return float(AnomalyModel(parameters)._state.mind.frame[0, 1])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"minimum": 5000.0}, "min and max params must both be None or non-None"),
        ({"minimum": 0.0, "maximum": math.inf}, "max must be a finite number"),
        ({"base": "best"}, "no parameter set named 'best'"),
        ({"min_resolution": -1.0}, "parameter min_resolution=-1.0 can not be"),
    ],
)
def test_a_range_that_can_not_be_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        of_range(**given)


CONFIG: dict[str, Any] = {
    "model": "HTMPrediction",
    "aggregationInfo": {"seconds": 0},
    "modelParams": {
        "sensorParams": {
            "encoders": {
                "c0_timeOfDay": {"type": "DateEncoder", "timeOfDay": [21, 9.49], "fieldname": "c0"},
                "c0_dayOfWeek": None,
                "c0_weekend": None,
                "c1": {"type": "RandomDistributedScalarEncoder", "resolution": 0.5, "seed": 42, "fieldname": "c1"},
            },
            "sensorAutoReset": None,
        },
        "spParams": {"columnCount": 1024, "numActiveColumnsPerInhArea": 20, "synPermActiveInc": 0.003, "seed": 1956},
        "tmParams": {
            "cellsPerColumn": 16,
            "activationThreshold": 10,
            "minThreshold": 8,
            "initialPerm": 0.24,
            "seed": 9,
        },
        "clEnable": True,
        "clParams": {"alpha": 0.035, "steps": "1,5"},
        "trainSPNetOnlyIfRequested": False,
    },
}


def test_a_complete_configuration_is_read() -> None:
    spec = of_config(CONFIG, {"predictionSteps": [1, 3], "predictedField": "c1"})
    p = spec.parameters
    assert (p.resolution, p.time_on, p.time_bits, p.day_on) == (0.5, 21, 53, 0)
    assert (p.columns, p.active_columns, p.pooler_up) == (1024, 20, 30)
    assert (p.cells, p.activate, p.match, p.initial, p.seed) == (16, 10, 8, 240, 9)
    assert p.predict_steps == (1, 3)
    assert spec.ignored == ("modelConfig.aggregationInfo", "modelParams.trainSPNetOnlyIfRequested")
    assert of_config(CONFIG).parameters.predict_steps == (1, 5)
    assert AnomalyModel(p).process_one(1.0, 0.0).raw == 1.0


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ((), [], "modelConfig.modelParams must be an object, not list"),
        (("spParams",), 7, "modelParams.spParams must be an object, not int"),
        (("spParams", "columnCount"), "many", "spParams.columnCount must be a number, not 'many'"),
        (("sensorParams", "encoders", "c1", "type"), "GeoEncoder", "no encoder is named 'GeoEncoder' here"),
        (("sensorParams", "encoders", "c1"), None, "must encode one value, not 0"),
        (("tmParams", "cellsPerColumn"), 9999, "columns \\* cells must be 1 to 65536"),
        (("clParams", "steps"), "soon", "predictionSteps must be whole numbers of records, not 'soon'"),
    ],
)
def test_a_configuration_that_can_not_be_is_refused_by_name(path: tuple[str, ...], value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        of_config({**CONFIG, "modelParams": replaced(CONFIG["modelParams"], path, value)})


def replaced(tree: Any, path: tuple[str, ...], value: Any) -> Any:
    return value if not path else {**tree, path[0]: replaced(tree[path[0]], path[1:], value)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"category": True}, "words have no range, change or mean"),
        ({"value_on": 0}, "value_on \\+ delta_on at least 1"),
        ({"resolution": 0.0}, "must be a positive number"),
        ({"predict_steps": (1, 1)}, "different numbers of records from 1 to 1000"),
        ({"predict_steps": (1,), "buckets": ()}, "of a model with a temporal memory"),
    ],
)
def test_inputs_that_can_not_be_are_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AnomalyModel(**changes)


@pytest.mark.skipif(available(), reason="htm.core is installed here")
def test_without_htm_core_the_refusal_says_how_to_get_it() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"pip install git\+https://github.com/htm-community/htm.core"):
        HtmCore()
    assert find_detector("htm.core") is HtmCore
    with pytest.raises(ValueError, match="no predict_steps, delta_on, adaptive range"):
        HtmCore(predict_steps=(1,))


def test_a_learning_poolers_state_is_saved_as_what_it_learnt() -> None:
    model = AnomalyModel(pooler_learns=True)
    model.process_many(daily(1500), stamps(1500))
    saved = model.save()
    assert len(saved) < 300_000
    assert load_detector(saved).save() == saved
