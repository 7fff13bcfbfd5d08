"""
One COMTRADE record: configuration and data together, with the exact time of each sample.

The first sample is taken at the .cfg's first stamp. Where the .cfg gives sampling rates, sample n comes (n - 1) / rate
later, rounded to the nearest nanosecond from exact fractions: the .dat's own stamps are coarser. Where it gives none,
the .dat's stamps count, times the time multiplier, in microseconds, or in nanoseconds when the .cfg's stamps have more
than six digits of a second. A channel's skew moves all of its samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from eventproc.errors import IngressError
from eventproc.ingress.config import Channel, Config, Rate, parse_config
from eventproc.ingress.data import NO_STAMP, Data, parse_data

Times: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]

_SECOND_NS: Final = 1_000_000_000
_SAFE: Final = 1 << 62  # int64 sums below this do not overflow
_LAST_NS: Final = (1 << 63) - (1 << 32)
_CFF_HEADER: Final = re.compile(
    rb"^[ \t]*---[ \t]*file type:[ \t]*([a-z]+)(?:[ \t]+([a-z0-9]+))?[ \t]*(?::[ \t]*(\d{1,12}))?[ \t]*---[ \t]*\r?$",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One channel's samples."""

    channel: Channel
    times_ns: Times
    values: Values


@dataclass(frozen=True, kw_only=True)
class Record:
    """A parsed record. `notes` say what was odd and did no harm."""

    config: Config
    times_ns: Times
    notes: tuple[str, ...]
    _data: Data

    def series(self) -> Iterator[Series]:
        """Yield each channel's samples; analog values are scaled to their unit, missing ones NaN."""
        for kind, channels in (("analog", self.config.analog), ("status", self.config.status)):
            for index, channel in enumerate(channels):
                if kind == "analog":
                    values = self._data.analog(index) * channel.a + channel.b
                else:
                    values = self._data.status(index)
                times = self.times_ns + channel.skew_ns if channel.skew_ns else self.times_ns
                yield Series(channel=channel, times_ns=times, values=values)


def read_record(cfg: bytes, dat: bytes) -> Record:
    """Read a .cfg and its .dat. Raises IngressError that says what is wrong, and where."""
    config = parse_config(cfg)
    data = parse_data(config, dat)
    times, notes = _times(config, data)
    if data.extra:
        notes.append(f"{data.extra} samples beyond the {data.rows} that the .cfg announces were left out")
    return Record(config=config, times_ns=times, notes=tuple(notes), _data=data)


def read_cff(content: bytes) -> Record:
    """Read a single-file record (.cff, 2013). Raises IngressError that says what is wrong, and where."""
    parts: dict[str, bytes] = {}
    position = 0
    while match := _CFF_HEADER.search(content, position):
        kind = match.group(1).upper().decode()
        begin = match.end() + 1  # behind the line's end
        if kind == "DAT" and (match.group(2) or b"ASCII").upper() != b"ASCII":
            # Binary data may look like anything, so nothing behind its begin is searched.
            length = int(match.group(3)) if match.group(3) else len(content) - begin
            parts[kind] = content[begin : begin + length]
            break
        following = _CFF_HEADER.search(content, match.end())
        end = following.start() if following else len(content)
        parts[kind] = content[begin:end]
        position = match.end()
    for kind in ("CFG", "DAT"):
        if kind not in parts:
            raise IngressError(f"the .cff has no {kind} part (a line like '--- file type: {kind} ---' begins it)")
    return read_record(parts["CFG"], parts["DAT"])


# --------------------------------------------------------------------------------------------------- times


def _times(config: Config, data: Data) -> tuple[Times, list[str]]:
    notes: list[str] = []
    if config.from_stamps:
        offsets = _from_stamps(config, data)
        same = int((np.diff(offsets) == 0).sum())
        if same:
            notes.append(f"{same} samples have the time stamp of the one before them, which they replace")
    else:
        offsets = _from_rates(config.rates, _sample_numbers(data, notes))
    if config.start_ns + int(offsets[-1]) > _LAST_NS:
        raise IngressError("the samples' times go beyond the year 2262")
    times: Times = offsets + config.start_ns
    return times, notes


def _sample_numbers(data: Data, notes: list[str]) -> Times:
    """Return the samples' numbers counted from 1; gaps between them are gaps in time."""
    numbers = data.numbers
    steps = np.diff(numbers)
    if (steps > 0).all():
        counted: Times = numbers - numbers[0] + 1
        return counted
    if not numbers.any() or not steps.any():
        notes.append("the samples are not numbered: they were taken as following each other without gaps")
        return np.arange(1, len(numbers) + 1, dtype=np.int64)
    row = int(np.flatnonzero(steps <= 0)[0]) + 1
    raise IngressError(
        f"sample {row + 1} of the .dat has number {numbers[row]} after {numbers[row - 1]}: "
        "its format or its number of channels is not what the .cfg says"
    )


def _from_rates(rates: tuple[Rate, ...], numbers: Times) -> Times:
    """Return nanoseconds since the first sample, which has number 1."""
    offsets = np.empty(len(numbers), dtype=np.int64)
    base, first, begin = Fraction(0), 1, 0
    for i, rate in enumerate(rates):
        last = i + 1 == len(rates)
        end = len(numbers) if last else int(np.searchsorted(numbers, rate.last, side="right"))
        period = Fraction(_SECOND_NS) / rate.hertz
        offsets[begin:end] = _round(base, period, numbers[begin:end] - first)
        base += period * (rate.last - first)
        first, begin = rate.last, end
    return offsets


def _round(base: Fraction, period: Fraction, counts: Times) -> Times:
    """Return base + period * counts, rounded half up, exactly."""
    if len(counts) == 0:
        return counts
    common = lcm(base.denominator, period.denominator)
    whole_base, rest_base = divmod(base.numerator * (common // base.denominator), common)
    whole, rest = divmod(period.numerator * (common // period.denominator), common)
    shrink = gcd(rest_base, rest, common)
    rest_base, rest, common = rest_base // shrink, rest // shrink, common // shrink
    top = int(counts[-1])
    if whole_base + (top + 1) * (whole + 1) > _SAFE:
        raise IngressError("the sampling rate is too low: the samples' times go beyond what int64 nanoseconds hold")
    if 2 * (rest_base + top * rest) + common < _SAFE:
        parts = (2 * (rest_base + counts * rest) + common) // (2 * common)
    else:  # odd rates with many digits: slower, and as exact
        parts = np.array(
            [(2 * (rest_base + count * rest) + common) // (2 * common) for count in counts.tolist()], dtype=np.int64
        )
    rounded: Times = whole_base + counts * whole + parts
    return rounded


def _from_stamps(config: Config, data: Data) -> Times:
    """Return nanoseconds since the first sample, from the .dat's own stamps."""
    stamps = data.stamps
    missing = np.isnan(stamps) | (stamps == NO_STAMP)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise IngressError(f"sample {row + 1} of the .dat has no time stamp, and the .cfg gives no sampling rate")
    relative = stamps - stamps[0]
    back = np.flatnonzero(np.diff(relative) < 0)
    if len(back):
        raise IngressError(f"the time stamp of sample {int(back[0]) + 2} of the .dat lies before the one before it")
    unit = config.multiplier * config.unit_ns
    if float(relative[-1]) * float(unit) > _SAFE:
        raise IngressError("the samples' time stamps go beyond what int64 nanoseconds hold")
    if relative.dtype != np.int64 and not (relative == np.floor(relative)).all():
        nearest: Times = np.rint(relative * float(unit)).astype(np.int64)
        return nearest
    return _round(Fraction(0), unit, relative.astype(np.int64))
