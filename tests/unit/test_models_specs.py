"""Model specifications: what is refused, in which words, and what models are made of what is not."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models_world import wave

from eventproc.errors import DamagedData, InvalidInput
from eventproc.htm.likelihood import EngineLikelihood
from eventproc.models.display import likelihood_of, rescale
from eventproc.models.parameters import model_params
from eventproc.models.scorer import Scorer
from eventproc.models.specs import estimate_range, parse_spec

EPOCH_US = 1_386_201_600_000_000
BASE = {"datasource": "custom", "metricSpec": {"metric": "cpu"}}
COMPLETE = {
    "modelConfig": {
        "model": "HTMPrediction",
        "modelParams": {
            "clEnable": False,
            "sensorParams": {
                "encoders": {
                    "foo_timeOfDay": {"fieldname": "foo", "type": "DateEncoder", "timeOfDay": [21, 9.49]},
                    "foo_weekend": None,
                    "bar": {
                        "fieldname": "bar",
                        "type": "RandomDistributedScalarEncoder",
                        "resolution": 0.5,
                        "seed": 42,
                    },
                }
            },
            "spParams": {"columnCount": 1024, "numActiveColumnsPerInhArea": 20, "synPermConnected": 0.1},
            "tmParams": {"cellsPerColumn": 16, "initialPerm": 0.24, "minThreshold": 13},
        },
    },
    "inferenceArgs": {"predictionSteps": [1], "predictedField": "bar"},
    "timestampFieldName": "foo",
    "valueFieldName": "bar",
}


def complete(**changes):
    found = copy.deepcopy(COMPLETE) | changes
    return {key: value for key, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"modelParams": {"min": 0, "max": 1}, "completeModelParams": COMPLETE},
            "Specify either modelParams or completeModelParams but not both.",
        ),
        (
            {"completeModelParams": complete(inferenceArgs=None)},
            "inferenceArgs must be specified in completeModelParams.",
        ),
        (
            {"completeModelParams": complete(timestampFieldName=None)},
            "timestampFieldName must be specified in completeModelParams.",
        ),
        (
            {"completeModelParams": complete(valueFieldName=None)},
            "valueFieldName must be specified in completeModelParams.",
        ),
        (
            {"completeModelParams": complete(valueFieldName="baz")},
            "Inference args' predictedField must match complete model params' valueFieldName",
        ),
        ({"modelParams": {"min": 5}}, "min and max params must both be None or non-None; modelSpec="),
        ({"modelParams": {"max": 5}}, "min and max params must both be None or non-None; modelSpec="),
        ({"metricSpec": {"resource": "r"}}, "Neither uid nor metric name present in metricSpec; modelSpec="),
    ],
)
def test_what_htmengine_refused_is_refused_in_its_words(more, says):
    with pytest.raises(ValueError) as caught:
        parse_spec(BASE | more)
    assert str(caught.value).startswith(says)
    assert " modelSpec=" in str(caught.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"modelParam": {}}, "has no 'modelParam'"),
        ({"datasource": "cloudwatch"}, "unknown datasource"),
        ({"modelParams": {"min": "low", "max": 1}}, "'min' must be a finite number"),
        ({"modelParams": {"min": float("nan"), "max": 1}}, "'min' must be a finite number"),
        ({"modelParams": {"min": 2, "max": 1}}, "min 2 is above max 1"),
        ({"modelParams": {"minResolution": 0}}, "minResolution must be above 0"),
        ({"modelParams": {"enableClassifier": 1}}, "must be true or false"),
        ({"modelParams": []}, "must be an object"),
        ({"options": {"detector": "best"}}, "no detector is named 'best'; there are"),
        ({"options": {"likelihood": "normal"}}, "no likelihood is named 'normal'"),
        ({"options": {"detector": "statistics", "likelihood": "table"}}, "needs raw scores"),
        ({"options": {"timezone": "Mars/Olympus"}}, "no time zone is named"),
        ({"options": {"zone": "UTC"}}, "options has no 'zone'"),
    ],
)
def test_other_mistakes_are_named(more, says):
    with pytest.raises(InvalidInput, match=says):
        parse_spec(BASE | more)


@pytest.mark.parametrize(
    ("encoders", "says"),
    [
        ({"bar": {"fieldname": "bar"}}, "needs a resolution"),
        ({"foo": {"fieldname": "foo", "timeOfDay": [21, 1]}}, "no encoder for 'bar'"),
        ({"x": {"fieldname": "x", "resolution": 1}}, "reads the field 'x'"),
        ({"bar": 5}, "must be an object"),
    ],
)
def test_complete_parameters_that_can_not_be_are_named(encoders, says):
    spec = complete()
    spec["modelConfig"]["modelParams"]["sensorParams"]["encoders"] = encoders
    with pytest.raises(InvalidInput, match=says):
        model_params(parse_spec(BASE | {"completeModelParams": spec}))


def parameters(**params):
    return model_params(parse_spec(BASE | {"modelParams": params}))


def resolution(params):
    return params["modelConfig"]["modelParams"]["sensorParams"]["encoders"]["c1"]["resolution"]


def test_the_encoders_resolution_comes_from_the_range_and_has_a_least_value():
    assert resolution(parameters(min=0, max=100)) == pytest.approx(100 / 130)
    assert resolution(parameters(min=5000, max=10000)) == pytest.approx(5000 / 130)
    assert resolution(parameters(min=0, max=1, minResolution=0.5)) >= 0.5
    assert resolution(parameters(min=3, max=3)) == pytest.approx(1 / 130)
    assert resolution(parameters(min=0, max=0.01)) == pytest.approx(0.001)


def test_the_classifier_is_asked_for():
    assert parameters(min=0, max=1)["modelConfig"]["modelParams"]["clEnable"] is False
    assert parameters(min=0, max=1, enableClassifier=True)["modelConfig"]["modelParams"]["clEnable"] is True


def test_complete_parameters_shape_the_model():
    found = model_params(parse_spec(BASE | {"completeModelParams": COMPLETE}))
    shaped = found["detector"]["parameters"]
    assert (shaped["cells"], shaped["initial"], shaped["match"], shaped["columns"]) == (16, 240, 13, 1024)
    assert (shaped["maximum"] - shaped["minimum"]) / shaped["buckets"][0] == pytest.approx(0.5)
    assert (shaped["time_on"], shaped["pooler_connected"]) == (21, 1000)
    assert found["modelConfig"] == COMPLETE["modelConfig"]
    assert found["inputRecordSchema"] == [["foo", "datetime", "timestamp"], ["bar", "float", ""]]
    scores = Scorer.new(found["detector"]).score(np.array(wave(20)), np.arange(20) * 300_000_000)
    assert scores.raw.shape == (20,)


@pytest.mark.parametrize("detector", ["user:mine", "gaussian", "statistics"])
def test_what_has_no_htm_shows_no_parameters_of_one(detector):
    found = model_params(parse_spec(BASE | {"options": {"detector": detector}}), 0.0, 1.0)
    assert list(found) == ["detector"]
    assert found["detector"]["name"] == detector


@pytest.mark.parametrize("detector", ["user:mine", "gaussian"])
def test_complete_parameters_are_refused_for_other_detectors(detector):
    spec = parse_spec(BASE | {"completeModelParams": COMPLETE, "options": {"detector": detector}})
    with pytest.raises(InvalidInput, match=f"NuPIC's models, not for the detector '{detector}'"):
        model_params(spec)


def test_predictions_come_with_the_classifier_and_survive_a_restart():
    params = parameters(min=0, max=100, enableClassifier=True)["detector"]
    values, times = np.array(wave(1500)), np.arange(1500) * 300_000_000
    whole = Scorer.new(params).score(values, times)
    first = Scorer.new(params)
    found = list(first.score(values[:900], times[:900]).predictions)
    again, _ = Scorer.load(params, first.save(900))
    found += again.score(values[900:], times[900:]).predictions
    assert found == whole.predictions
    late = [row["1"] for row in found[1200:-1] if row]
    assert len(late) > 200
    assert np.mean(np.abs(np.array(late) - values[1201 : 1201 + len(late)])) < 15
    assert Scorer.new(PARAMS).score(values[:5], times[:5]).predictions == []


def test_complete_parameters_say_how_far_ahead():
    spec = complete(inferenceArgs={"predictionSteps": [1, 5], "predictedField": "bar"})
    spec["modelConfig"]["modelParams"]["clEnable"] = True
    found = model_params(parse_spec(BASE | {"completeModelParams": spec}))["detector"]
    assert found["parameters"]["predict_steps"] == (1, 5)
    rows = Scorer.new(found).score(np.array(wave(600)), np.arange(600) * 300_000_000).predictions
    assert set(rows[-1]) == {"1", "5"}


@pytest.mark.parametrize(("day", "hour"), [(True, False), (False, True), (True, True)])
def test_hour_and_weekday_are_a_choice(day, hour):
    spec = parse_spec(BASE | {"options": {"dayOfWeek": day, "timeOfDay": hour}})
    shaped = model_params(spec, 0.0, 1.0)["detector"]["parameters"]
    assert (shaped["day_on"] > 0, shaped["time_on"] > 0) == (day, hour)


def test_the_time_zone_changes_what_an_hour_is():
    values, times = np.array(wave(1200)), 1386201600_000000 + np.arange(1200) * 300_000_000
    found = []
    for zone in ("UTC", "Asia/Tokyo"):
        spec = parse_spec(BASE | {"options": {"timezone": zone, "detector": "htm", "timeOfDay": True}})
        params = model_params(spec, 0.0, 100.0)
        found.append(Scorer.new(params["detector"]).score(values, times).raw)
    assert (found[0] != found[1]).any()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"options": {"range": "guessed"}}, "range must be estimated or learnt, not 'guessed'"),
        (
            {"options": {"range": "learnt"}, "modelParams": {"min": 0, "max": 1}},
            "a range that is given can not be learnt",
        ),
        ({"options": {"range": "learnt", "likelihood": "table"}}, "needs raw scores from the first sample on"),
        ({"options": {"range": "learnt", "detector": "gaussian"}}, "detectors of this package"),
    ],
)
def test_a_range_that_can_not_be_learnt_is_refused(more, says):
    with pytest.raises(InvalidInput, match=says):
        parse_spec(BASE | more)


def test_a_stored_specification_names_the_metric_and_keeps_what_else_was_said():
    spec = {"metricSpec": {"uid": "x", "userInfo": {"a": 1}, "unit": "s"}, "modelParams": {"min": 0, "max": 1}}
    stored = parse_spec(spec).canonical("cpu")
    assert stored == {
        "datasource": "custom",
        "metricSpec": {"metric": "cpu", "userInfo": {"a": 1}, "unit": "s"},
        "modelParams": {"min": 0, "max": 1},
    }
    assert parse_spec(json.loads(json.dumps(stored))).canonical("cpu") == stored


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_an_estimated_range_holds_all_that_was_seen_and_a_fifth_more(low, width):
    found = estimate_range(low, low + width)
    seen = width if low + width > low else 1.0
    assert found[0] <= low <= found[1]
    assert found[1] - found[0] == pytest.approx(1.4 * seen, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("anomaly", "display"),
    [
        (0.0, 0.0),
        (0.1, 1000.0045757490677),
        (0.5, 1000.0301029996659),
        (0.99, 1000.2000000002844),
        (0.999, 1000.2999999967351),
        (0.9999, 1000.3999999580079),
        (0.99999, 1000000.4999995675),
        (0.999991, 1000000001),
        (1.0, 1000000001),
    ],
)
def test_display_values_are_the_known_ones(anomaly, display):
    assert rescale(anomaly) == pytest.approx(display, rel=1e-12)


def test_an_inactive_metric_ranks_below_all():
    assert rescale(0.5, active=False) == pytest.approx(1.000030102999666e-06, rel=1e-9)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_scale_of_likelihoods_keeps_the_order_of_scores(one, other):
    low, high = likelihood_of(np.array(sorted([one, other]))).tolist()
    assert 0.0 <= low <= high <= 1.0


def test_the_score_to_alarm_at_becomes_the_likelihood_to_alarm_at():
    assert likelihood_of(np.array([0.0, 0.67])).tolist() == pytest.approx([0.0, 0.99999], rel=1e-12)


PARAMS = parameters(min=0, max=100)["detector"]


def saved_model():
    scorer = Scorer.new(PARAMS)
    scorer.score(np.array(wave(60)), np.arange(60) * 300_000_000)
    return scorer.save(60)


SAVED = saved_model()


def test_a_checkpoint_knows_its_row():
    assert Scorer.load(PARAMS, SAVED)[1] == 60


@given(st.integers(0, len(SAVED) - 1), st.integers(1, 255))
def test_a_checkpoint_with_any_byte_changed_is_refused(place, change):
    damaged = bytearray(SAVED)
    damaged[place] ^= change
    with pytest.raises(DamagedData):
        Scorer.load(PARAMS, bytes(damaged))


@given(st.integers(0, len(SAVED) - 1))
def test_a_checkpoint_that_was_cut_off_is_refused(length):
    with pytest.raises(DamagedData):
        Scorer.load(PARAMS, SAVED[:length])


def scored(values, **params):
    scorer = Scorer.new(parameters(**params)["detector"])
    return scorer.score(np.array(values, float), EPOCH_US + np.arange(len(values)) * 300_000_000).anomaly


def test_a_constant_that_changes_is_an_alarm():
    scores = scored([42.0] * 1200 + [55.0] * 20, min=0, max=100)
    assert scores[:1200].max() == 0.0
    assert scores[1200:].max() > 0.99999


def test_a_periodic_spike_that_is_missing_is_reported():
    values = [10.0 + (80.0 if i % 24 == 0 else 0.0) for i in range(3000)]
    for i in range(2400, 3000):
        values[i] = 10.0
    scores = scored(values, min=0, max=100)
    assert scores[1200:2400].max() < 0.99
    assert scores[2400:].max() > 0.99999


def test_a_fit_that_was_made_before_a_batch_has_no_place_in_it():
    """A likelihood that repeats the original's batches fits before the first record of a short one after a long one."""
    scorer = Scorer.new(PARAMS)
    scorer.likelihood = EngineLikelihood(batched=True)
    values, times = np.array(wave(600)), np.arange(600) * 300_000_000
    at, before = 0, 0
    for size in (531, 10, 59):
        scores = scorer.score(values[at : at + size], times[at : at + size])
        records = [fit.record for fit in scorer.likelihood.fits]
        assert [at + place + 1 for place, _ in scores.fits] == [record for record in records if record > at]
        before += sum(record <= at for record in records)
        at += size
    assert before
