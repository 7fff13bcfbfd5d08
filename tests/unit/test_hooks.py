"""The hooks that come with eventproc."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventproc.config import Retention, load
from eventproc.errors import InvalidPayload
from eventproc.registry.catalogue import Catalogue
from eventproc.registry.specs import load_specs
from eventproc.wiring import load_hooks

HOOKS = Path(__file__).parents[2] / "hooks"
SPECS, PROBLEMS = load_specs(sorted(HOOKS.glob("*.yaml")), source="bundled")
CATALOGUE = Catalogue(revision=1, hooks=SPECS, handlers=[])
BY_NAME = {spec.name: spec for spec in SPECS}


def test_all_files_are_in_order():
    assert not PROBLEMS


def test_the_promised_hooks_are_there():
    assert set(BY_NAME) >= {
        "model.defined",
        "model.deleted",
        "inference.batch_done",
        "ctingress.on_complete",
        "metric.created",
        "run.failed",
        "schedule.tick",
    }


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_each_hook_says_what_it_is_shows_a_sample_and_is_not_kept_for_ever(name):
    spec = BY_NAME[name]
    assert spec.summary.endswith(".")
    assert spec.sample
    assert spec.keep_s
    assert spec.schema["type"] == "object"
    CATALOGUE.validate(name, spec.sample)


def test_idle_inference_batches_go_after_an_hour():
    assert BY_NAME["inference.batch_done"].keep_idle_s == 3600


def test_an_operator_says_how_long_events_of_bundled_hooks_stay(tmp_path):
    settings = load(
        data=tmp_path,
        retention=Retention(keep="ctingress.on_complete=2d", keep_idle="inference.batch_done=7d model.loadet=1d"),
    )
    specs, told = load_hooks(settings)
    found = {spec.name: spec for spec in specs}
    assert found["inference.batch_done"].keep_idle_s == 7 * 86_400
    assert found["inference.batch_done"].keep_s == BY_NAME["inference.batch_done"].keep_s
    assert found["ctingress.on_complete"].keep_s == 2 * 86_400
    (line,) = told
    assert "retention.keep_idle names the hook 'model.loadet'" in line
    assert "did you mean 'model.loaded'?" in line


def test_comtrade_events_have_exactly_the_documented_members():
    spec = BY_NAME["ctingress.on_complete"]
    assert set(spec.sample) == {"DataSets", "File", "RequestID", "SubmittedAt"}
    good, bad = spec.sample["DataSets"]
    assert set(good) == set(bad) == {"Error", "Name", "Streams", "Success"}
    assert set(good["Streams"][0]) == {"EndNs", "ProcessedAtNs", "StartNs", "Uuid"}
    assert bad["Streams"] is None
    for broken in (
        {**spec.sample, "DataSets": [{**good, "Streams": [{**good["Streams"][0], "Uuid": "x"}]}]},
        {**spec.sample, "DataSets": [{**good, "Extra": 1}]},
        {key: value for key, value in spec.sample.items() if key != "File"},
        {**spec.sample, "SubmittedAt": "yesterday"},
    ):
        with pytest.raises(InvalidPayload):
            CATALOGUE.validate("ctingress.on_complete", broken)


def test_a_score_out_of_range_is_refused_with_its_row():
    sample = BY_NAME["inference.batch_done"].sample
    rows = [sample["results"][0], {**sample["results"][1], "anomaly": 1.5}]
    with pytest.raises(InvalidPayload) as caught:
        CATALOGUE.validate("inference.batch_done", {**sample, "results": rows})
    assert caught.value.details["path"] == "$.results[1].anomaly"
