"""How scores look to people: the likelihood scale, and the value by which series are ranked and coloured."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

RED_LIKELIHOOD: Final = 0.99999
RED_SCORE: Final = 0.67  # where the default detector's score is best cut on labelled data (docs/htm.rst)
_DECADES: Final = -math.log10(1.0 - RED_LIKELIHOOD) / RED_SCORE  # of 1 - likelihood, per unit of score

YELLOW, RED = 0.40, 0.50  # on the logarithmic scale
_GREEN_BASE, _YELLOW_BASE, _RED_BASE = 1e3, 1e6, 1e9
_INACTIVE: Final = 1e-9


def likelihood_of(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    Put a detector's scores (0 to 1) on the scale of anomaly likelihoods, where 0.99999 is an alarm.

    Monotonous, so that nothing changes in what is found; 0 stays 0 and the score that alarms are best cut at becomes
    0.99999. Thresholds, colours and sensitivities then mean the same for every detector.
    """
    likelihood: NDArray[np.float64] = 1.0 - 10.0 ** (-_DECADES * np.asarray(scores, np.float64))
    return likelihood


def log_scale(anomaly: float) -> float:
    """Spread the interesting end of the likelihoods: 0.9 is 0.1, 0.99 is 0.2, and so on."""
    size = abs(anomaly)
    if size > RED_LIKELIHOOD:
        return 1.0
    return math.log(1.0000000001 - size) / math.log(1.0 - 0.9999999999)


def rescale(anomaly: float, *, active: bool = True) -> float:
    """
    Give the display value of an anomaly likelihood (htmengine's `rescaleForDisplay`).

    0 stays 0; else the logarithmic scale plus 1e9 (red, above 0.99999), 1e6 (yellow, from 0.9999) or 1e3 (green), so
    that a sum over a time window ranks series by their worst colour first. Inactive metrics rank below all others.
    """
    if anomaly == 0:
        return 0.0
    level = log_scale(anomaly)
    base = _RED_BASE if level >= RED else _YELLOW_BASE if level >= YELLOW else _GREEN_BASE
    value = base + level
    return value if active else value * _INACTIVE
