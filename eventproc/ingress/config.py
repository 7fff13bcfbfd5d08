"""
The .cfg of a COMTRADE record: IEEE C37.111-1991, -1999 and -2013.

The `comtrade` package reads the channels. What it turns into floats or cuts to microseconds we read ourselves, exactly:
sampling rates, stamps (up to nanoseconds), the time multiplier, and the 2013 time code, by which stamps become UTC.
Stamps of the older revisions say nothing about their zone and are taken as UTC.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import comtrade

from eventproc.errors import IngressError

MAX_CHANNELS: Final = 10_000
MAX_RATES: Final = 1_000
MAX_SAMPLES: Final = 50_000_000
MAX_TEXT: Final = 4 << 20  # bytes of a .cfg
FORMATS: Final = ("ASCII", "BINARY", "BINARY32", "FLOAT32")

_BEFORE_CHANNELS: Final = 2  # lines
_ANALOG_FIELDS: Final = 13
_STATUS_FIELDS: Final = 5
_COUNTS: Final = re.compile(r"\s*(\d{1,9})\s*,\s*(\d{1,9})\s*A\s*,\s*(\d{1,9})\s*D\s*(?:,.*)?", re.IGNORECASE)
_STAMP: Final = re.compile(
    r"\s*(\d{1,4})[/.-](\d{1,2})[/.-](\d{1,4})\s*,\s*(\d{1,2}):(\d{1,2}):(\d{1,2})(?:[.,](\d{0,18}))?\s*"
)
_OFFSET: Final = re.compile(r"([+-]?)\s*(\d{1,2})(?:h(\d{1,2}))?[a-z]?", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,2})?")
_NEUTRAL_STAMP: Final = "01/01/2000,00:00:00.000000"
_EPOCH_DAY: Final = dt.date(1970, 1, 1).toordinal()
_PIVOT: Final = 70  # two-digit years from here on are in the twentieth century


@dataclass(frozen=True, kw_only=True, slots=True)
class Channel:
    """One channel. Analog values are `a * raw + b`, in `unit`; `skew_ns` is added to each sample's time."""

    kind: str  # analog | status
    number: int
    name: str
    phase: str
    component: str
    unit: str = ""
    a: float = 1.0
    b: float = 0.0
    skew_ns: int = 0
    primary: float | None = None
    secondary: float | None = None
    scaling: str = ""  # P or S: the values are primary or secondary ones


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """Samples up to number `last` come at `hertz`."""

    hertz: Fraction
    last: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All that a .cfg says and we use."""

    station: str
    device: str
    revision: str
    channels: tuple[Channel, ...]  # analog ones first
    frequency: float
    rates: tuple[Rate, ...]
    samples: int  # the last sample's number, 0 when the .cfg does not say
    from_stamps: bool  # times are in the .dat and not computed from rates
    start_ns: int
    format: str
    unit_ns: int  # of the .dat's time stamps: 1 or 1000
    multiplier: Fraction

    @property
    def analog(self) -> tuple[Channel, ...]:
        return tuple(channel for channel in self.channels if channel.kind == "analog")

    @property
    def status(self) -> tuple[Channel, ...]:
        return tuple(channel for channel in self.channels if channel.kind == "status")


def decode_text(data: bytes) -> str:
    """
    Decode a text file of unknown encoding: UTF-8 or UTF-16 by its mark, UTF-8, Windows-1252, Latin-1.

    The last of these fits everything; bytes that Windows-1252 gives a letter or sign are control codes in Latin-1.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def parse_config(data: bytes) -> Config:
    """Parse the bytes of a .cfg. Raises IngressError that names the line and what is wrong with it."""
    if len(data) > MAX_TEXT:
        raise IngressError(f"the .cfg has {len(data)} bytes, and {MAX_TEXT} are the limit")
    if b"\0" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise IngressError("the .cfg is not a text file")
    return _Parser(decode_text(data)).parse()


class _Parser:
    """Walks through the lines; `line` is the number of the one being read, for messages."""

    def __init__(self, text: str) -> None:
        self._lines = [line.strip() for line in text.replace("\x1a", "").splitlines()]
        while self._lines and not self._lines[0]:
            self._lines.pop(0)
        self._line = 0

    def parse(self) -> Config:
        try:
            return self._parse()
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise self._wrong(str(error)) from error

    def _parse(self) -> Config:
        station, device, revision = self._identity(self._next("station and device"))
        analog, status = self._counts(self._next("the numbers of channels"))
        channels = self._channels(analog, status)
        frequency = self._float(self._next("the line frequency"), default=0.0)
        rates, samples, from_stamps = self._rates()
        start, start_digits = self._stamp("the first sample's date and time", revision)
        _, trigger_digits = self._stamp("the trigger's date and time", revision)
        form = self._next("the .dat's format").upper()
        if form not in FORMATS:
            raise self._wrong(f"format {form[:20]!r} is not known: {', '.join(FORMATS)} are")
        multiplier = Fraction(1)
        offset = 0
        if revision != "1991":
            multiplier = self._fraction(self._rest() or "1")
            if multiplier <= 0:
                raise self._wrong("the time multiplier is not positive")
        if revision == "2013":
            offset = self._offset(self._rest())
        if start is None:
            raise IngressError("the .cfg does not say when the first sample was taken: its date is missing")
        return Config(
            station=station,
            device=device,
            revision=revision,
            channels=channels,
            frequency=frequency,
            rates=rates,
            samples=samples,
            from_stamps=from_stamps,
            start_ns=start - offset * 1_000_000_000,
            format=form,
            unit_ns=1 if max(start_digits, trigger_digits) > 6 else 1000,
            multiplier=multiplier,
        )

    # ------------------------------------------------------------------ lines

    def _wrong(self, why: str) -> IngressError:
        text = self._lines[self._line - 1][:60] if 0 < self._line <= len(self._lines) else ""
        return IngressError(f"line {self._line} of the .cfg ({text!r}): {why[:200]}", line=self._line)

    def _next(self, what: str) -> str:
        self._line += 1
        if self._line > len(self._lines):
            raise IngressError(f"the .cfg ends after {len(self._lines)} lines, before {what}", line=self._line)
        return self._lines[self._line - 1]

    def _rest(self) -> str:
        """Return the next line, empty when there is none: older writers leave the last ones out."""
        self._line += 1
        return self._lines[self._line - 1] if self._line <= len(self._lines) else ""

    def _float(self, text: str, *, default: float) -> float:
        value = float(text) if text else default
        if not math.isfinite(value):
            raise self._wrong(f"{text!r} is not a finite number")
        return value

    def _fraction(self, text: str) -> Fraction:
        """Convert exactly; the length is bounded so that nobody makes us compute with a million digits."""
        if not _NUMBER.fullmatch(text):
            raise self._wrong(f"{text[:40]!r} is not a number")
        return Fraction(text)

    # ------------------------------------------------------------------ parts

    def _identity(self, line: str) -> tuple[str, str, str]:
        fields = [field.strip() for field in line.split(",")]
        if len(fields) < 2:
            raise self._wrong("it should hold the station, the device and the revision's year; is this a .cfg?")
        if len(fields) > 2 and re.fullmatch(r"\d{4}", fields[-1]):
            # A comma inside the station's name is against the standard and happens.
            return ",".join(fields[:-2]), fields[-2], fields[-1]
        return fields[0], fields[1], "1991"

    def _counts(self, line: str) -> tuple[int, int]:
        match = _COUNTS.fullmatch(line)
        if match is None:
            raise self._wrong("it should hold the numbers of channels, like 8,4A,4D")
        total, analog, status = (int(number) for number in match.groups())
        if analog + status > MAX_CHANNELS:
            raise self._wrong(f"{analog + status} channels are more than the limit of {MAX_CHANNELS}")
        if total != analog + status:
            raise self._wrong(f"{analog} analog and {status} status channels are not {total}")
        if total == 0:
            raise self._wrong("there are no channels")
        return analog, status

    def _channels(self, analog: int, status: int) -> tuple[Channel, ...]:
        """Let the library read the channels from a .cfg that has all it stumbles over made regular."""
        lines = ["station,device,2013", f"{analog + status},{analog}A,{status}D"]
        lines += [_regular_analog(self._next(f"analog channel {i + 1}")) for i in range(analog)]
        lines += [_regular_status(self._next(f"status channel {i + 1}")) for i in range(status)]
        lines += ["0", "1", "1,1", _NEUTRAL_STAMP, _NEUTRAL_STAMP, "ASCII", "1", "0,0", "0,0"]
        reader = _CountingReader(lines)
        cfg = comtrade.Cfg(ignore_warnings=True)
        try:
            cfg.read(reader)
        except (ValueError, TypeError, OverflowError):
            self._line = min(reader.line, _BEFORE_CHANNELS + analog + status)
            raise
        self._line = _BEFORE_CHANNELS
        return tuple(map(self._analog, cfg.analog_channels)) + tuple(map(self._status, cfg.status_channels))

    def _analog(self, channel: comtrade.AnalogChannel) -> Channel:
        self._line += 1
        for what in ("a", "b", "skew"):
            if not math.isfinite(getattr(channel, what)):
                raise self._wrong(f"{what} is not a finite number")
        skew_ns = Fraction(channel.skew) * 1000
        if abs(skew_ns) > 1_000_000_000:
            raise self._wrong(f"a skew of {channel.skew} µs can not be: it is a part of one sampling period")
        return Channel(
            kind="analog",
            number=channel.n,
            name=channel.name,
            phase=channel.ph,
            component=channel.ccbm,
            unit=channel.uu,
            a=channel.a,
            b=channel.b,
            skew_ns=round(skew_ns),
            primary=channel.primary,
            secondary=channel.secondary,
            scaling=channel.pors.upper(),
        )

    def _status(self, channel: comtrade.StatusChannel) -> Channel:
        self._line += 1
        return Channel(
            kind="status", number=channel.n, name=channel.name, phase=channel.ph, component=channel.ccbm, unit=""
        )

    def _rates(self) -> tuple[tuple[Rate, ...], int, bool]:
        number = int(self._next("the number of sampling rates") or "0")
        if not 0 <= number <= MAX_RATES:
            raise self._wrong(f"{number} sampling rates are not between 0 and {MAX_RATES}")
        rates: list[Rate] = []
        for _ in range(max(number, 1)):
            fields = [field.strip() for field in self._next("a sampling rate").split(",")]
            if len(fields) < 2:
                raise self._wrong("it should hold a sampling rate and the number of its last sample")
            hertz, last = self._fraction(fields[0] or "0"), int(fields[1] or "0")
            if hertz < 0 or last < (rates[-1].last if rates else 0):
                raise self._wrong("a rate is negative, or the numbers of the last samples do not grow")
            if last > MAX_SAMPLES:
                raise self._wrong(f"{last} samples are more than the limit of {MAX_SAMPLES}")
            rates.append(Rate(hertz=hertz, last=last))
        return tuple(rates), rates[-1].last, number == 0 or any(rate.hertz == 0 for rate in rates)

    def _stamp(self, what: str, revision: str) -> tuple[int | None, int]:
        """Return a stamp in nanoseconds, None when its date is left out, and the digits of its fraction."""
        line = self._next(what)
        match = _STAMP.fullmatch(line)
        if match is None:
            if not line.strip(" ,/:.0"):
                return None, 0
            raise self._wrong(f"{what} should look like dd/mm/yyyy,hh:mm:ss.ssssss")
        first, second, third, hour, minute, second_of_minute = (int(text) for text in match.groups()[:6])
        digits = match.group(7) or ""
        if not (first and second):
            return None, 0
        date = self._date(match.group(1), first, second, third, revision)
        if hour > 23 or minute > 59 or second_of_minute > 60:  # 60: a leap second
            raise self._wrong("there is no such time of day")
        fraction_ns = round(Fraction(int(digits or "0"), 10 ** len(digits)) * 1_000_000_000)
        seconds = (date.toordinal() - _EPOCH_DAY) * 86_400 + hour * 3600 + minute * 60 + second_of_minute
        return seconds * 1_000_000_000 + fraction_ns, len(digits)

    def _date(self, first_text: str, first: int, second: int, third: int, revision: str) -> dt.date:
        """1991 writes mm/dd/yy, later revisions dd/mm/yyyy; an impossible month tells that a writer mixed them up."""
        if len(first_text) == 4:
            year, month, day = first, second, third
        else:
            year = third if third > 99 else third + (1900 if third >= _PIVOT else 2000)
            month, day = (first, second) if revision == "1991" else (second, first)
            if month > 12 >= day:
                month, day = day, month
        date = dt.date(year, month, day)
        if not 1678 <= date.year <= 2261:
            raise self._wrong(f"the year {date.year} is outside of what int64 nanoseconds can hold")
        return date

    def _offset(self, line: str) -> int:
        """Return the seconds by which the stamps are ahead of UTC."""
        code = line.partition(",")[0].strip()
        if code in ("", "x", "X"):
            return 0
        match = _OFFSET.fullmatch(code)
        if match is None:
            raise self._wrong(f"time code {code[:10]!r} is not understood: it should look like -4 or +5h30")
        sign, hours, minutes = match.groups()
        seconds = int(hours) * 3600 + int(minutes or "0") * 60
        if seconds > 18 * 3600:
            raise self._wrong(f"time code {code[:10]!r} is more than 18 hours away from UTC")
        return -seconds if sign == "-" else seconds


class _CountingReader:
    """What the library needs of a text file; knows which line it was reading when it failed."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self.line = 0

    def readline(self) -> str:
        self.line += 1
        return self._lines[self.line - 1] if self.line <= len(self._lines) else ""


def _regular_analog(line: str) -> str:
    """Fill in the fields that matter to nobody and that the library can not miss."""
    fields = [field.strip() for field in line.split(",")][:_ANALOG_FIELDS]
    defaults = ["0", "", "", "", "", "", "0", "0", "-99999", "99999", "1", "1", ""]
    fields += [""] * (_ANALOG_FIELDS - len(fields))
    return ",".join(field or default for field, default in zip(fields, defaults, strict=True))


def _regular_status(line: str) -> str:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) == 3:  # 1991: number, name, normal state
        fields = [fields[0], fields[1], "", "", fields[2]]
    fields += [""] * (_STATUS_FIELDS - len(fields))
    # The normal state, which nothing here depends on, may be blank or anything.
    return ",".join([fields[0] or "0", *fields[1:4], "0"])
