"""
The parameter finder: how a series is best put to a model, from the series alone.

Method (that of Numenta's HTM Studio, its `param_finder`): the series is brought onto an even grid; a continuous wavelet
transform with Ricker wavelets gives its variance at 50 time scales; what is faster than the scales that hold the first
3 % of the variance is taken for noise and averaged away; a daily peak turns the time of day on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DAY_S = 86_400.0
MOST_ROWS = 20_000  # the latest so many are looked at
LEAST_ROWS = 100  # with fewer nothing is concluded
SCALES = 50
LONGEST_S = 20 * 7 * DAY_S
NOISE_SHARE = 0.03  # of the variance, at the fast end
CUT_PARTS = 10  # a window is a tenth of the fastest time scale that counts
KEPT_ROWS = 1000  # so many windows must be left
DAILY_SHARE = 0.5  # of the peak's variance, at one day
PEAK_RISE = 1.1  # above its neighbouring minima
PERIOD_OF_WIDTH = 2 * math.pi / math.sqrt(2.5)  # period of a sine to which a Ricker wavelet of width 1 answers most
UNEVEN = 0.1  # median deviation of the gaps from their median, as a part of it: events rather than readings
RANGE_PAD = 0.2
MIN_RESOLUTION = 0.001
DAILY_BITS = 21  # active bits of the time of day's encoder, as in NuPIC's parameter sets


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found, and why."""

    rows: int
    interval_s: float  # median distance of samples; NaN: fewer than two
    window_s: float | None  # aggregation; None: take samples as they are
    function: str  # sum for events, mean for readings
    time_of_day: bool
    minimum: float | None  # of the values, with a fifth of their range on either side; None: no values
    maximum: float | None
    min_resolution: float
    periods_s: tuple[float, ...]  # of the strongest scales, the strongest first
    reasons: tuple[str, ...]

    def parameters(self, detector: str) -> dict[str, Any]:
        """
        Give the changes for a detector of `eventproc.htm`.

        The time of day goes into the memories that can use it; `default` and `statistics` always follow the hour, in a
        stream of their own.
        """
        if detector in ("htm", "numenta", "htm.core"):
            return {"time_on": DAILY_BITS if self.time_of_day else 0}
        return {}

    def model_params(self) -> dict[str, Any]:
        """Give the `modelParams` of a model specification."""
        if self.minimum is None or self.maximum is None:
            return {}
        return {"min": self.minimum, "max": self.maximum, "minResolution": self.min_resolution}

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "interval": None if math.isnan(self.interval_s) else self.interval_s,
            "window": self.window_s,
            "function": self.function,
            "timeOfDay": self.time_of_day,
            "dayOfWeek": False,
            "modelParams": self.model_params(),
            "periods": list(self.periods_s),
            "reasons": list(self.reasons),
        }


def find_parameters(seconds: Array, values: Array) -> Finding:
    """
    Find aggregation, use of the time of day, and range of a series.

    Args:
        seconds: Times, seconds since 1970 UTC, in any order; repeated ones count once.
        values: As many values; what is not finite is left out.

    """
    seconds, values = np.asarray(seconds, np.float64), np.asarray(values, np.float64)
    known = np.isfinite(values) & np.isfinite(seconds)
    seconds, first = np.unique(seconds[known], return_index=True)
    values = values[known][first]
    seconds, values = seconds[-MOST_ROWS:], values[-MOST_ROWS:]
    low, high = _span(values)
    gaps = np.diff(seconds)
    interval = float(np.median(gaps)) if gaps.size else math.nan
    function, why_function = _function(gaps, interval)
    window: float | None = None
    daily = False
    periods: tuple[float, ...] = ()
    reasons = [why_function]
    if seconds.size < LEAST_ROWS:
        reasons.append(f"{seconds.size} samples are too few to look for periods ({LEAST_ROWS} are needed)")
    elif np.ptp(values) == 0:
        reasons.append("the value never changes")
    else:
        scales, power = spectrum(seconds, values, interval)
        window, why_window = _window(scales, power, interval, seconds)
        daily, why_daily = _daily(scales, power)
        periods = tuple(float(scales[i]) for i in _peaks(power)[:3])
        reasons += [why_window, why_daily]
    return Finding(
        rows=int(seconds.size),
        interval_s=interval,
        window_s=window,
        function=function,
        time_of_day=daily,
        minimum=low,
        maximum=high,
        min_resolution=MIN_RESOLUTION,
        periods_s=periods,
        reasons=tuple(reasons),
    )


def spectrum(seconds: Array, values: Array, interval: float) -> tuple[Array, Array]:
    """Give time scales (periods in seconds, ascending) and the share of the wavelet variance at each."""
    span = float(seconds[-1] - seconds[0])
    count = min(int(span / interval) + 1, 4 * MOST_ROWS)
    step = span / (count - 1)
    even = np.interp(seconds[0] + step * np.arange(count), seconds, values)
    even = (even - even.mean()) / (float(even.std()) or 1.0)
    longest = min(LONGEST_S / step, count / 2) / PERIOD_OF_WIDTH
    widths = np.geomspace(0.5, max(longest, 1.0), SCALES)
    # Mirrored at both ends, so that the transform sees no jump there.
    whole = np.concatenate([even, even[::-1]])
    frequencies = 2 * np.pi * np.fft.rfftfreq(whole.size)
    transformed = np.fft.rfft(whole)
    power = np.empty(SCALES)
    for number, width in enumerate(widths):
        # The Ricker wavelet's own transform: (wa)² exp(-(wa)²/2), of unit energy at each width.
        response = (frequencies * width) ** 2 * np.exp(-((frequencies * width) ** 2) / 2) * math.sqrt(width)
        power[number] = np.var(np.fft.irfft(transformed * response, whole.size))
    total = float(power.sum()) or 1.0
    return widths * step * PERIOD_OF_WIDTH, power / total


def _span(values: Array) -> tuple[float | None, float | None]:
    if values.size == 0:
        return None, None
    low, high = float(values.min()), float(values.max())
    room = RANGE_PAD * (high - low) if high > low else 1.0
    return low - room, high + room


def _function(gaps: Array, interval: float) -> tuple[str, str]:
    if gaps.size < 2:
        return "mean", "too few samples to tell events from readings"
    deviation = float(np.median(np.abs(gaps - interval)))
    if deviation > UNEVEN * interval:
        return "sum", "samples come at uneven times, as events do: they are summed"
    return "mean", f"samples come every {_words(interval)}, as readings do: their mean is taken"


def _window(scales: Array, power: Array, interval: float, seconds: Array) -> tuple[float | None, str]:
    cut = float(scales[int(np.searchsorted(np.cumsum(power), NOISE_SHARE))])
    span = float(seconds[-1] - seconds[0])
    wanted = cut / CUT_PARTS
    allowed = span / KEPT_ROWS
    if wanted < 2 * interval:
        return None, f"what happens within {_words(cut)} counts already: samples are taken as they are"
    if allowed < 2 * interval:
        return None, f"windows would leave fewer than {KEPT_ROWS} rows: samples are taken as they are"
    window = math.floor(min(wanted, allowed) / interval) * interval
    return window, f"{NOISE_SHARE:.0%} of the variance are faster than {_words(cut)}: windows of {_words(window)}"


def _daily(scales: Array, power: Array) -> tuple[bool, str]:
    if scales[-1] < DAY_S:
        return False, "the series is too short to show days"
    at_day = float(np.interp(math.log(DAY_S), np.log(scales), power))
    for peak in _peaks(power):
        left, right = _valley(power, peak, -1), _valley(power, peak, 1)
        if scales[left] < DAY_S < scales[right] and at_day >= DAILY_SHARE * power[peak]:
            return True, f"the variance peaks at {_words(float(scales[peak]))}: the time of day matters"
    return False, "the variance has no peak at one day: the time of day does not matter"


def _peaks(power: Array) -> list[int]:
    """Return strong local maxima, the strongest first: above the mean, and a tenth above the valleys beside them."""
    inner = range(1, power.size - 1)
    tops = [i for i in inner if power[i] > power[i - 1] and power[i] >= power[i + 1] and power[i] > power.mean()]
    strong = [i for i in tops if power[i] >= PEAK_RISE * max(power[_valley(power, i, -1)], power[_valley(power, i, 1)])]
    return sorted(strong, key=lambda i: -power[i])


def _valley(power: Array, peak: int, step: int) -> int:
    place = peak
    while 0 <= place + step < power.size and power[place + step] <= power[place]:
        place += step
    return place


def _words(seconds: float) -> str:
    for unit, size in (("days", DAY_S), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} seconds"
