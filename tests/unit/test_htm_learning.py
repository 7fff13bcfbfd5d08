"""What the papers claim of the memory and the pooler holds for ours."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from htm_world import daily, stamps
from numpy.typing import NDArray

from eventproc.htm import AnomalyModel
from eventproc.htm.encoders import RandomScalar
from eventproc.htm.pooler import make
from eventproc.htm.sensing import pool_learn, pooled

# Letters are values so far apart that they share bits by chance only.
ALPHABET: dict[str, Any] = {"minimum": 0.0, "maximum": 26.0, "buckets": (26 * 40,), "learning": 0}


def memory(**changes: Any) -> AnomalyModel:
    """A model that is nothing but a temporal memory."""
    return AnomalyModel(**{**ALPHABET, "streams": False, **changes})


NOISE = iter(np.random.default_rng(9).uniform(100, 10_000, 100_000).tolist())


def raws(model: AnomalyModel, letters: str) -> list[float]:
    """Show a sequence after something that never repeats, so that each begins anew."""
    for _ in range(2):
        model.learn_one(next(NOISE))
    return [model.process_one(float(ord(letter) - ord("A"))).raw for letter in letters]


def test_a_repeated_sequence_goes_from_surprise_to_none() -> None:
    model = memory()
    assert raws(model, "ABCDEFGH") == [1.0] * 8
    for _ in range(20):
        raws(model, "ABCDEFGH")
    assert raws(model, "ABCDEFGH") == [1.0] + [0.0] * 7, "nobody can predict its beginning"


def test_what_was_never_seen_is_a_surprise_after_all_that() -> None:
    model = memory()
    for _ in range(20):
        raws(model, "ABCDEFGH")
    assert raws(model, "ABCZ")[-1] == 1.0
    assert raws(model, "ABCDFG")[-2] > 0.8, "a known letter in the wrong place"


def test_high_order_contexts_are_kept_apart() -> None:
    """ABCD and XBCY: after BC it depends on what came before them."""
    model = memory()
    rng = np.random.default_rng(3)
    for _ in range(60):
        raws(model, "ABCD" if rng.random() < 0.5 else "XBCY")
    assert raws(model, "ABCD")[1:] == [0.0] * 3
    assert raws(model, "XBCY")[1:] == [0.0] * 3
    assert raws(model, "ABCY")[3] > 0.8
    assert raws(model, "XBCD")[3] > 0.8


def test_predictions_survive_noise_in_the_values() -> None:
    """Values a bucket or two off share most of their columns."""
    model = memory(buckets=(130,))
    rng = np.random.default_rng(1)
    for _ in range(60):
        for letter in range(0, 24, 3):
            model.learn_one(letter + rng.normal(0, 0.1))
    last = [model.process_one(letter + rng.normal(0, 0.1)).raw for letter in range(0, 24, 3)]
    assert np.mean(last) < 0.35


def test_a_wrong_element_does_not_lose_the_sequence() -> None:
    """After a surprise the memory is back in its sequence at the next element but one (a burst predicts it)."""
    model = memory()
    for _ in range(30):
        raws(model, "ABCDEFGH")
    wrong = raws(model, "ABCZEFGH")
    assert wrong[3:5] == [1.0, 1.0]
    assert max(wrong[5:]) < 0.2


def test_room_decides_how_many_sequences_are_known() -> None:
    rng = np.random.default_rng(2)
    sequences = ["".join(chr(65 + int(i)) for i in rng.permutation(26)[:6]) for _ in range(12)]
    known = {}
    for segments in (150, 8192):
        model = memory(segments=segments)
        for _ in range(12):
            for sequence in sequences:
                raws(model, sequence)
        known[segments] = np.mean([raws(model, sequence)[1:] for sequence in sequences])
    assert known[8192] < 0.1
    assert known[150] > 0.5


def test_half_of_the_cells_may_fall_silent() -> None:
    """Distributed codes: segments that see more cells than they need still fire when some are lost."""
    model = memory(activate=8, match=6)
    for _ in range(30):
        raws(model, "ABCDEFGH")
    raws(model, "ABC")
    mind = model._state.mind
    on = np.nonzero(mind.active[0])[0]
    mind.active[0, on[::3]] = 0  # a third of the active cells
    saved = AnomalyModel.load(model.save())  # counts segments anew
    assert saved.process_one(3.0).raw < 0.2


def test_the_expected_value_is_named() -> None:
    model = AnomalyModel(**{**ALPHABET, "learning": 50})
    for letter in "ABCDEFGH" * 40 + "ABCD":
        model.learn_one(float(ord(letter) - ord("A")))
    reading = model.process_one(500.0)
    assert reading.cause == "value"
    assert reading.expected == pytest.approx(4.0, abs=0.1)
    assert "500" in reading.explain()
    assert f"{reading.expected:g} was expected" in reading.explain()


def test_a_change_is_learnt_and_the_old_forgotten_when_room_is_short() -> None:
    model = memory(segments=500)
    for _ in range(10):
        raws(model, "ABCDEFGH")
    for _ in range(40):
        raws(model, "IJKLMNOP")
    assert np.mean(raws(model, "IJKLMNOP")[1:]) < 0.2
    assert np.mean(raws(model, "ABCDEFGH")[1:]) > 0.8, "the least recently used segments gave way"


def test_with_enough_room_the_old_is_still_known() -> None:
    model = memory(segments=8192)
    for _ in range(10):
        raws(model, "ABCDEFGH")
    for _ in range(40):
        raws(model, "IJKLMNOP")
    assert np.mean(raws(model, "ABCDEFGH")[1:]) < 0.2


def test_the_number_of_segments_is_bounded_and_so_is_the_state() -> None:
    model = AnomalyModel(segments=200, learning=50, streams=False)
    model.process_many(np.random.default_rng(1).normal(0, 1, 2000))
    assert model.arrays()["owner"].shape == (1, 200)
    assert model.arrays()["size"].max() <= model.parameters.synapses


def test_a_model_does_not_grow_with_age() -> None:
    model = AnomalyModel()
    values = daily(6000)
    model.process_many(values[:3000], stamps(3000))
    live = model.live_bytes()
    model.process_many(values[3000:], stamps(6000)[3000:])
    assert model.live_bytes() == live < 2_000_000


# The pooler.


def columns(x: float, made: Any, encoder: RandomScalar, active: int = 20) -> NDArray[np.int64]:
    return pooled(encoder.encode(x), made.joined, made.order, active)


@pytest.fixture
def pooler() -> Any:
    return make(400, 1024, potential=0.8, connected=2000, seed=5)


def test_the_pooler_keeps_a_fixed_sparsity(pooler: Any) -> None:
    encoder = RandomScalar(resolution=1.0)
    for x in (-1e9, -3.0, 0.0, 0.4, 77.0, 1e12):
        found = columns(x, pooler, encoder)
        assert len(found) == len(set(found.tolist())) == 20


def test_the_pooler_keeps_overlap(pooler: Any) -> None:
    """The nearer two values, the more columns they share; far ones share next to none."""
    encoder = RandomScalar(resolution=1.0)
    shared = [
        np.mean(
            [np.isin(columns(x, pooler, encoder), columns(x + off, pooler, encoder)).mean() for x in range(0, 200, 10)]
        )
        for off in (0, 1, 3, 10, 100)
    ]
    assert shared[0] == 1.0
    assert shared == sorted(shared, reverse=True)
    assert shared[1] > 0.6
    assert shared[4] < 0.15


def test_the_pooler_is_the_same_every_time_and_another_with_another_seed(pooler: Any) -> None:
    again = make(400, 1024, potential=0.8, connected=2000, seed=5)
    other = make(400, 1024, potential=0.8, connected=2000, seed=6)
    assert (again.joined == pooler.joined).all()
    assert (other.joined != pooler.joined).any()


def test_half_of_the_potential_synapses_begin_connected(pooler: Any) -> None:
    assert (pooler.permanence >= 0).mean() == pytest.approx(0.8, abs=0.01)
    assert pooler.joined.mean() == pytest.approx(0.4, abs=0.01)


def test_learning_keeps_overlap_and_comes_to_rest() -> None:
    """Cui, Ahmad & Hawkins 2017: with repeated inputs columns settle; what was apart stays so, and what was near."""
    encoder, made = RandomScalar(resolution=1.0), make(400, 512, potential=0.8, connected=2000, seed=3)
    gains = np.array([30, 5, 2000])

    def epoch() -> list[set[int]]:
        found = []
        for x in range(0, 200, 5):
            bits = encoder.encode(float(x))
            chosen = pooled(bits, made.joined, made.order, 20)
            pool_learn(bits, made.joined, made.permanence, chosen, gains)
            found.append(set(chosen.tolist()))
        return found

    def kept(one: list[set[int]], other: list[set[int]]) -> float:
        return float(np.mean([len(a & b) / 20 for a, b in zip(one, other, strict=True)]))

    epochs = [epoch() for _ in range(40)]
    assert kept(epochs[-2], epochs[-1]) > 0.95
    assert kept(epochs[-2], epochs[-1]) > kept(epochs[0], epochs[1])
    near = [len(a & b) / 20 for a, b in pairwise(epochs[-1])]
    far = [len(a & b) / 20 for a, b in zip(epochs[-1], epochs[-1][20:], strict=False)]
    assert np.mean(near) > np.mean(far) + 0.2
    assert np.mean(far) < 0.2


def test_a_learning_pooler_becomes_stable() -> None:
    """The same inputs again and again: permanences settle, and so do the columns."""
    model = memory(pooler_learns=True)
    for _ in range(60):
        raws(model, "ABCDEFGH")
    assert raws(model, "ABCDEFGH")[1:] == [0.0] * 7
