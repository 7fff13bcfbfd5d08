"""Scoring of a whole series with a detector of `eventproc.htm`."""

from __future__ import annotations

import heapq
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventproc.errors import InvalidInput
from eventproc.htm import AnomalyModel, Detector, Reading, find_detector, streams
from eventproc.scoring.own import Own, OwnReading

Array = NDArray[np.float64]

THRESHOLD = 0.67  # near the best on the Numenta Anomaly Benchmark for every seed; docs/htm.rst has the figures
PIECE = 512  # records between two steps of the progress bar
# The learning period as the Numenta Anomaly Benchmark has it, and the least that makes sense.
LEARNING_SHARE, MOST_LEARNING, LEAST_LEARNING = 0.15, 750, 50


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    How a series is scored.

    Without `minimum` and `maximum` the range of values is taken from the learning period, as a live model must.
    """

    detector: str = "default"
    minimum: float | None = None
    maximum: float | None = None
    learning: int | None = None  # records; None: 15 % of the series, at most 750
    timezone: str = "UTC"
    seed: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    own: Own | None = None  # instead of `detector`; it is given `changes`, and the range of values where there is one

    def learning_for(self, count: int) -> int:
        """Return the learning period for a series of `count` records."""
        if self.learning is not None:
            return self.learning
        if self.own is not None:
            return 0
        return max(LEAST_LEARNING, min(math.floor(LEARNING_SHARE * count), MOST_LEARNING))

    def asked(self) -> dict[str, Any]:
        """Return the parameters that somebody asked for by name."""
        asked: dict[str, Any] = dict(self.changes)
        if self.minimum is not None:
            asked |= {"minimum": self.minimum, "maximum": self.maximum}
        if self.seed is not None:
            asked["seed"] = self.seed
        return asked

    def make(self, count: int) -> Detector:
        """Make the detector. Raises InvalidInput for what it does not take."""
        if (self.minimum is None) != (self.maximum is None):
            raise InvalidInput("minimum and maximum must both be given, or neither")
        try:
            kind = find_detector(self.detector)
        except ValueError as error:
            raise InvalidInput(str(error)) from error
        usual = {"learning": self.learning_for(count), "timezone": self.timezone}
        asked = self.asked()
        taken = inspect.signature(kind).parameters.values()
        names = {one.name for one in taken}
        anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken)
        options = {name: value for name, value in usual.items() if anything or name in names} | asked
        try:
            return kind(**options)
        except (TypeError, ValueError, ImportError) as error:
            raise InvalidInput(f"detector {self.detector}: {error}", detector=self.detector) from error


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A scored series."""

    values: Array
    scores: Array  # 0 (usual) to 1
    raw_scores: Array  # share of active columns nobody predicted; where there is no memory (yet): the strength
    learning: int
    training: NDArray[np.bool_]
    reading: Callable[[int], Reading]

    def top(self, count: int) -> list[int]:
        """Return the rows with the highest scores above 0, the highest first, the earlier first among equals."""
        rows = np.flatnonzero(self.scores > 0).tolist()
        return heapq.nsmallest(count, rows, key=lambda row: (-self.scores[row], row))

    def above(self, threshold: float) -> list[int]:
        """Return the rows whose score is the threshold or more."""
        return np.flatnonzero(self.scores >= threshold).tolist() if threshold > 0 else list(range(self.scores.size))


def score(
    seconds: Array, values: Array, plan: Plan, *, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Scored:
    """
    Score a series record by record, in its order; each score is given before its record is learnt.

    Args:
        seconds: Times, seconds since 1970 UTC.
        values: As many values.
        plan: Detector and options.
        progress: Called with the number of records done, and of all.

    """
    if plan.own is not None:
        return _by_own(plan.own, seconds, values, plan, progress)
    detector = plan.make(values.size)
    progress(0, values.size)
    if isinstance(detector, AnomalyModel):
        return _by_table(detector, seconds, values, plan, progress)
    readings: list[Reading] = []
    for number, (value, time) in enumerate(zip(values.tolist(), seconds.tolist(), strict=True), 1):
        readings.append(detector.process_one(value, time))
        if number % PIECE == 0 or number == values.size:
            progress(number, values.size)
    scores = np.array([one.score for one in readings], np.float64)
    strengths = np.array([one.strength for one in readings], np.float64)
    raws = np.array([one.raw for one in readings], np.float64)
    return Scored(
        values=values,
        scores=scores,
        raw_scores=np.where(np.isnan(raws), strengths, raws),
        learning=plan.learning_for(values.size),
        training=np.array([one.training for one in readings], np.bool_),
        reading=readings.__getitem__,
    )


def _by_own(own: Own, seconds: Array, values: Array, plan: Plan, progress: Callable[[int, int], None]) -> Scored:
    def step(done: int) -> None:
        if done % PIECE == 0 or done == values.size:
            progress(done, values.size)

    scores = own.score(seconds, values, plan.asked(), step)
    return Scored(
        values=values,
        scores=scores,
        raw_scores=scores,
        learning=plan.learning_for(values.size),
        training=np.zeros(values.size, np.bool_),
        reading=lambda row: OwnReading(score=float(scores[row]), actual=float(values[row]), cause="own"),
    )


def _by_table(
    model: AnomalyModel, seconds: Array, values: Array, plan: Plan, progress: Callable[[int, int], None]
) -> Scored:
    pieces = []
    for start in range(0, values.size, PIECE):
        pieces.append(model.process_many(values[start : start + PIECE], seconds[start : start + PIECE]))
        progress(min(start + PIECE, values.size), values.size)
    table = np.concatenate(pieces) if pieces else np.empty((0, streams.COLUMNS))
    raw = table[:, streams.RAW]
    return Scored(
        values=values,
        scores=table[:, streams.SCORE],
        raw_scores=np.where(np.isnan(raw), table[:, streams.STRENGTH], raw),
        learning=plan.learning_for(values.size),
        training=table[:, streams.TRAINING] > 0,
        reading=lambda row: model.readings(table[row : row + 1], values[row : row + 1])[0],
    )
