"""The soak of benchmarks/metrics_soak.py in a small size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.mark.slow
def test_every_sample_is_accounted_for_and_scored_once_through_kills(tmp_path):
    from metrics_soak import soak

    assert soak(tmp_path, metrics=30, steps=40, kills=5) == []
