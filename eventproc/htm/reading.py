"""What a detector says about one record."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from eventproc.htm import streams

CAUSES = ("value", "season", "variation", "level", "shape", "sequence")
_WORDS = {
    "value": "the value lies outside all values before",
    "season": "the value is unusual for this hour of this kind of day",
    "variation": "the values vary unusually much or little",
    "level": "the mean of the last values lies outside all before",
    "shape": "nothing before looks like the last values",
    "sequence": "the order of the values is not one that was learnt",
}
_TABLE_CAUSE = {-1: "none", -2: "missing"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One record's score, and where it comes from."""

    score: float  # what is reported: 0 where an anomaly only goes on
    actual: float
    strength: float = 0.0  # of the strongest part, reported or not
    cause: str = "none"  # one of CAUSES; "none"; "missing": no value
    raw: float = math.nan  # share of active columns nobody predicted; NaN: no temporal memory, or not yet
    average: float = math.nan  # of the last ten raw scores
    usual: float = math.nan  # mean of those averages so far, and their standard deviation
    spread: float = math.nan
    surprise: float = 0.0  # -log10 of the probability of such an average
    parts: dict[str, float] = field(default_factory=dict)
    expected: float = math.nan  # the value predicted; NaN: none, or nothing to explain
    training: bool = False
    predictions: dict[int, float] = field(default_factory=dict)  # records ahead: most probable value (`predict_steps`)
    probabilities: dict[int, float] = field(default_factory=dict)  # records ahead: how probable that is
    word: str | None = None  # what was read, where values are categories

    def explain(self) -> str:
        """Say it in a sentence or two."""
        if self.cause == "missing":
            return "No value."
        if self.cause not in _WORDS:
            return "Nothing unusual." if not self.training else "Still learning; nothing unusual."
        read = f"{self.actual:g}" if self.word is None else self.word
        said = f"Score {self.score:.3f} at {read}: {_WORDS[self.cause]}"
        if self.cause == "sequence":
            said += f" (raw score {self.raw:.2f}, mean of ten {self.average:.2f}"
            said += f" against {self.usual:.2f} ± {self.spread:.2f})"
        if not math.isnan(self.expected):
            said += f"; {self.expected:g} was expected"
        return said + (". Still learning." if self.training else ".")


def from_row(row: Any, actual: float, *, steps: tuple[int, ...] = (), word: str | None = None) -> Reading:
    """Turn a row of the kernels' table into a reading."""
    numbers = row.tolist()
    ahead = numbers[streams.COLUMNS :]
    known = bool(steps) and not math.isnan(ahead[0])
    cause = int(numbers[streams.CAUSE])
    heard = not math.isnan(numbers[streams.RAW])
    return Reading(
        score=numbers[streams.SCORE],
        actual=actual,
        strength=numbers[streams.STRENGTH],
        cause=_TABLE_CAUSE.get(cause) or CAUSES[cause],
        raw=numbers[streams.RAW],
        average=numbers[streams.AVERAGE] if heard else math.nan,
        usual=numbers[streams.USUAL] if heard else math.nan,
        spread=numbers[streams.SPREAD] if heard else math.nan,
        surprise=numbers[streams.SURPRISE],
        parts=dict(zip(CAUSES, numbers[streams.VALUE : streams.HTM + 1], strict=True)),
        expected=numbers[streams.EXPECTED],
        training=numbers[streams.TRAINING] > 0,
        predictions=dict(zip(steps, ahead[: len(steps)], strict=True)) if known else {},
        probabilities=dict(zip(steps, ahead[len(steps) :], strict=True)) if known else {},
        word=word,
    )
