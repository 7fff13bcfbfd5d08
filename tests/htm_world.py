"""Small detectors and series for the tests of eventproc.htm."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventproc.htm import AnomalyModel

SMALL: dict[str, Any] = {
    "columns": 256,
    "active_columns": 10,
    "cells": 8,
    "segments": 256,
    "synapses": 16,
    "activate": 6,
    "match": 4,
    "grow": 10,
    "learning": 100,
    "shape_lags": 200,
}


def daily(count: int, *, seed: int = 1, noise: float = 0.5) -> NDArray[np.float64]:
    """A daily wave at one sample per quarter of an hour, with noise."""
    wave: NDArray[np.float64] = np.sin(np.arange(count) / 96 * 2 * np.pi) * 10
    return wave + np.random.default_rng(seed).normal(0, noise, count)


def stamps(count: int) -> NDArray[np.float64]:
    return 1_700_000_000.0 + np.arange(count) * 900.0


def digest(model: AnomalyModel) -> str:
    """All that a model has learnt, as one word."""
    found = hashlib.sha256()
    for name, array in sorted(model.arrays().items()):
        found.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
