"""The historical likelihoods give the numbers that the originals gave."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eventproc.htm.likelihood import (
    MODES,
    NULL,
    AnomalyLikelihood,
    Distribution,
    EngineLikelihood,
    estimate,
    filtered,
    log_likelihood,
    moving_averages,
    tail,
)

STANDARD = Distribution(mean=0.0, variance=1.0)
VERSIONS = {"v1": "table", "v2": "one_sided", "v3": "two_sided"}
BATCHES = {"online": [1], "batch200": [200], "onebig": [1200], "mixed": [288, 1, 1, 50, 100]}


def records() -> tuple[list[float], list[float]]:
    """The generator that the golden values were made with."""
    raw, values = [], []
    for i in range(1, 1201):
        x = (i * 2654435761) % 2**32
        score = ((x >> 20) % 5) / 40 if (x >> 8) % 3 == 0 else 0.0
        if i <= 150:
            score = ((x >> 16) % 41) / 40
        elif 600 <= i <= 612 or i == 900:
            score = 1.0
        raw.append(score)
        values.append(50 + 20 * ((i % 48) / 48) + ((i * 37) % 11) / 10)
    return raw, values


def batches(sizes: list[int], total: int = 1200) -> Iterator[slice]:
    start, turn = 0, 0
    while start < total:
        end = min(total, start + sizes[turn % len(sizes)])
        yield slice(start, end)
        start, turn = end, turn + 1


def engine_run(
    mode: str, sizes: list[int], *, batched: bool = True
) -> tuple[list[float], EngineLikelihood, list[list[int]]]:
    """Score the records in batches; also give, for each batch that led to a fit, its last record and the fit's."""
    raw, values = records()
    likelihood = EngineLikelihood(mode, batched=batched)
    scores: list[float] = []
    refreshes: list[list[int]] = []
    for part in batches(sizes):
        scores += likelihood.update(raw[part], values[part])
        if likelihood.fits:
            refreshes.append([likelihood.seen, likelihood.fits[-1].record])
    return scores, likelihood, refreshes


def engine_scores(mode: str, sizes: list[int], *, batched: bool = True) -> tuple[list[float], EngineLikelihood]:
    scores, likelihood, _ = engine_run(mode, sizes, batched=batched)
    return scores, likelihood


@pytest.mark.parametrize(
    ("x", "table", "one_sided", "two_sided"),
    [
        (0.3, 0.382088578, 0.3820874805429916, 0.3820874805429916),
        (1.0, 0.158655254, 0.1586529334099551, 0.1586529334099551),
        (-1.0, 0.841344746, 0.8413470665900449, 0.1586529334099551),
        (2.5, 0.006209665, 0.006209245091320783, 0.006209245091320783),
        (4.0, 3.1671e-05, 3.16661084256617e-05, 3.16661084256617e-05),
        (7.0, 1.305e-12, 1.2791994653432802e-12, 1.2791994653432802e-12),
        (7.1, 0.0, 6.234771935120108e-13, 6.234771935120108e-13),
        (1e300, 0.0, 0.0, 0.0),
    ],
)
def test_tails_of_the_three_generations(x: float, table: float, one_sided: float, two_sided: float) -> None:
    found = [tail(x, STANDARD, mode) for mode in MODES]
    assert found == pytest.approx([table, one_sided, two_sided], rel=1e-12, abs=1e-18)


def test_the_null_distribution_finds_everything_about_as_likely() -> None:
    assert [tail(0.0, NULL, mode) for mode in MODES] == pytest.approx(
        [0.5, 0.5001994730448449, 0.4998005269551551], abs=1e-12
    )


ENGINE = {
    ("table", "online"): {
        100: 0,
        101: 0.5,
        300: 0.184060125,
        600: 0.999999502,
        601: 0.999,
        620: 0.999985966,
        1200: 0.382088578,
    },
    ("table", "batch200"): {389: 0.274253118, 620: 0.815939875, 900: 0.758036348},
    ("table", "onebig"): {300: 0.5, 620: 0.841344746, 901: 0.725746882},
    ("one_sided", "online"): {101: 0.4999621, 300: 0.193235838, 700: 0.42340825, 1200: 0.389143518},
    ("two_sided", "online"): {101: 0.5000379, 389: 0.718150439, 620: 0.999987335, 1200: 0.610856482},
    ("two_sided", "batch200"): {620: 0.825869972, 1200: 0.611974546},
    ("two_sided", "mixed"): {620: 0.830564233, 900: 0.755427166, 1200: 0.610573479},
}
SUMS = {
    ("table", "online"): 443.581771174,
    ("table", "batch200"): 444.124728031,
    ("table", "onebig"): 454.805690356,
    ("one_sided", "online"): 444.469420219,
    ("two_sided", "online"): 689.491838568,
    ("two_sided", "batch200"): 688.006016675,
    ("two_sided", "mixed"): 687.993149494,
}


@pytest.mark.parametrize(("mode", "way"), sorted(ENGINE))
def test_the_engines_scores_depend_on_batches_as_they_did(mode: str, way: str) -> None:
    scores, _ = engine_scores(mode, BATCHES[way])
    assert sum(scores) == pytest.approx(SUMS[mode, way], abs=1e-8)
    for row, want in ENGINE[mode, way].items():
        assert scores[row - 1] == pytest.approx(want, abs=6e-8), row


@pytest.mark.parametrize("way", sorted(BATCHES))
def test_unless_asked_for_batches_do_not_matter(way: str) -> None:
    assert engine_scores("two_sided", BATCHES[way], batched=False)[0] == engine_scores("two_sided", [1])[0]


def test_every_golden_number_of_every_mode_and_batching() -> None:
    data = os.environ.get("EVENTPROC_TEST_DATA")
    path = Path(data or ".") / "golden_likelihood.json"
    if not path.exists():
        pytest.skip("golden_likelihood.json is not at hand (EVENTPROC_TEST_DATA); the numbers above are from it")
    golden: dict[str, Any] = json.loads(path.read_text())
    assert (golden["raw"], golden["value"]) == records()
    for key, want in golden["expect"].items():
        version, way = key.split("/")
        scores, likelihood, refreshes = engine_run(VERSIONS[version], BATCHES[way])
        assert np.abs(np.array(scores) - want["scores"]).max() < 1e-12, key
        assert refreshes == want["refresh"], key
        known = likelihood.distribution
        assert known is not None
        assert known.mean == pytest.approx(want["dist"]["mean"], abs=1e-12)
        assert known.variance == pytest.approx(want["dist"]["variance"], abs=1e-12)


@pytest.mark.parametrize(
    ("mode", "total", "some"),
    [
        ("two_sided", 724.470329119, {388: 0.5, 389: 0.718150439, 600: 0.999999539, 601: 0.999, 1200: 0.612070985}),
        ("one_sided", 506.087276514, {389: 0.281849561, 1200: 0.387929015}),
        ("table", 505.888771785, {389: 0.274253118, 1200: 0.382088578}),
    ],
)
def test_the_streaming_class_gives_its_numbers(mode: str, total: float, some: dict[int, float]) -> None:
    likelihood = AnomalyLikelihood(mode)
    scores = [likelihood.update(score, value) for score, value in zip(*records(), strict=True)]
    assert sum(scores) == pytest.approx(total, abs=1e-8)
    for row, want in some.items():
        assert scores[row - 1] == pytest.approx(want, abs=1e-8), row


def test_the_streaming_class_with_a_window_that_slides() -> None:
    likelihood = AnomalyLikelihood(
        "two_sided", learning_period=100, estimation_samples=50, historic_window=400, reestimation_period=10
    )
    scores = [likelihood.update(score, value) for score, value in zip(*records(), strict=True)]
    assert sum(scores) == pytest.approx(805.024862506, abs=1e-8)
    assert scores[299] == pytest.approx(0.740292177, abs=1e-8)


def test_asking_the_streaming_class_changes_nothing_and_agrees() -> None:
    likelihood = AnomalyLikelihood(
        learning_period=20, estimation_samples=20, historic_window=100, reestimation_period=7
    )
    for score, value in list(zip(*records(), strict=True))[:300]:
        asked = likelihood.ask(score)
        likelihood.ask(0.9)
        assert likelihood.update(score, value) == asked


def test_its_state_goes_on_where_it_was_saved() -> None:
    def new() -> AnomalyLikelihood:
        return AnomalyLikelihood(learning_period=20, estimation_samples=20, historic_window=100, reestimation_period=7)

    one, two = new(), new()
    for i, (score, value) in enumerate(list(zip(*records(), strict=True))[:260]):
        if i % 13 == 0:
            arrays = {name: array.copy() for name, array in two.arrays().items()}
            two = new()
            two.fill(arrays)
        assert one.update(score, value) == two.update(score, value)


@pytest.mark.parametrize(
    ("seen", "window", "learning", "skipped"),
    [
        (5, 10, 10, 5),
        (10, 15, 10, 10),
        (10, 10, 0, 0),
        (10, 10, 10, 10),
        (14, 10, 10, 6),
        (20, 10, 10, 0),
        (25, 10, 10, 0),
    ],
)
def test_the_learning_period_leaves_the_history_as_it_slides(
    seen: int, window: int, learning: int, skipped: int
) -> None:
    likelihood = AnomalyLikelihood(learning_period=learning, estimation_samples=1, historic_window=window)
    for i in range(seen):
        likelihood.update(0.1, float(i))
    assert likelihood.skipped() == skipped


def test_a_flat_metric_has_the_null_distribution() -> None:
    flat = np.full(500, 42.0)
    assert estimate(np.full(500, 0.5), flat, 288) is NULL
    assert estimate(np.full(500, 0.5), flat + np.tile([0.00387, -0.00387], 250), 288) is NULL
    assert estimate(np.full(100, 0.5), np.arange(100.0), 100) is NULL


def test_of_a_run_of_reds_only_the_first_stays_red() -> None:
    found: list[float] = []
    raw: NDArray[np.float64] = np.array([0.0, 0.0, 0.3, 0.3, 0.5])
    for i, likelihood in enumerate(raw):
        found.append(filtered(float(likelihood), float(raw[i - 1]) if i else 1.0))
    assert found == pytest.approx([0.0, 0.001, 0.3, 0.3, 0.5])


def test_the_logarithmic_form() -> None:
    found = [log_likelihood(p) for p in (0.5, 0.9, 0.999, 0.99999, 1.0)]
    assert found == pytest.approx(
        [0.0301029996658834, 0.1000000003159074, 0.29999999673506555, 0.49999956750453395, 1.0]
    )


def test_moving_averages_ramp_up() -> None:
    assert moving_averages(np.arange(12.0)).tolist() == pytest.approx([i / 2 for i in range(10)] + [5.5, 6.5])


def test_settings_that_can_not_be_are_refused() -> None:
    with pytest.raises(ValueError, match="no likelihood is named 'best'; there are table, one_sided, two_sided"):
        AnomalyLikelihood("best")
    with pytest.raises(ValueError, match="historic_window"):
        AnomalyLikelihood(historic_window=10, estimation_samples=20)
