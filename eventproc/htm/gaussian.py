"""A baseline: how far a value lies from the mean of the last ones, in standard deviations."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import numpy as np

from eventproc.htm import blob, records
from eventproc.htm.blob import StateError
from eventproc.htm.reading import Reading


class WindowedGaussian:
    """
    Score the two-sided normal probability of a value, with mean and deviation of a sliding window.

    They are found anew every `step` values, exactly, so that nothing drifts.
    """

    kind: ClassVar[str] = "gaussian"

    def __init__(self, *, window: int = 6400, step: int = 150, learning: int = 100, timezone: str = "UTC") -> None:
        if not (window >= 2 and step >= 1 and learning >= 2):
            raise ValueError("window and learning must be 2 or more, step 1 or more")
        self.window, self.step, self.learning, self.timezone = window, step, learning, timezone
        self._recent = np.zeros(window)
        self._seen = 0
        self._fitted = 0  # values known to the last fit
        self._mean = self._deviation = 0.0

    @property
    def seen(self) -> int:
        """Number of values learnt."""
        return self._seen

    def ask_one(self, x: Any, t: records.When = None) -> Reading:  # noqa: ARG002 - time does not matter to this one
        """Read a value as if it came next, and change nothing."""
        value = records.number(x)
        if not math.isfinite(value):
            return Reading(score=0.0, actual=value, cause="missing", training=self._seen < self.learning)
        if self._seen < self.learning:
            return Reading(score=0.0, actual=value, training=True)
        if self._deviation == 0.0:
            score = 0.0 if value == self._mean else 1.0
        else:
            score = 1.0 - math.erfc(abs(value - self._mean) / self._deviation / math.sqrt(2.0))
        return Reading(score=score, actual=value, strength=score, cause="value", expected=self._mean)

    def score_one(self, x: Any, t: records.When = None) -> float:
        """Score a value as if it came next, and change nothing."""
        return self.ask_one(x, t).score

    def learn_one(self, x: Any, t: records.When = None) -> Self:  # noqa: ARG002 - see above
        """Learn the next value."""
        value = records.number(x)
        if math.isfinite(value):
            self._recent[self._seen % self.window] = min(max(value, -1e100), 1e100)
            self._seen += 1
            if self._seen >= self.learning and (self._fitted < self.learning or self._seen - self._fitted >= self.step):
                self._fit()
        return self

    def process_one(self, x: Any, t: records.When = None) -> Reading:
        """Score the next value and learn it."""
        reading = self.ask_one(x, t)
        self.learn_one(x, t)
        return reading

    def score_many(self, values: Any, times: Any = None) -> np.ndarray[Any, np.dtype[np.float64]]:  # noqa: ARG002 - see above
        """Score and learn many values; only the scores."""
        return np.array([self.process_one(value).score for value in values], np.float64)

    def _fit(self) -> None:
        known = self._recent[: min(self._seen, self.window)]
        self._mean = math.fsum(known) / len(known)
        self._deviation = math.sqrt(math.fsum((known - self._mean) ** 2) / len(known))
        self._fitted = self._seen

    def clone(self, **changes: Any) -> Self:
        """Make an untrained detector of the same parameters, or with some changed."""
        return type(self)(**{**self._options(), **changes})

    def _options(self) -> dict[str, Any]:
        return {"window": self.window, "step": self.step, "learning": self.learning, "timezone": self.timezone}

    def save(self, *, base: bytes | None = None) -> bytes:
        """Save the state."""
        numbers = np.array([self._seen, self._fitted, self._mean, self._deviation], np.float64)
        arrays = {"numbers": numbers, "recent": self._recent[: min(self._seen, self.window)]}
        return blob.pack(self.kind, self._options(), arrays, base=base)

    @classmethod
    def load(cls, saved: bytes, *, base: bytes | None = None) -> Self:
        """Load a saved state."""
        kind, options, arrays = blob.unpack(saved, base=base)
        if kind != cls.kind:
            raise StateError(f"the saved state is of a {kind!r} detector, not of {cls.kind!r}")
        try:
            detector = cls(**options)
            seen, fitted, detector._mean, detector._deviation = arrays["numbers"].tolist()
            detector._seen, detector._fitted = int(seen), int(fitted)
            detector._recent[: len(arrays["recent"])] = arrays["recent"]
        except (KeyError, ValueError, TypeError) as error:
            raise StateError(f"the saved state does not fit this program: {error}") from error
        return detector
