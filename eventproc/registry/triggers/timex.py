"""
Time expressions such as `$last + 1d`, `day($launched_at) + 6h` and `($begin + 1d) @ 0h 0m`, with the grammar of timex.

    expression = moment | range
    moment     = "$" name | "(" moment ")" | moment ("+" | "-" | "@") duration
    range      = moment "to" moment | function [ "(" moment ")" ] | "(" range ")" | range ("+" | "-" | "@") duration
    function   = hour | day | month | year
    duration   = one or more of: number unit; for ranges the unit may be left out
    unit       = us s sec m min h hr d mo y yr

`to` binds weakest; the others apply to what stands left of them, one after another. `@` replaces parts of the date. A
range holds its begin, not its end. A function's range is pinned to its argument: shifted by less than its own length
it is moved on by whole lengths until it holds that time again, so at 01:02 `day + 6h` began yesterday at 06:00.
A number without unit counts the unit below the range's length: hours of a day, days of a month.

An expression is parsed once and evaluated on `int` microseconds since 1970 UTC. Where a month has no such day, its last
one is meant. Source of the grammar: the package timex 0.20; what it fails on (`day + 1d`, months of unequal length,
an expression that ends early) has a meaning or an error with its position here.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Protocol

from eventproc.errors import InvalidInput
from eventproc.model import from_datetime, to_datetime

MAX_LENGTH = 1000  # characters of one expression
_MAX_DIGITS = 15
_MAX_DEPTH = 50

_SECOND = 1_000_000
_SIZES = {"day": 86_400 * _SECOND, "hour": 3600 * _SECOND, "minute": 60 * _SECOND, "second": _SECOND, "microsecond": 1}
_LONG = {"year": 365 * _SIZES["day"], "month": 28 * _SIZES["day"], **_SIZES}
_ORDER = tuple(_LONG)  # from the largest
_UNITS = {
    "us": "microsecond",
    "s": "second",
    "sec": "second",
    "m": "minute",
    "min": "minute",
    "h": "hour",
    "hr": "hour",
    "d": "day",
    "mo": "month",
    "y": "year",
    "yr": "year",
}
_FUNCTIONS = ("hour", "day", "month", "year")
_LIMITS = {
    "year": (1, 9999),
    "month": (1, 12),
    "day": (1, 31),
    "hour": (0, 23),
    "minute": (0, 59),
    "second": (0, 59),
    "microsecond": (0, 999_999),
}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>[-+@$()])|(?P<bad>\S)|(?P<end>$))"
)

# What a datetime can show: the years 1 to 9999.
_MIN_US = -62_135_596_800_000_000
_MAX_US = 253_402_300_799_999_999

Times = Mapping[str, int]


class TimexError(InvalidInput):
    """
    The time expression is malformed, or can not be evaluated.

    `details` has the expression, and the position (from 0) where it is malformed.
    """


class UnboundVariable(TimexError):
    """A variable of the expression has no value."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From `begin_us`, inclusive, to `end_us`, exclusive."""

    begin_us: int
    end_us: int

    def __contains__(self, time_us: int) -> bool:
        return self.begin_us <= time_us < self.end_us


@dataclass(frozen=True, slots=True)
class _Range:
    begin: int
    end: int
    pin: int | None = None


@dataclass(frozen=True, slots=True)
class _Duration:
    """Amounts by unit; months and years, and the amount without unit, need to know what they are applied to."""

    parts: tuple[tuple[str, int], ...]
    unknown: int | None = None
    fixed: int = field(init=False)  # microseconds
    months: int = field(init=False)

    def __post_init__(self) -> None:
        amounts = dict(self.parts)
        months = amounts.get("year", 0) * 12 + amounts.get("month", 0)
        object.__setattr__(self, "fixed", sum(_SIZES.get(unit, 0) * amount for unit, amount in self.parts))
        object.__setattr__(self, "months", months)

    def within(self, length: int) -> _Duration:
        """Give the amount without unit the one below that length."""
        if self.unknown is None:
            return self
        above = ["year", "month", "day", "hour", "minute"]
        larger = next((unit for unit in above if abs(length) >= _LONG[unit]), "second")
        unit = _ORDER[_ORDER.index(larger) + 1]
        amounts = dict(self.parts)
        amounts[unit] = amounts.get(unit, 0) + self.unknown
        return _Duration(tuple(amounts.items()))

    def smaller_than_one(self, unit: str) -> bool:
        """Compare by the largest unit only, as timex does: 36h is smaller than a day, 1d is not."""
        if not self.parts:
            return True
        largest, amount = min(self.parts, key=lambda part: _ORDER.index(part[0]))
        return _ORDER.index(largest) > _ORDER.index(unit) or (largest == unit and amount < 1)

    def added_to(self, time: int, sign: int) -> int:
        moved = time + sign * self.fixed
        return _add_months(moved, sign * self.months) if self.months else moved

    def replaced_in(self, time: int) -> int:
        now = to_datetime(_in_range(time))
        wanted = dict(self.parts)
        year, month = wanted.get("year", now.year), wanted.get("month", now.month)
        wanted["day"] = min(wanted.get("day", now.day), calendar.monthrange(year, month)[1])
        return from_datetime(now.replace(**wanted))  # type: ignore[arg-type]  # the keys are the units of _LIMITS


def _in_range(time: int) -> int:
    if not _MIN_US <= time <= _MAX_US:
        raise TimexError("the time lies outside of the years 1 to 9999")
    return time


def _add_months(time: int, months: int) -> int:
    now = to_datetime(_in_range(time))
    year, month = divmod(now.year * 12 + now.month - 1 + months, 12)
    if not 1 <= year <= 9999:
        raise TimexError("the time lies outside of the years 1 to 9999")
    day = min(now.day, calendar.monthrange(year, month + 1)[1])
    return from_datetime(now.replace(year=year, month=month + 1, day=day))


class _Moment(Protocol):
    def at(self, times: Times) -> int: ...


class _Span(Protocol):
    @property
    def unit(self) -> str | None: ...

    def range(self, times: Times) -> _Range: ...


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str

    def at(self, times: Times) -> int:
        try:
            return times[self.name]
        except KeyError:
            raise UnboundVariable(f"${self.name} has no value here", variable=self.name) from None


@dataclass(frozen=True, slots=True)
class _Shift:
    base: _Moment
    duration: _Duration
    sign: int

    def at(self, times: Times) -> int:
        return self.duration.added_to(self.base.at(times), self.sign)


@dataclass(frozen=True, slots=True)
class _Replace:
    base: _Moment
    duration: _Duration

    def at(self, times: Times) -> int:
        return self.duration.replaced_in(self.base.at(times))


@dataclass(frozen=True, slots=True)
class _Between:
    begin: _Moment
    end: _Moment
    unit: str | None = None

    def range(self, times: Times) -> _Range:
        return _Range(self.begin.at(times), self.end.at(times))


@dataclass(frozen=True, slots=True)
class _Function:
    unit: str
    argument: _Moment

    def range(self, times: Times) -> _Range:
        time = self.argument.at(times)
        size = _SIZES.get(self.unit)
        if size is not None:
            begin = time - time % size
            return _Range(begin, begin + size, time)
        now = to_datetime(_in_range(time))
        first = now.replace(month=now.month if self.unit == "month" else 1, day=1, hour=0, minute=0, second=0)
        begin = from_datetime(first.replace(microsecond=0))
        return _Range(begin, _add_months(begin, 1 if self.unit == "month" else 12), time)


@dataclass(frozen=True, slots=True)
class _ChangedSpan:
    """A range whose ends are both shifted (sign 1 or -1) or replaced (sign 0)."""

    base: _Span
    duration: _Duration
    sign: int

    @property
    def unit(self) -> str | None:
        unit = self.base.unit
        return unit if unit is not None and self.duration.smaller_than_one(unit) else None

    def range(self, times: Times) -> _Range:
        before = self.base.range(times)
        duration = self.duration.within(before.end - before.begin)
        if self.sign:
            begin, end = duration.added_to(before.begin, self.sign), duration.added_to(before.end, self.sign)
        else:
            begin, end = duration.replaced_in(before.begin), duration.replaced_in(before.end)
        if before.pin is None or self.unit is None:
            return _Range(begin, end)
        return _pinned(begin, end, before.pin)


def _pinned(begin: int, end: int, pin: int) -> _Range:
    """Move a range by whole lengths until it holds `pin`."""
    length = end - begin
    if length <= 0:
        raise TimexError("the range is empty, so it can not be moved to where it holds the time it was made for")
    begin += (pin - begin) // length * length
    return _Range(begin, begin + length, pin)


class TimeExpression:
    """A parsed expression: a moment, or a range if `is_range`. `variables` names what has to have a value."""

    __slots__ = ("_moment", "_span", "is_range", "text", "variables")

    def __init__(self, text: str, *, moment: _Moment | None, span: _Span | None, variables: frozenset[str]) -> None:
        self.text = text
        self.variables = variables
        self.is_range = span is not None
        self._moment = moment
        self._span = span

    def __repr__(self) -> str:
        return f"TimeExpression({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TimeExpression) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def at(self, times: Times) -> int:
        """Return the moment, or the begin of the range. Raises TimexError."""
        if self._moment is not None:
            return _in_range(self._moment.at(times))
        return self.range(times).begin_us

    def range(self, times: Times) -> TimeRange:
        """Return the range; of a moment, one that begins and ends there and holds nothing. Raises TimexError."""
        if self._span is None:
            moment = self.at(times)
            return TimeRange(moment, moment)
        found = self._span.range(times)
        return TimeRange(_in_range(found.begin), _in_range(found.end))

    def holds(self, time_us: int, times: Times) -> bool:
        """Tell whether `time_us` is that moment, or within the range. Raises TimexError."""
        if self._span is None:
            return time_us == self.at(times)
        return time_us in self.range(times)


@lru_cache(maxsize=4096)
def parse(text: str) -> TimeExpression:
    """Parse an expression. Raises TimexError, with the position in `details`."""
    if not isinstance(text, str):
        raise TimexError(f"a time expression is a text such as '$last + 1d', not {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise TimexError(f"a time expression of {len(text):,} characters; at most {MAX_LENGTH:,}")
    return _Parser(text).expression()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        found.append(_Token(kind, match[kind], match.start(kind)))
        if kind == "end":
            break
    return found


_Node = tuple[_Moment | None, _Span | None]


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0
        self._variables: set[str] = set()

    def expression(self) -> TimeExpression:
        moment, span = self._to()
        if self._peek.kind != "end":
            raise self._error(f"{self._peek} does not belong here; + - @ or 'to' may follow")
        return TimeExpression(self._text, moment=moment, span=span, variables=frozenset(self._variables))

    # ------------------------------------------------------------------ tokens

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _error(self, reason: str, token: _Token | None = None) -> TimexError:
        at = (token or self._peek).at
        text = self._text if len(self._text) <= 100 else self._text[:97] + "..."
        return TimexError(
            f"time expression {text!r}, position {at}: {reason}", expression=self._text, position=at, reason=reason
        )

    # ------------------------------------------------------------------ grammar

    def _to(self) -> _Node:
        begin, span = self._changed()
        if self._peek.text != "to":
            return begin, span
        token = self._take()
        if begin is None:
            raise self._error("'to' stands between two moments, and a range stands before it", token)
        start = self._peek
        end, span = self._changed()
        if end is None:
            raise self._error("'to' stands between two moments, and a range follows it", start)
        if self._peek.text == "to":
            raise self._error("a range has one 'to' only")
        return None, _Between(begin, end)

    def _changed(self) -> _Node:
        moment, span = self._primary()
        while self._peek.text in ("+", "-", "@"):
            sign = self._take().text
            duration = self._duration(replaces=sign == "@", of_range=span is not None)
            direction = {"+": 1, "-": -1, "@": 0}[sign]
            if span is not None:
                span = _ChangedSpan(span, duration, direction)
            elif moment is not None:
                moment = _Shift(moment, duration, direction) if direction else _Replace(moment, duration)
        return moment, span

    def _primary(self) -> _Node:
        token = self._take()
        if token.text == "(":
            return self._parenthesis(token)
        if token.text == "$":
            name = self._take()
            if name.kind != "name":
                raise self._error(f"the name of a variable is expected after $, not {name}", name)
            self._variables.add(name.text)
            return _Variable(name.text), None
        if token.kind == "name" and token.text not in _UNITS and token.text != "to":
            return None, self._function(token)
        raise self._error(f"a variable such as $timestamp or a function such as day is expected, not {token}", token)

    def _parenthesis(self, token: _Token) -> _Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error(f"more than {_MAX_DEPTH} parentheses within each other", token)
        inner = self._to()
        if self._peek.text != ")":
            raise self._error(f"a closing parenthesis is expected, not {self._peek}")
        self._take()
        self._depth -= 1
        return inner

    def _function(self, token: _Token) -> _Span:
        if token.text not in _FUNCTIONS:
            near = get_close_matches(token.text, _FUNCTIONS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(_FUNCTIONS)}"
            raise self._error(f"unknown function {token.text!r}; {hint}", token)
        if self._peek.text != "(":
            self._variables.add("timestamp")
            return _Function(token.text, _Variable("timestamp"))
        opening = self._take()
        moment, _ = self._parenthesis(opening)
        if moment is None:
            raise self._error(f"{token.text}() takes a moment, and a range stands in it", opening)
        return _Function(token.text, moment)

    def _duration(self, *, replaces: bool, of_range: bool) -> _Duration:
        amounts: dict[str, int] = {}
        unknown: int | None = None
        first = self._peek
        while self._peek.kind == "number":
            number = self._take()
            if len(number.text) > _MAX_DIGITS:
                raise self._error("that number is too large", number)
            amount = int(number.text)
            if (unit := _UNITS.get(self._peek.text)) is not None:
                self._take()
                amounts[unit] = amounts.get(unit, 0) + amount
            elif self._peek.kind == "name" and self._peek.text != "to":
                raise self._error(f"unknown unit {self._peek}; there are: {', '.join(_UNITS)} (as in 6h 30m)")
            elif not of_range:
                raise self._error(
                    f"say the unit of {amount}: only ranges do without; there are: {', '.join(_UNITS)}", number
                )
            else:
                unknown = amount + (unknown or 0)
        if self._peek is first:
            raise self._error(f"a duration such as 1d or 6h 30m is expected, not {first}")
        if replaces:
            self._check_replacement(amounts, first)
        return _Duration(tuple(amounts.items()), unknown)

    def _check_replacement(self, amounts: Mapping[str, int], token: _Token) -> None:
        for unit, amount in amounts.items():
            lowest, highest = _LIMITS[unit]
            if not lowest <= amount <= highest:
                raise self._error(f"@ sets the {unit}, which goes from {lowest} to {highest}, not {amount}", token)
