"""
The historical anomaly likelihoods: how unlikely the mean of the last ten raw scores is, given its distribution so far.

Ahmad, Lavin, Purdy & Agha 2017, as three generations of software computed it: `table` (a table of the normal tail,
one-sided: up to 0.3.4, what htmengine used), `one_sided` (erfc, 0.5.x) and `two_sided` (1.0.x: values from 0.5 up).
`AnomalyLikelihood` is the streaming form that detectors used, `EngineLikelihood` the one of htmengine, whose numbers
depended on how records were batched; unless asked for exactly that, it gives those of records that come one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["table", "one_sided", "two_sided"]
MODES: tuple[Mode, ...] = ("table", "one_sided", "two_sided")
AVERAGED = 10  # raw scores
RED, YELLOW = 1.0 - 0.99999, 1.0 - 0.999  # likelihoods: a run of reds is one alarm, the rest of it is yellow
MEAN_FLOOR, VARIANCE_FLOOR = 0.03, 0.0003
FLAT = 1.5e-5  # variance of values below which a metric counts as constant

_ROOT = 1.4142  # the constant the originals divide by, not the root of two
# Upper tail of the normal distribution at 0.0, 0.1, ... 7.0 standard deviations, as the oldest generation rounded it.
_PRINTED = """
    .5 .460172163 .420740291 .382088578 .344578258 .308537539 .274253118 .241963652 .211855399 .184060125 .158655254
    .135666061 .115069670 .096800485 .080756659 .066807201 .054799292 .044565463 .035930319 .028716560 .022750132
    .017864421 .013903448 .010724110 .008197536 .006209665 .004661188 .003466974 .002555130 .001865813 .001349898
    .000967603 .000687138 .000483424 .000336929 .000232629 .000159109 .000107800 .000072348 .000048096 .000031671
    2.1771135897e-5 1.4034063752e-5 8.961673661e-6 5.668743475e-6 3.551942468e-6 2.204533058e-6 1.355281953e-6
    8.25270644e-7 4.97747091e-7 2.97343903e-7 1.75930101e-7 1.03096834e-7 5.9836778e-8 3.4395590e-8 1.9581382e-8
    1.1040394e-8 6.164833e-9 3.409172e-9 1.867079e-9 1.012647e-9 5.43915e-10 2.89320e-10 1.52404e-10 7.9502e-11
    4.1070e-11 2.1010e-11 1.0644e-11 5.340e-12 2.653e-12 1.305e-12
"""
_TABLE = tuple(float(entry) for entry in _PRINTED.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """A normal distribution of averaged raw scores."""

    mean: float
    variance: float

    @property
    def deviation(self) -> float:
        return math.sqrt(self.variance) if self.variance > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Fit:
    """The distribution was fitted anew: `record` is the number, from 1, of the last record that it knows."""

    record: int
    known: Distribution


NULL = Distribution(mean=0.5, variance=1e6)  # where nothing can be said: everything is about as likely


def check_mode(mode: str) -> Mode:
    """Refuse a mode that is none."""
    for known in MODES:
        if mode == known:
            return known
    raise ValueError(f"no likelihood is named {mode!r}; there are {', '.join(MODES)}")


def tail(x: float, known: Distribution, mode: Mode) -> float:
    """Give the probability of a value as large as x (two-sided: as far off on its side)."""
    if x < known.mean:
        mirrored = tail(2 * known.mean - x, known, mode)
        return mirrored if mode == "two_sided" else 1.0 - mirrored
    z = (x - known.mean) / known.deviation
    if mode != "table":
        return 0.5 * math.erfc(z / _ROOT)
    place = math.floor(10 * z + 0.5) if z < len(_TABLE) else len(_TABLE)
    return _TABLE[place] if place < len(_TABLE) else 0.0


def estimate(averages: NDArray[np.float64], values: NDArray[np.float64], skip: int) -> Distribution:
    """Fit the distribution to all but the first `skip` records."""
    if len(averages) <= skip or float(np.var(values[skip:])) < FLAT:
        return NULL
    kept = averages[skip:]
    return Distribution(mean=max(float(np.mean(kept)), MEAN_FLOOR), variance=max(float(np.var(kept)), VARIANCE_FLOOR))


def moving_averages(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average each score with the nine before it; the first ones with as many as there are."""
    sums = np.convolve(scores, np.ones(AVERAGED))[: len(scores)]
    return sums / np.minimum(np.arange(1, len(scores) + 1), AVERAGED)


def filtered(likelihood: float, before: float) -> float:
    """Let only the first of a run of reds be red."""
    return YELLOW if likelihood <= RED and before <= RED else likelihood


def log_likelihood(probability: float) -> float:
    """Spread the interesting end: 0.5 gives 0.03, 0.99999 gives 0.5, 1 gives 1."""
    return math.log(1.0000000001 - probability) / -23.02585084720009


class _Recent:
    """The last `size` records (raw score, value) in one piece of memory, without moving them at each record."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._rows = np.zeros((2 * size, 2))
        self._end = 0

    def append(self, score: float, value: float) -> None:
        if self._end == len(self._rows):
            self._rows[: self.size] = self._rows[self.size :]
            self._end = self.size
        self._rows[self._end] = score, value
        self._end += 1

    def extend(self, rows: NDArray[np.float64]) -> None:
        """Take over at most `size` rows into an empty history."""
        self._rows[: len(rows)] = rows
        self._end = len(rows)

    def rows(self) -> NDArray[np.float64]:
        return self._rows[max(0, self._end - self.size) : self._end]

    def __len__(self) -> int:
        return min(self._end, self.size)


class AnomalyLikelihood:
    """
    The streaming form: 0.5 during probation, then a distribution fitted anew every so many records.

    A refit takes some 50 µs for 8,640 records: no stall.
    """

    def __init__(
        self,
        mode: str = "two_sided",
        *,
        learning_period: int = 288,
        estimation_samples: int = 100,
        historic_window: int = 8640,
        reestimation_period: int = 100,
    ) -> None:
        if historic_window < estimation_samples:
            raise ValueError("historic_window must not be smaller than estimation_samples")
        self.mode = check_mode(mode)
        self.learning_period = learning_period
        self.probation = learning_period + estimation_samples
        self.reestimation_period = max(1, reestimation_period)
        self._recent = _Recent(historic_window)
        self._known: Distribution | None = None
        self._before = 1.0  # the last likelihood, unfiltered
        self._seen = 0

    @property
    def distribution(self) -> Distribution | None:
        """The distribution of the last fit."""
        return self._known

    def skipped(self) -> int:
        """Count the records at the start of the history that belong to the learning period."""
        return min(self._seen, max(0, self.learning_period - max(0, self._seen - self._recent.size)))

    def ask(self, score: float) -> float:
        """Give the anomaly probability of a raw score as if it came next."""
        if self._seen < self.probation:
            return 0.5
        known, before = self._refitted() if self._due() else (self._known, self._before)
        return 1.0 - filtered(tail(self._average(score), known or NULL, self.mode), before)

    def update(self, score: float, value: float) -> float:
        """Give the anomaly probability of a record's raw score and remember it."""
        result = 0.5
        if self._seen >= self.probation:
            if self._due():
                self._known, self._before = self._refitted()
            likelihood = tail(self._average(score), self._known or NULL, self.mode)
            result = 1.0 - filtered(likelihood, self._before)
            self._before = likelihood
        self._recent.append(score, value)
        self._seen += 1
        return result

    def _due(self) -> bool:
        return self._known is None or self._seen % self.reestimation_period == 0

    def _refitted(self) -> tuple[Distribution, float]:
        rows = self._recent.rows()
        averages = moving_averages(rows[:, 0])
        known = estimate(averages, rows[:, 1], self.skipped())
        return known, tail(float(averages[-1]), known, self.mode) if len(averages) else 1.0

    def _average(self, score: float) -> float:
        last = self._recent.rows()[-(AVERAGED - 1) :, 0]
        return (float(last.sum()) + score) / (len(last) + 1)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give the state."""
        known = self._known
        numbers = [self._seen, self._before, 0 if known is None else 1]
        numbers += [0.0, 0.0] if known is None else [known.mean, known.variance]
        return {"likelihood": np.array(numbers, np.float64), "history": self._recent.rows()}

    def fill(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take a state over."""
        seen, before, fitted, mean, variance = arrays["likelihood"].tolist()
        self._seen, self._before = int(seen), before
        self._known = Distribution(mean=mean, variance=variance) if fitted else None
        self._recent = _Recent(self._recent.size)
        self._recent.extend(arrays["history"])


class EngineLikelihood:
    """
    The form of htmengine's anomaly service: 0 for the first records, refits by number of records and by alarm.

    `batched=True` repeats what the original computed for the same batches; otherwise batches do not matter.
    """

    SKIPPED = 288  # records at the start of the history that never count, also after it slid
    GREEDY_SCORE, GREEDY_GAP = 0.99, 3

    def __init__(
        self,
        mode: str = "table",
        *,
        refresh: int = 24,
        min_sample: int = 100,
        sample: int = 8640,
        batched: bool = False,
    ) -> None:
        self.mode = check_mode(mode)
        self.refresh, self.min_sample, self.sample, self.batched = refresh, min_sample, sample, batched
        self.fits: list[Fit] = []  # those of the last update
        self._known: Distribution | None = None
        self._fitted_to = 0  # number of the last record the fit knew
        self._before = 1.0
        self._last: list[float] = []  # raw scores of the moving average
        self._stored = _Recent(sample)  # records of earlier batches
        self._seen = 0

    @property
    def distribution(self) -> Distribution | None:
        """The distribution of the last fit."""
        return self._known

    @property
    def seen(self) -> int:
        """Number of records so far."""
        return self._seen

    def update(self, scores: Sequence[float], values: Sequence[float]) -> list[float]:
        """Give the anomaly scores of a batch of raw scores and values; `fits` says how the distribution changed."""
        self.fits = []
        rows = [(float(score), float(value)) for score, value in zip(scores, values, strict=True)]
        if self.batched:
            return self._batch(rows)
        return [result for row in rows for result in self._batch([row])]

    def _batch(self, rows: list[tuple[float, float]]) -> list[float]:
        results = [0.0] * len(rows)
        first = self._seen + 1  # number of the batch's first record
        cache: list[tuple[float, float]] | None = None
        start = 0
        if self._known is None:
            if self._seen + len(rows) < self.min_sample:
                return self._stored_batch(rows, results)
            start = max(0, self.min_sample - self._seen)
            cache = self._fit(None, rows[:start], first + start - 1)
        interval = int(max(self.refresh, 0.1 * len(rows)))
        while start < len(rows):
            end = self._end(first + start, interval, cache)
            limit = min(len(rows), max(start, end + 1 - first))
            stop = self._consume(rows, results, slice(start, limit), first, cache)
            if stop < len(rows) or first + stop - 1 >= end:
                cache = self._fit(cache, rows[start:stop], first + stop - 1)
            start = stop
        return self._stored_batch(rows, results)

    def _end(self, number: int, interval: int, cache: list[tuple[float, float]] | None) -> int:
        """Find the number of the record after which the next fit is due."""
        if cache is not None and len(cache) < self.min_sample:
            return number + self.min_sample - len(cache) - 1
        end = self._fitted_to + interval
        return number if end < number and cache is not None else end

    def _consume(
        self,
        rows: list[tuple[float, float]],
        results: list[float],
        part: slice,
        first: int,
        cache: list[tuple[float, float]] | None,
    ) -> int:
        """Score a part of the batch; an alarm ends it early, since the next fit should know it."""
        for i in range(part.start, part.stop):
            results[i] = self._score(rows[i][0])
            enough = cache is None or len(cache) + i + 1 - part.start >= self.min_sample
            if results[i] > self.GREEDY_SCORE and self._fitted_to + self.GREEDY_GAP < first + i and enough:
                return i + 1
        return int(part.stop)

    def _score(self, score: float) -> float:
        self._last = [*self._last[-(AVERAGED - 1) :], score]
        likelihood = tail(sum(self._last) / len(self._last), self._known or NULL, self.mode)
        result = 1.0 - filtered(likelihood, self._before)
        self._before = likelihood
        return result

    def _fit(
        self, cache: list[tuple[float, float]] | None, consumed: list[tuple[float, float]], number: int
    ) -> list[tuple[float, float]]:
        """Fit the distribution to the last records, `number` being the newest one's."""
        if cache is None:
            earlier = self._stored.rows()[-max(0, self.sample - len(consumed)) :]
            cache = [(float(score), float(value)) for score, value in earlier]
        cache = cache + consumed
        if len(cache) < self.min_sample:
            return cache
        known = np.array(cache[-self.sample :])
        averages = moving_averages(known[:, 0])
        self._known = estimate(averages, known[:, 1], self.SKIPPED)
        self._fitted_to = number
        self.fits.append(Fit(number, self._known))
        self._last = [score for score, _ in cache[-AVERAGED:]]
        self._before = tail(float(averages[-1]), self._known, self.mode)
        return cache

    def _stored_batch(self, rows: list[tuple[float, float]], results: list[float]) -> list[float]:
        for score, value in rows:
            self._stored.append(score, value)
        self._seen += len(rows)
        return results

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give the state."""
        known = self._known
        numbers = [float(self._seen), float(self._fitted_to), self._before, 0.0 if known is None else 1.0]
        numbers += [0.0, 0.0] if known is None else [known.mean, known.variance]
        return {
            "likelihood": np.array(numbers, np.float64),
            "last": np.array(self._last, np.float64),
            "history": self._stored.rows(),
        }

    def fill(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take a state over."""
        seen, fitted_to, before, fitted, mean, variance = arrays["likelihood"].tolist()
        self._seen, self._fitted_to, self._before = int(seen), int(fitted_to), before
        self._known = Distribution(mean=mean, variance=variance) if fitted else None
        self._last = arrays["last"].tolist()
        self._stored = _Recent(self.sample)
        self._stored.extend(arrays["history"])

    def summary(self) -> dict[str, Any]:
        """Give the parameters as htmengine kept them with a metric; empty before the first fit."""
        known = self._known
        if known is None:
            return {}
        last = self._last[-AVERAGED:]
        return {
            "last_rowid_for_stats": self._fitted_to,
            "params": {
                "distribution": {
                    "name": "normal",
                    "mean": known.mean,
                    "variance": known.variance,
                    "stdev": known.deviation,
                },
                "movingAverage": {"historicalValues": last, "total": sum(last), "windowSize": AVERAGED},
                "historicalLikelihoods": [self._before],
            },
        }
