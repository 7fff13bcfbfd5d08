"""The anomaly model as its users meet it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from htm_world import SMALL, daily, digest, stamps

import eventproc.htm
from eventproc.htm import (
    HTM,
    AnomalyModel,
    Parameters,
    Statistics,
    find_detector,
    jit,
    kernels,
    process_models,
    streams,
)
from eventproc.htm.records import rows, zone_named
from eventproc.htm.streams import unseasonal

# Compiling takes half a minute of a processor, and the one that compiles beside the work lets everybody go first.
pytestmark = pytest.mark.timeout(1500)
HERE = Path(__file__).parents[1]


def python(code: str, *, interpreter: str = sys.executable, **environment: str) -> Any:
    """Run code in a fresh interpreter, with the tests' helpers at hand, and read the JSON it prints last."""
    done = subprocess.run(
        [interpreter, "-c", f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


WALK = """
import json
from htm_world import SMALL, daily, digest, stamps
from eventproc.htm import AnomalyModel, jit
values = daily(400)
values[300:304] = 40.0
found = []
for changes in ({}, {"pooler_learns": True, "time_on": 21, "punish": 2, "weekend_on": 5, "buckets": (60, 20)},
                {"predict_steps": (1, 4), "predict_classes": 16, "delta_on": 9, "adaptive": True}):
    model = AnomalyModel(**{**SMALL, **changes})
    table = model.process_many(values, stamps(400))
    asked = model.score_one(99.0, 0.0)
    found.append([digest(model), table[:, 3].tolist()[100:], table[:, 0].tolist(), table[:, 14].tolist(), asked])
print(json.dumps([jit.COMPILED, found]))
"""


@pytest.fixture(scope="module")
def walk() -> Any:
    return python(WALK)


def test_another_process_comes_to_the_same_state(walk: Any) -> None:
    assert python(WALK)[1][0][0] == walk[1][0][0]


def test_without_numba_the_numbers_are_the_same(walk: Any) -> None:
    """State and raw scores bit by bit, what goes through logarithms to 1e-12."""
    slow = python(WALK, NUMBA_DISABLE_JIT="1")
    assert slow[0] is False
    if not walk[0]:
        pytest.skip("numba is not installed: there is nothing to compare with")
    for ours, theirs in zip(slow[1], walk[1], strict=True):
        assert ours[1] == theirs[1], "raw scores"
        assert np.abs(np.array(ours[2]) - theirs[2]).max() < 1e-12
        assert np.array_equal(ours[3], theirs[3], equal_nan=True), "expected values"
        assert ours[4] == pytest.approx(theirs[4], abs=1e-12)
        assert ours[0] == theirs[0], "state"


def other_pythons() -> list[str]:
    """Interpreters of other versions that have NumPy and zstandard, also those below EVENTPROC_TEST_PYTHONS."""
    directory = Path(os.environ.get("EVENTPROC_TEST_PYTHONS", os.devnull))
    names = [f"python3.{minor}" for minor in range(11, 16)]
    found = []
    for path in [*(directory / name.removeprefix("python") / "bin" / name for name in names), *names]:
        where = shutil.which(path)
        if where is None:
            continue
        check = "import sys, numpy, zstandard; print(*sys.version_info[:2])"
        done = subprocess.run([where, "-c", check], capture_output=True, text=True, check=False, timeout=60)
        if done.returncode == 0 and done.stdout.split() != [str(part) for part in sys.version_info[:2]]:
            found.append(where)
    return found


def test_other_versions_of_python_give_the_same_numbers(walk: Any) -> None:
    interpreters = other_pythons()
    if not interpreters:
        pytest.skip(
            "no other Python with NumPy and zstandard is at hand: python3.13 -m venv DIR/3.13, DIR/3.13/bin/pip install"
            " numpy zstandard numba, EVENTPROC_TEST_PYTHONS=DIR"
        )
    for interpreter in interpreters:
        for ours, theirs in zip(python(WALK, interpreter=interpreter)[1], walk[1], strict=True):
            assert ours[0] == theirs[0], f"state, {interpreter}"
            assert ours[1] == theirs[1], f"raw scores, {interpreter}"
            assert np.abs(np.array(ours[2]) - theirs[2]).max() < 1e-12


def test_numba_missing_altogether_is_no_error() -> None:
    code = """
sys.modules["numba"] = None
import json
from eventproc.htm import AnomalyModel, jit
model = AnomalyModel(columns=64, active_columns=4, cells=4, segments=50, learning=10)
print(json.dumps([jit.COMPILED, model.process_one(1.0).score]))
"""
    assert python(code) == [False, 0.0]


def test_importing_is_light() -> None:
    code = """
import json
import eventproc, eventproc.htm
print(json.dumps([name for name in ("numba", "numpy", "zstandard") if name in sys.modules and name == "numba"]))
"""
    assert python(code) == []


def test_all_public_names_are_there() -> None:
    for name in eventproc.htm.__all__:
        assert getattr(eventproc.htm, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = eventproc.htm.nothing


@pytest.mark.skipif(not jit.COMPILED, reason="numba is not installed")
def test_the_cache_of_a_read_only_installation_is_the_users_own(tmp_path: Path) -> None:
    directory = tmp_path / f"eventproc-numba-{os.getuid()}"
    code = f"""
import json, tempfile
tempfile.tempdir = {str(tmp_path)!r}
from eventproc.htm import places
print(json.dumps(str(places.own_directory())))
"""
    assert python(code) == str(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o777)
    assert python(code) == "None", "others could write machine code there"


@pytest.mark.skipif(not jit.COMPILED, reason="numba is not installed")
def test_where_nothing_else_can_be_written_the_cache_is_in_that_directory(tmp_path: Path) -> None:
    code = f"""
import json, tempfile
tempfile.tempdir = {str(tmp_path)!r}
from eventproc.htm import kernels
print(json.dumps(kernels.run.cache_path))
"""
    # As in a read-only installation whose user has no home.
    assert python(code, NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator").startswith(
        str(tmp_path / "eventproc-numba-")
    )


@pytest.mark.skipif(not jit.COMPILED, reason="numba is not installed")
def test_kernels_run_as_they_are_with_the_same_numbers_and_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = daily(260, seed=4)
    model = AnomalyModel(**SMALL)
    expected = model.process_many(values)
    plain = AnomalyModel(**SMALL)
    monkeypatch.setattr(jit.Entry, "interpreting", True)
    monkeypatch.setattr(kernels.run, "compiled", None)
    monkeypatch.setattr(kernels.wake, "compiled", None)
    first = plain.process_many(values[:130])
    again = AnomalyModel.load(plain.save())
    found = np.concatenate([first, again.process_many(values[130:])])
    assert np.nanmax(np.abs(found - expected)) < 1e-12
    assert np.array_equal(found[:, streams.RAW], expected[:, streams.RAW], equal_nan=True)
    assert again.save() == model.save()


@pytest.mark.slow
@pytest.mark.skipif(not jit.COMPILED, reason="numba is not installed")
def test_a_process_that_must_go_on_has_another_one_compile(tmp_path: Path) -> None:
    code = """
import json, time
from htm_world import SMALL, daily
from eventproc.htm import AnomalyModel, places, warm
model = AnomalyModel(**SMALL)
at_once, busy = warm.ready(), False
model.process_many(daily(40))
compiled_here = len(warm.kernels.run.compiled.signatures)
while not warm.ready():
    busy = busy or places.compiling()
    time.sleep(0.05)
model.process_many(daily(40, seed=2))
stats = warm.kernels.run.compiled.stats
print(json.dumps([at_once, busy, compiled_here, len(stats.cache_hits), len(stats.cache_misses)]))
"""
    cold = python(code, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_OPT="1", TMPDIR=str(tmp_path))
    assert cold == [False, True, 0, 1, 0], "compiled by the other process, loaded by this one"
    assert python(code, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_OPT="1", TMPDIR=str(tmp_path))[0] is True


def test_a_fork_goes_on_with_the_same_numbers() -> None:
    code = """
import json, os
from htm_world import SMALL, daily, digest
from eventproc.htm import AnomalyModel
model = AnomalyModel(**SMALL)
model.process_many(daily(150))
reader, writer = os.pipe()
child = os.fork()
model.process_many(daily(100, seed=2))
if child == 0:
    os.write(writer, digest(model).encode())
    os._exit(0)
os.waitpid(child, 0)
print(json.dumps([os.read(reader, 64).decode(), digest(model)]))
"""
    child, parent = python(code)
    assert child == parent


def test_copies_live_their_own_lives() -> None:
    model = AnomalyModel(**SMALL)
    model.process_many(daily(150), stamps(150))
    copy = model.copy()
    assert digest(copy) == digest(model)
    copy.learn_one(5.0)
    assert digest(copy) != digest(model)


def test_seeds_matter_and_nothing_else_does() -> None:
    one, two, other = (HTM(**SMALL, seed=seed) for seed in (1, 1, 2))
    for model in (one, two, other):
        model.process_many(daily(200), stamps(200))
    assert digest(one) == digest(two) != digest(other)


def test_many_models_at_once_give_what_each_gives_alone() -> None:
    series = [daily(200, seed=seed) for seed in range(6)]
    alone = [AnomalyModel(**SMALL).process_many(values, stamps(200)) for values in series]
    models = [AnomalyModel(**SMALL) for _ in series]
    together = process_models(models, [(values, stamps(200)) for values in series], threads=3)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other, equal_nan=True)
    with pytest.raises(ValueError, match="two batches at a time"):
        process_models([models[0]] * 2, [([1.0], None)] * 2, threads=2)


def test_models_of_the_same_parameters_share_their_pooler() -> None:
    one, two = AnomalyModel(), AnomalyModel()
    shared = one.live_bytes()
    assert np.shares_memory(one._state.mind.joined, two._state.mind.joined)
    assert shared < 1_000_000


def test_a_saved_state_is_small() -> None:
    model = AnomalyModel()
    model.process_many(daily(5000), stamps(5000))
    saved = model.save()
    model.process_many(daily(20, seed=3), stamps(20))
    assert len(saved) < 150_000
    assert len(model.save(base=saved)) < len(saved) / 4


def test_others_add_detectors_by_entry_point(tmp_path: Path) -> None:
    about = tmp_path / "acme-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[eventproc.detectors]\nacme = acme_detectors:Silent\n")
    (tmp_path / "acme_detectors.py").write_text("class Silent:\n    kind = 'acme'\n")
    code = f"""
sys.path.insert(0, {str(tmp_path)!r})
import json
from eventproc.htm import detector_names, find_detector
print(json.dumps([detector_names(), find_detector("acme").kind]))
"""
    names, kind = python(code)
    assert {"acme", "default", "gaussian", "htm", "htm.core", "numenta", "statistics"} <= set(names)
    assert kind == "acme"
    later = f"""
import json
from eventproc.htm import detector_names
before = detector_names()
sys.path.insert(0, {str(tmp_path)!r})
with_acme = detector_names()
sys.path.pop(0)
print(json.dumps(["acme" in before, "acme" in with_acme, "acme" in detector_names()]))
"""
    assert python(later) == [False, True, False], "looked for once for each state of the path"
    with pytest.raises(ValueError, match="no detector is named 'best'"):
        find_detector("best")


# What it finds.


def detections(values: Any, model: AnomalyModel | None = None) -> list[int]:
    scores = (model or AnomalyModel()).score_many(values, stamps(len(values)))
    return np.nonzero(scores > 0.6)[0].tolist()


def test_a_constant_metric_that_changes_level_is_flagged() -> None:
    values = np.full(1500, 7.0)
    values[1200:] = 7.5
    assert detections(values)[0] == 1200


def test_missing_spikes_are_flagged() -> None:
    """A spike every 20 records stays away."""
    values = np.random.default_rng(1).normal(10, 0.2, 3000)
    values[::20] = 50.0
    quiet = values.copy()
    quiet[2000:2200] = np.random.default_rng(2).normal(10, 0.2, 200)
    assert [i for i in detections(values) if i >= 2000] == []
    assert [i for i in detections(quiet) if 2000 <= i < 2100] != []


def test_a_level_shift_inside_the_known_range_is_flagged() -> None:
    values = daily(3000)
    values[2400:2500] = 9.0 + np.random.default_rng(4).normal(0, 0.5, 100)
    assert [i for i in detections(values) if 2400 <= i < 2500] != []


def test_a_constant_metric_that_only_flickers_is_flagged_by_the_statistics_alone() -> None:
    values = np.full(1500, -3.0)
    values[1100] = -2.999
    assert detections(values, Statistics())[0] == 1100


@pytest.mark.parametrize("kind", [AnomalyModel, Statistics])
def test_one_missing_heartbeat_in_a_regular_series_is_flagged(kind: Any) -> None:
    """A burst every 50 records; one of them does not come."""
    values = np.tile(np.concatenate([np.full(45, 1.0), np.full(5, 30.0)]), 50)
    values += np.random.default_rng(3).normal(0, 0.1, values.size)
    quiet = values.copy()
    quiet[2245:2250] = quiet[2195:2200] - 29.0
    assert [i for i in detections(values, kind()) if i >= 2000] == []
    assert [i for i in detections(quiet, kind()) if 2245 <= i < 2300] != []


def test_a_day_of_the_week_counts_as_soon_as_it_is_known() -> None:
    """Mondays are loud: what is usual then is 40 too much on a Tuesday."""
    season = np.zeros((2, 216))
    found = {}
    for week in range(8):
        for day in range(7):
            found[week, day] = unseasonal(season, 50.0 if day == 0 else 10.0, 12, day)
    assert abs(found[7, 0]) < 20.0 < found[1, 0]
    assert unseasonal(season, 50.0, 12, 1) > 30.0


def test_a_calm_series_is_left_in_peace() -> None:
    assert len(detections(daily(4000))) <= 2


def test_an_anomaly_that_goes_on_is_reported_once() -> None:
    values = daily(2000)
    values[1500:1530] += 60.0
    found = [i for i in detections(values) if 1500 <= i < 1530]
    assert found
    assert len(found) <= 4
    model = AnomalyModel()
    strengths = model.process_many(values, stamps(2000))[1500:1520, 1]
    assert (strengths > 0.5).sum() > len(found), "the strength goes on"


def test_the_explanation_names_cause_and_numbers() -> None:
    model = AnomalyModel()
    model.process_many(daily(1500), stamps(1500))
    reading = model.process_one(80.0, 1_700_000_000.0 + 1500 * 900)
    assert reading.cause in {"value", "season"}
    assert reading.score > 0.8
    assert set(reading.parts) == {"value", "season", "variation", "level", "shape", "sequence"}
    assert reading.actual == 80.0
    assert "80" in reading.explain()
    assert Statistics().process_one(1.0).explain() == "Still learning; nothing unusual."
    assert model.process_one(None).explain() == "No value."


# Settings.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"columns": 4096}, "columns \\* cells must be 1 to 65536"),
        ({"minimum": 1.0}, "give minimum and maximum both, or neither"),
        ({"minimum": 2.0, "maximum": 1.0}, "must not be above maximum"),
        ({"collums": 3}, "no such parameter: collums; did you mean columns?"),
        ({"active_columns": 5000}, "active_columns=5000"),
        ({"timezone": "Mars/Olympus"}, "no time zone is named 'Mars/Olympus'"),
        ({"parameters": "best"}, "no parameter set named 'best'; there are default"),
    ],
)
def test_what_can_not_be_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AnomalyModel(**changes)


def test_parameters_survive_json() -> None:
    stored = json.loads(json.dumps(Parameters(buckets=(80, 130), seed=4).to_json()))
    assert Parameters.from_json(stored) == Parameters(buckets=(80, 130), seed=4)


def test_hours_are_those_of_the_time_zone_also_across_its_changes() -> None:
    """Berlin, 2024-03-31: after 01:00 UTC summer time begins."""
    utc = np.array(["2024-03-31T00:30", "2024-03-31T01:30", "2024-03-31T22:30"], "datetime64[s]")
    found = rows([1.0, 2.0, 3.0], utc, ZoneInfo("Europe/Berlin"))
    assert found[:, 1].tolist() == [1.5, 3.5, 0.5]
    assert found[:, 2].tolist() == [6.0, 6.0, 0.0]
    assert rows([1.0], utc[:1], zone_named("UTC"))[0].tolist() == [1.0, 0.5, 6.0]


def test_as_many_times_as_values() -> None:
    with pytest.raises(ValueError, match="there are 2 values and 3 times"):
        AnomalyModel(**SMALL).score_many([1.0, 2.0], stamps(3))
