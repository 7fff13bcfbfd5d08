"""Encoders: similar things share bits, different ones do not."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.htm.encoders import (
    AdaptiveScalar,
    Bits,
    Category,
    DayOfWeek,
    Delta,
    RandomScalar,
    TimeOfDay,
    Together,
    Weekend,
)


def shared(one: Bits, other: Bits) -> float:
    return float(np.isin(one, other).mean())


@given(
    x=st.floats(-1e12, 1e12),
    resolution=st.floats(1e-9, 1e9),
    size=st.integers(1, 2000),
    on=st.integers(1, 60),
    seed=st.integers(0, 2**62),
)
def test_the_scalar_encoder_refuses_no_setting(x: float, resolution: float, size: int, on: int, seed: int) -> None:
    found = RandomScalar(resolution=resolution, size=size, on=on, seed=seed).encode(x)
    assert 1 <= len(found) <= on
    assert found.min() >= 0
    assert found.max() < size
    assert found.tolist() == sorted(set(found.tolist()))


@pytest.mark.parametrize("seed", range(20))
def test_overlap_falls_with_distance(seed: int) -> None:
    encoder = RandomScalar(resolution=0.5, seed=seed)
    overlaps = [shared(encoder.encode(10.0), encoder.encode(10.0 + off * 0.5)) for off in (0, 1, 5, 15, 60)]
    assert overlaps[0] == 1.0
    assert overlaps[1] >= 0.9
    assert overlaps[1] > overlaps[2] > overlaps[3] > overlaps[4]
    assert overlaps[4] < 0.25


def test_a_resolution_of_nothing_is_refused() -> None:
    for resolution in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="resolution must be a positive number"):
            RandomScalar(resolution=resolution)


def test_a_range_known_or_estimated_is_divided() -> None:
    known = RandomScalar.over(10.0, 140.0)
    assert (known.bucket(10.0), known.bucket(140.0)) == (0, 130)
    assert RandomScalar.over(5.0, 5.0).resolution == pytest.approx(1 / 130)
    estimated = RandomScalar.estimated([0.0, 100.0], buckets=140)
    assert (estimated.origin, estimated.resolution) == (-20.0, 1.0)


def test_the_adaptive_encoder_follows_the_range() -> None:
    encoder = AdaptiveScalar()
    for x in (5.0, 5.0, 6.0):
        encoder.encode(x)
    fine = shared(encoder.encode(5.0), encoder.encode(5.5))
    for x in (1000.0, -1000.0):
        encoder.encode(x)
    coarse = shared(encoder.encode(5.0), encoder.encode(5.5))
    assert fine < 0.3
    assert coarse >= 0.9
    assert shared(encoder.encode(-900.0), encoder.encode(900.0)) < 0.3


def test_words_share_bits_by_chance_only() -> None:
    encoder = Category()
    words = ["on", "off", "failed", "Störung", ""]
    for word in words:
        assert len(encoder.encode(word)) == 21
        assert (encoder.encode(word) == encoder.encode(word)).all()
        assert all(shared(encoder.encode(word), encoder.encode(other)) < 0.4 for other in words if other != word)
    with pytest.raises(ValueError, match="on must be 1 to size"):
        Category(size=10, on=11)


def test_differences_are_what_a_delta_encoder_sees() -> None:
    encoder = Delta(resolution=0.1)
    assert (encoder.encode((5.0, 6.0)) == encoder.encode((105.0, 106.0))).all()
    assert shared(encoder.encode((5.0, 6.0)), encoder.encode((6.0, 5.0))) < 0.4


def test_midnight_is_near_to_itself() -> None:
    encoder = TimeOfDay()
    late, early, noon = (
        datetime(2024, 5, 1, hour, minute, tzinfo=UTC) for hour, minute in ((23, 50), (0, 10), (12, 0))
    )
    assert shared(encoder.encode(late), encoder.encode(early)) > 0.9
    assert shared(encoder.encode(late), encoder.encode(noon)) < 0.3


def test_days_and_weekends_are_those_of_the_zone() -> None:
    """Friday 23:30 UTC is Saturday in Berlin."""
    friday = datetime(2024, 5, 3, 23, 30, tzinfo=UTC)
    berlin = ZoneInfo("Europe/Berlin")
    assert DayOfWeek().encode(friday).tolist() == list(range(28, 35))
    assert DayOfWeek(zone=berlin).encode(friday).tolist() == list(range(35, 42))
    assert Weekend().encode(friday)[0] == 0
    assert Weekend(zone=berlin).encode(friday)[0] == 21


def test_value_and_time_stand_side_by_side() -> None:
    encoder = Together((RandomScalar(resolution=1.0), TimeOfDay()))
    found = encoder.encode((3.0, datetime(2024, 5, 1, tzinfo=UTC)))
    assert encoder.size == 453
    assert (found >= 400).sum() == 21
    assert (np.diff(found) > 0).all()
