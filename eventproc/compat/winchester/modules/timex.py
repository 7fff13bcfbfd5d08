"""What winchester's users take from timex, over the platform's time expressions; stands in where timex is missing."""

from __future__ import annotations

import datetime as dt

from eventproc.model import from_datetime, to_datetime
from eventproc.registry import triggers


class TimexError(Exception):
    """Something is wrong with a time expression."""


class TimexParserError(TimexError):
    """The expression is malformed."""


class TimexExpressionError(TimexError):
    """The expression can not be evaluated: a variable has no value, or the time is out of range."""


class TimeRange:
    """A range of naive datetimes: begin ≤ t < end."""

    def __init__(self, begin: dt.datetime, end: dt.datetime) -> None:
        self.begin = begin
        self.end = end

    @property
    def timestamp(self) -> dt.datetime:
        return self.begin

    def __contains__(self, moment: dt.datetime) -> bool:
        return self.begin <= moment < self.end

    def __eq__(self, other: object) -> bool:
        return (getattr(other, "begin", None), getattr(other, "end", None)) == (self.begin, self.end)

    def __hash__(self) -> int:
        return hash((self.begin, self.end))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.begin!r}, {self.end!r})"


class Timestamp(TimeRange):
    """A moment, with the names of a range: it holds itself only."""

    def __init__(self, timestamp: dt.datetime) -> None:
        super().__init__(timestamp, timestamp)

    def __contains__(self, moment: dt.datetime) -> bool:
        return moment == self.begin


class TimeExpression:
    """A parsed expression; called with the values of its variables it returns a Timestamp or a TimeRange."""

    def __init__(self, parsed: triggers.TimeExpression) -> None:
        self.parsed = parsed

    def __call__(self, **variables: dt.datetime | Timestamp) -> TimeRange:
        """Evaluate it; `timestamp` is the present unless given. Raises TimexExpressionError."""
        variables.setdefault("timestamp", dt.datetime.now(dt.UTC))
        times = {
            name: from_datetime(value.timestamp if isinstance(value, TimeRange) else value)
            for name, value in variables.items()
        }
        try:
            if not self.parsed.is_range:
                return Timestamp(_naive(self.parsed.at(times)))
            found = self.parsed.range(times)
        except triggers.TimexError as error:
            raise TimexExpressionError(error.message) from error
        return TimeRange(_naive(found.begin_us), _naive(found.end_us))


def parse(string: str) -> TimeExpression:
    """Parse an expression. Raises TimexParserError, with the position."""
    try:
        return TimeExpression(triggers.parse(string))
    except triggers.TimexError as error:
        raise TimexParserError(error.message) from error


def _naive(time_us: int) -> dt.datetime:
    return to_datetime(time_us).replace(tzinfo=None)


__all__ = [
    "TimeExpression",
    "TimeRange",
    "Timestamp",
    "TimexError",
    "TimexExpressionError",
    "TimexParserError",
    "parse",
]
