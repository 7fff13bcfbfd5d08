"""The benchmark benchmarks/models_memory.py in a small size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.mark.slow
def test_loading_and_throwing_out_models_takes_no_more_memory_as_it_goes_on(tmp_path):
    from models_memory import soak

    found = soak(tmp_path, models=60, fit=8, rounds=30, history=300)
    assert found.loaded < 12, "most of the models are not in memory"
    assert found.growth < 8.0, found.sizes  # a model takes 0.4 MB: 900 were loaded in the second half
