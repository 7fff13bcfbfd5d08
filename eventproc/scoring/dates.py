"""
Date formats of CSV columns: found by looking at all rows, never guessed.

A format reads a text into microseconds since 1970 UTC. Where a text names no zone, the caller's zone is its own.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from eventproc.errors import InvalidInput

Reader = Callable[[str, dt.tzinfo], int]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_US = dt.timedelta(microseconds=1)
_DAY_US = 86_400_000_000
_MONTHS = {
    name: 1 + number
    for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split())  # noqa: SIM905 - reads better
}
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE]\+?\d+)?")
_TIME = (
    r"(?:[T ,:]+(?P<h>\d{1,2}):(?P<min>\d{2})(?::(?P<s>\d{2})(?:[.,](?P<f>\d+))?)?(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?)?"
)
_ZONE = r"\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})?"
_NUMERIC = re.compile(r"(?P<a>\d{1,2})(?P<sep>[/.-])(?P<b>\d{1,2})(?P=sep)(?P<y>\d{4}|\d{2})" + _TIME + _ZONE)
_YEAR_FIRST = re.compile(r"(?P<y>\d{4})(?P<sep>[/.-])(?P<mon>\d{1,2})(?P=sep)(?P<d>\d{1,2})" + _TIME + _ZONE)
_WORDS = (
    re.compile(  # 01-Apr-2014 10:00, 1 April 2014, Tue, 01 Apr 2014 00:00:00 +0000, [01/Apr/2014:00:00:00 +0000]
        r"\[?(?:[A-Za-z]{3,9},?\s+)?(?P<d>\d{1,2})(?:st|nd|rd|th)?[ /.-]+(?P<name>[A-Za-z]{3,9})\.?[ /,.-]+(?P<y>\d{4})"
        + _TIME + _ZONE + r"\]?"
    ),
    re.compile(  # Apr 1, 2014 10:00 PM
        r"(?:[A-Za-z]{3,9},?\s+)?(?P<name>[A-Za-z]{3,9})\.?\s+(?P<d>\d{1,2})(?:st|nd|rd|th)?,?\s+(?P<y>\d{4})"
        + _TIME + _ZONE
    ),
    re.compile(  # Tue Apr  1 00:00:00 2014
        r"(?:[A-Za-z]{3}\s+)(?P<name>[A-Za-z]{3})\s+(?P<d>\d{1,2})\s+(?P<h>\d{2}):(?P<min>\d{2}):(?P<s>\d{2})(?P<f>)(?P<half>)"
        r"(?:\s+(?P<zone>UTC|GMT))?\s+(?P<y>\d{4})"
    ),
)  # fmt: skip
# By the size of a number: seconds until the year 5138, milliseconds of the same years, and so on.
_UNITS = (("epoch-s", 1e11, 1e6), ("epoch-ms", 1e14, 1e3), ("epoch-us", 1e17, 1.0), ("epoch-ns", 1e20, 1e-3))
_COMPACT = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


@dataclass(frozen=True)
class DateFormat:
    """How the texts of a column are read."""

    name: str
    read: Reader  # raises ValueError

    def read_us(self, text: str, zone: dt.tzinfo) -> int:
        """Give microseconds since 1970 UTC. Raises ValueError for what is not of this format."""
        found = self.read(text.strip(), zone)
        if not -62_135_596_800_000_000 <= found <= 253_402_300_799_999_999:
            raise ValueError("beyond the years 1 to 9999")
        return found


def _micro(moment: dt.datetime, zone: dt.tzinfo) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    return (aware - _EPOCH) // _US


def _iso(text: str, zone: dt.tzinfo) -> int:
    try:
        return _micro(dt.datetime.fromisoformat(text), zone)
    except ValueError:
        found = _YEAR_FIRST.fullmatch(text)
        if found is None:
            raise
        return _parts(found, int(found["mon"]), int(found["d"]), zone)


def _parts(found: re.Match[str], month: int, day: int, zone: dt.tzinfo) -> int:
    year = int(found["y"])
    if year < 100:  # as POSIX reads two digits
        year += 2000 if year < 69 else 1900
    hour, half = int(found["h"] or 0), (found["half"] or "").lower()
    if half:
        if not 1 <= hour <= 12:
            raise ValueError(f"hour {hour} does not go with AM or PM")
        hour = hour % 12 + (12 if half == "p" else 0)
    micro = int((found["f"] or "0")[:6].ljust(6, "0"))
    whole, second = (hour, int(found["s"] or 0)) if hour < 24 else (0, 0)
    moment = dt.datetime(year, month, day, whole, int(found["min"] or 0), second, micro, tzinfo=_zone(found["zone"]))
    if hour == 24:
        moment += dt.timedelta(days=1)
    return _micro(moment, zone)


def _zone(text: str | None) -> dt.tzinfo | None:
    if not text:
        return None
    if text in ("Z", "UTC", "GMT"):
        return dt.UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = dt.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return dt.timezone(-offset if text[0] == "-" else offset)


def _numeric(day_first: bool) -> Reader:  # noqa: FBT001 - private
    def read(text: str, zone: dt.tzinfo) -> int:
        found = _NUMERIC.fullmatch(text)
        if found is None:
            raise ValueError("not a date of three numbers")
        a, b = int(found["a"]), int(found["b"])
        return _parts(found, b if day_first else a, a if day_first else b, zone)

    return read


def _words(text: str, zone: dt.tzinfo) -> int:
    for pattern in _WORDS:
        found = pattern.fullmatch(text)
        if found is not None and (month := _MONTHS.get(found["name"][:3].lower())) is not None:
            return _parts(found, month, int(found["d"]), zone)
    raise ValueError("not a date with the name of a month")


def _epoch(factor: float) -> Reader:
    def read(text: str, zone: dt.tzinfo) -> int:  # noqa: ARG001 - a count of seconds has no zone
        if _NUMBER.fullmatch(text) is None:
            raise ValueError("not a number")
        if factor >= 1 and text.lstrip("+-").isdigit():
            return int(text) * int(factor)
        return round(float(text) * factor)

    return read


def _pattern(pattern: str) -> Reader:
    def read(text: str, zone: dt.tzinfo) -> int:
        return _micro(dt.datetime.strptime(text, pattern), zone)  # noqa: DTZ007 - the zone is the column's

    return read


ISO = DateFormat("iso", _iso)
DAY_FIRST = DateFormat("day-first", _numeric(day_first=True))
MONTH_FIRST = DateFormat("month-first", _numeric(day_first=False))
NAMED_MONTH = DateFormat("month-name", _words)
EPOCHS = {name: DateFormat(name, _epoch(factor)) for name, _, factor in _UNITS}
FORMATS = {each.name: each for each in (ISO, DAY_FIRST, MONTH_FIRST, NAMED_MONTH, *EPOCHS.values())}


def format_named(name: str) -> DateFormat:
    """Return a format by its name, or one of `datetime.strptime`'s. Raises InvalidInput."""
    if name in FORMATS:
        return FORMATS[name]
    if "%" not in name:
        raise InvalidInput(
            f"no date format is named {name!r}; there are {', '.join(FORMATS)}, or a pattern such as '%d/%m/%Y %H:%M'"
        )
    try:
        dt.datetime.strptime(dt.datetime(2001, 2, 3, 4, 5, 6).strftime(name), name)  # noqa: DTZ001, DTZ007
    except ValueError as error:
        raise InvalidInput(f"the date pattern {name!r} can not be used: {error}") from error
    return DateFormat(name, _pattern(name))


def looks_like_date(text: str) -> bool:
    """Tell whether a single text is a date in one of the written forms (numbers alone do not count)."""
    text = text.strip()
    return any(_reads(each, text) for each in (ISO, DAY_FIRST, MONTH_FIRST, NAMED_MONTH))


def detect_format(texts: Iterable[str], *, option: str = "date_format") -> DateFormat:
    """
    Find the format of a column by all its texts (empty ones are left out).

    A form is taken when more than half of the texts are of it. Raises InvalidInput when none is, and when day and
    month can not be told apart; the message names `option`.
    """
    known = [text for text in (text.strip() for text in texts) if text]
    if not known:
        raise InvalidInput("the column of timestamps is empty")
    for look in (_as_numbers, _as_iso, _as_three_numbers, _as_words):
        found = look(known, option)
        if found is not None:
            return found
    shown = ", ".join(repr(text[:40]) for text in known[:3])
    raise InvalidInput(
        f"the timestamps are of no known form ({shown}, …); name it with {option}, for example '%d/%m/%Y %H:%M'"
    )


def _reads(form: DateFormat, text: str) -> bool:
    try:
        form.read_us(text, dt.UTC)
    except (ValueError, OverflowError):
        return False
    return True


def _most(form: DateFormat, texts: Sequence[str]) -> bool:
    return sum(_reads(form, text) for text in texts) * 2 > len(texts)


def _as_iso(texts: Sequence[str], option: str) -> DateFormat | None:
    del option
    return ISO if _most(ISO, texts) else None


def _as_words(texts: Sequence[str], option: str) -> DateFormat | None:
    del option
    return NAMED_MONTH if _most(NAMED_MONTH, texts) else None


def _as_numbers(texts: Sequence[str], option: str) -> DateFormat | None:
    del option
    numbers = [text for text in texts if _NUMBER.fullmatch(text)]
    if len(numbers) * 2 <= len(texts):
        return None
    lengths = {len(text) for text in numbers}
    if len(lengths) == 1 and (pattern := _COMPACT.get(lengths.pop())) is not None:
        compact = DateFormat(pattern, _pattern(pattern))
        if all(text.isdigit() and "1900" <= text[:4] <= "2199" and _reads(compact, text) for text in numbers):
            return compact
    largest = sorted(abs(float(text)) for text in numbers)[len(numbers) // 2]
    for name, below, _ in _UNITS:
        if largest < below:
            return EPOCHS[name]
    return None


def _as_three_numbers(texts: Sequence[str], option: str) -> DateFormat | None:
    found = [match for match in map(_NUMERIC.fullmatch, texts) if match is not None]
    if len(found) * 2 <= len(texts):
        return None
    day_first = next((match for match in found if int(match["a"]) > 12 >= int(match["b"])), None)
    month_first = next((match for match in found if int(match["b"]) > 12 >= int(match["a"])), None)
    if day_first and month_first:
        raise InvalidInput(
            f"some timestamps have the day first ({day_first[0]!r}) and some the month ({month_first[0]!r}); "
            f"name the right form with {option} (day-first, month-first)"
        )
    if day_first or month_first:
        return DAY_FIRST if day_first else MONTH_FIRST
    # Nobody writes a month first with dots; and where both numbers are the same nothing is to be told apart.
    if all(match["sep"] == "." or int(match["a"]) == int(match["b"]) for match in found):
        return DAY_FIRST
    raise InvalidInput(
        f"in no timestamp is the day above 12, so that day and month can not be told apart (the first is "
        f"{found[0][0]!r}); say which comes first with {option} (day-first or month-first)"
    )
