"""
A detector of one's own: how far a value is from the running mean, in standard deviations.

    eventproc detectors push examples/own_detector.py --name zscore
    eventproc models monitor web.requests --detector user:zscore

It runs in the sandbox; its attributes are its state, and outlive everything that can be killed.
"""

from __future__ import annotations

import math


class ZScore:
    """Scores a value by its distance from the running mean; `wide` standard deviations are a score of 1."""

    def __init__(self, wide: float = 6.0, memory: float = 0.01) -> None:
        self.wide = wide
        self.memory = memory
        self.seen = 0
        self.mean = 0.0
        self.variance = 0.0

    def score_one(self, x: float) -> float:
        if self.seen < 20 or self.variance == 0.0:
            return 0.0
        return min(1.0, abs(x - self.mean) / math.sqrt(self.variance) / self.wide)

    def learn_one(self, x: float) -> None:
        self.seen += 1
        share = max(self.memory, 1 / self.seen)
        off = x - self.mean
        self.mean += share * off
        self.variance = (1 - share) * (self.variance + share * off * off)
