"""The benchmark's scoring is NAB's: checked against a plain reading of the published rules."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PATH = Path(__file__).parents[2] / "benchmarks" / "htm_nabscore.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("htm_nabscore", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


nab = load()


def series(count: int, windows: list[tuple[int, int]], name: str = "a/b.csv") -> Any:
    return nab.Series(name=name, stamps=[""] * count, seconds=np.zeros(count), values=np.zeros(count), windows=windows)


def sigmoid(x: float) -> float:
    return -1.0 if x > 3.0 else 2.0 / (1.0 + math.exp(5.0 * x)) - 1.0


def plainly(one: Any, scores: list[float], threshold: float, profile: str) -> float:
    """Follow the published rules row by row."""
    tp, fp, fn = nab.PROFILES[profile]
    total, found = 0.0, set()
    for row, score in enumerate(scores):
        if row < one.probation or score < threshold:
            continue
        inside = [number for number, (first, last) in enumerate(one.windows) if first <= row <= last]
        if inside:
            if inside[0] not in found:
                first, last = one.windows[inside[0]]
                total += tp * sigmoid(-(last - row + 1) / (last - first + 1)) / sigmoid(-1.0)
                found.add(inside[0])
            continue
        before = [window for window in one.windows if window[1] < row]
        if before:
            first, last = before[-1]
            total += fp * sigmoid((row - last) / max(last - first, 1))
        else:
            total -= fp
    return total - fn * (len(one.windows) - len(found))


@settings(max_examples=60)
@given(
    scores=st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.7, 0.9]), min_size=60, max_size=60),
    starts=st.lists(st.integers(0, 5), max_size=3, unique=True),
    profile=st.sampled_from(sorted(nab.PROFILES)),
    threshold=st.sampled_from([0.1, 0.5, 0.6, 0.9, 1.0]),
)
def test_any_scores_count_as_the_rules_say(
    scores: list[float], starts: list[int], profile: str, threshold: float
) -> None:
    one = series(60, [(start * 10 + 2, start * 10 + 7) for start in sorted(starts)])
    steps = nab.steps(one, np.array(scores))
    want = plainly(one, scores, threshold, profile)
    assert nab.raw_score(steps, profile, threshold) == pytest.approx(want, abs=1e-9)
    assert nab.at([steps], profile, threshold) <= nab.sweep([steps], profile)[0] + 1e-9


def test_a_perfect_detector_gets_100_and_a_silent_one_0() -> None:
    one = series(1000, [(400, 449), (700, 719)])
    perfect = np.zeros(1000)
    perfect[[400, 700]] = 1.0
    for profile in nab.PROFILES:
        assert nab.sweep([nab.steps(one, perfect)], profile) == (pytest.approx(100.0), 1.0)
        assert nab.sweep([nab.steps(one, np.zeros(1000))], profile)[0] >= 0.0


def test_earlier_is_better_and_probation_does_not_count() -> None:
    one = series(1000, [(400, 449)])

    def scored(row: int) -> float:
        scores = np.zeros(1000)
        scores[row] = 1.0
        return float(nab.sweep([nab.steps(one, scores)], "standard")[0])

    assert scored(401) > scored(430) > scored(449) > 49.0
    early = np.zeros(1000)
    early[:150] = 1.0
    early[400] = 0.9
    assert nab.counts(nab.steps(one, early), 0.9) == (1, 0)


def test_a_corpus_is_read_with_its_windows(tmp_path: Path) -> None:
    (tmp_path / "data" / "some").mkdir(parents=True)
    rows = [f"2024-01-01 00:{minute:02}:00,{minute}.5" for minute in range(30)]
    (tmp_path / "data/some/metric.csv").write_text("timestamp,value\n" + "\n".join(rows) + "\n")
    windows = {"some/metric.csv": [["2024-01-01 00:10:00.000000", "2024-01-01 00:14:00.000000"]], "gone/away.csv": []}
    (tmp_path / "windows.json").write_text(json.dumps(windows))
    (one,) = nab.load(tmp_path)
    assert one.windows == [(10, 14)]
    assert one.values[3] == 3.5
    assert one.probation == 4
    assert one.labels.sum() == 5
    with pytest.raises(SystemExit, match=r"neither windows\.json nor"):
        nab.load(tmp_path / "data")


def test_a_corpus_is_halved_in_many_ways_each_directory_evenly() -> None:
    names = [f"{group}/{i}.csv" for group, count in (("a", 6), ("b", 3)) for i in range(count)]
    ways = nab.splits(names, 50)
    assert {int(way[:6].sum()) for way in ways} == {3}
    assert {int(way[6:].sum()) for way in ways} == {1, 2}
    assert len({way.tobytes() for way in ways}) > 20
    assert all((one == other).all() for one, other in zip(ways, nab.splits(names, 50), strict=True))


def test_crossed_scores_use_the_other_halfs_threshold() -> None:
    """Where the halves agree on it, nothing is lost; where a half alone would choose another, something is."""
    quiet, loud = (series(200, [(120, 139)]) for _ in range(2))
    scores = np.zeros(200)
    scores[125] = 0.9
    alike = [nab.steps(quiet, scores), nab.steps(loud, scores)]
    first = np.array([True, False])
    assert nab.crossed(alike, first, "standard") == pytest.approx(nab.sweep(alike, "standard")[0])
    other = [alike[0], nab.steps(loud, scores / 2)]
    assert nab.crossed(other, first, "standard") < nab.sweep(other, "standard")[0]
