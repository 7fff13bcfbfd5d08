"""
Detectors as they were: raw scores of a temporal memory, a historical likelihood, and a rule for values out of range.

`NumentaHTM` runs them on this package's memory, `htmcore.HtmCore` on htm.core's; both find raw scores by a `Source`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from eventproc.htm import blob, likelihood, records
from eventproc.htm.blob import Arrays, StateError
from eventproc.htm.likelihood import AnomalyLikelihood
from eventproc.htm.model import AnomalyModel
from eventproc.htm.parameters import Parameters, named
from eventproc.htm.reading import Reading


class Source(Protocol):
    """Where raw anomaly scores come from."""

    def ask(self, x: float, t: records.When) -> float:
        """Give the raw score of a value as if it came next; NaN: none yet."""

    def learn(self, x: float, t: records.When) -> float:
        """Give the raw score of the next value and learn it; NaN: none yet."""

    def predictions(self) -> tuple[dict[int, float], dict[int, float]]:
        """Give the best next values after the last record learnt, and their probabilities, by records ahead."""

    def arrays(self) -> Arrays:
        """Give the state."""

    def fill(self, arrays: Arrays) -> None:
        """Take a state over."""


class _OwnSource:
    """Raw scores of this package's temporal memory."""

    def __init__(self, parameters: Parameters, timezone: str) -> None:
        self._model = AnomalyModel(parameters, timezone=timezone)
        self._last: Reading | None = None

    def ask(self, x: float, t: records.When) -> float:
        return self._model.ask_one(x, t).raw

    def learn(self, x: float, t: records.When) -> float:
        self._last = self._model.process_one(x, t)
        return self._last.raw

    def predictions(self) -> tuple[dict[int, float], dict[int, float]]:
        return ({}, {}) if self._last is None else (self._last.predictions, self._last.probabilities)

    def arrays(self) -> Arrays:
        return self._model.arrays()

    def fill(self, arrays: Arrays) -> None:
        self._model.fill(arrays)


class NumentaHTM:
    """
    The published detector: its parameters (`numenta_cpp`, `numenta_tm_cpp`), a historical likelihood, the range rule.

    `spread` gives the logarithmic form of the likelihood (0.5 for 0.99999), as NAB's detector reports it.
    """

    kind: ClassVar[str] = "numenta"

    def __init__(
        self,
        parameters: Parameters | str = "numenta_cpp",
        *,
        mode: str = "two_sided",
        range_tolerance: float = 0.05,
        spread: bool = True,
        timezone: str = "UTC",
        **changes: Any,
    ) -> None:
        base = named(parameters) if isinstance(parameters, str) else parameters
        self.parameters = base.changed(**changes)
        if self.parameters.category:
            raise ValueError("this detector is of numbers: use AnomalyModel(category=True, streams=False) for words")
        self.mode, self.range_tolerance, self.spread, self.timezone = mode, range_tolerance, spread, timezone
        records.zone_named(timezone)
        half = self.parameters.learning // 2
        self._likelihood = AnomalyLikelihood(
            mode, learning_period=half, estimation_samples=max(1, self.parameters.learning - half)
        )
        self._source = self.new_source()
        self._low = self._high = math.nan
        self._seen = 0

    def new_source(self) -> Source:
        """Make an untrained source of raw scores."""
        return _OwnSource(self.parameters, self.timezone)

    @property
    def seen(self) -> int:
        """Number of values learnt."""
        return self._seen

    def ask_one(self, x: Any, t: records.When = None) -> Reading:
        """Read a value as if it came next, and change nothing."""
        value = records.number(x)
        if not math.isfinite(value):
            return self._missing(value)
        raw = self._source.ask(value, t)
        probability = 0.5 if math.isnan(raw) else self._likelihood.ask(raw)
        return self._reading(value, raw, probability)

    def process_one(self, x: Any, t: records.When = None) -> Reading:
        """Score the next value and learn it."""
        value = records.number(x)
        if not math.isfinite(value):
            return self._missing(value)
        raw = self._source.learn(value, t)
        probability = 0.5 if math.isnan(raw) else self._likelihood.update(raw, value)
        predictions, probabilities = self._source.predictions()
        reading = replace(self._reading(value, raw, probability), predictions=predictions, probabilities=probabilities)
        self._low = value if math.isnan(self._low) else min(self._low, value)
        self._high = value if math.isnan(self._high) else max(self._high, value)
        self._seen += 1
        return reading

    def score_one(self, x: Any, t: records.When = None) -> float:
        """Score a value as if it came next, and change nothing."""
        return self.ask_one(x, t).score

    def learn_one(self, x: Any, t: records.When = None) -> Self:
        """Learn the next value."""
        self.process_one(x, t)
        return self

    def score_many(self, values: Any, times: Any = None) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Score and learn many values; only the scores."""
        when = [None] * len(values) if times is None else times
        return np.array([self.process_one(x, t).score for x, t in zip(values, when, strict=True)], np.float64)

    def _missing(self, value: float) -> Reading:
        return Reading(score=0.0, actual=value, cause="missing", training=self._seen < self.parameters.learning)

    def _reading(self, value: float, raw: float, probability: float) -> Reading:
        score = likelihood.log_likelihood(probability) if self.spread else probability
        score = min(max(score, 0.0), 1.0)
        part = self._out_of_range(value)
        return Reading(
            score=max(score, part),
            actual=value,
            strength=max(score, part),
            cause="value" if part > score else "sequence",
            raw=raw,
            surprise=-math.log10(max(1.0 - probability, 1e-300)),
            parts={"value": part, "sequence": score},
            training=self._seen < self.parameters.learning,
        )

    def _out_of_range(self, value: float) -> float:
        room = (self._high - self._low) * self.range_tolerance
        if math.isnan(room) or room <= 0:
            return 0.0
        return 1.0 if value > self._high + room or value < self._low - room else 0.0

    def clone(self, **changes: Any) -> Self:
        """Make an untrained detector of the same parameters, or with some changed."""
        return type(self)(self.parameters.changed(**changes), **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "range_tolerance": self.range_tolerance,
            "spread": self.spread,
            "timezone": self.timezone,
        }

    def save(self, *, base: bytes | None = None) -> bytes:
        """Save the state; with `base`, an earlier whole blob of this detector, only what differs from it."""
        about = {"parameters": self.parameters.to_json(), "options": self._options()}
        own = {"range": np.array([self._low, self._high, self._seen], np.float64)}
        source = {f"source.{name}": array for name, array in self._source.arrays().items()}
        return blob.pack(self.kind, about, {**own, **self._likelihood.arrays(), **source}, base=base)

    @classmethod
    def load(cls, saved: bytes, *, base: bytes | None = None) -> Self:
        """Load a saved state; a difference needs the blob it was made against."""
        kind, about, arrays = blob.unpack(saved, base=base)
        if kind != cls.kind:
            raise StateError(f"the saved state is of a {kind!r} detector, not of {cls.kind!r}")
        try:
            detector = cls(Parameters.from_json(about["parameters"]), **about["options"])
            detector._low, detector._high, seen = arrays["range"].tolist()
            detector._seen = int(seen)
            detector._likelihood.fill(arrays)
            prefix = "source."
            detector._source.fill(
                {name[len(prefix) :]: array for name, array in arrays.items() if name[: len(prefix)] == prefix}
            )
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise StateError(f"the saved state does not fit this program: {error}") from error
        return detector
