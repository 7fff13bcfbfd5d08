"""Time expressions mean what timex makes of them, and where timex fails they have a meaning or a clear error."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.model import from_datetime, to_datetime
from eventproc.registry.triggers.timex import TimeRange, TimexError, UnboundVariable, parse

RECORDED = json.loads((Path(__file__).parent.parent / "data" / "timex.json").read_text())  # made with timex 0.20.0
HOUR = 3_600_000_000


def us(text: str) -> int:
    return from_datetime(dt.datetime.fromisoformat(text))


def iso(time: int) -> str:
    return to_datetime(time).replace(tzinfo=None).isoformat()


def times_at(text: str) -> dict[str, int]:
    now = us(text)
    return {
        "timestamp": now,
        "first": now - 5 * HOUR,
        "last": now + 7 * HOUR // 60,
        "launched": now - 45 * 24 * HOUR - 3 * HOUR // 60,
        **dict.fromkeys("abc", now),
    }


@pytest.mark.parametrize(("text", "results"), RECORDED["table"], ids=[row[0] or "(empty)" for row in RECORDED["table"]])
def test_gives_what_timex_gave(text: str, results: list[object]) -> None:
    for moment, recorded in zip(RECORDED["moments"], results, strict=True):
        if recorded == "error":
            with pytest.raises(TimexError):
                parse(text).range(times_at(moment))
        elif isinstance(recorded, list):
            found = parse(text).range(times_at(moment))
            assert [iso(found.begin_us), iso(found.end_us), parse(text).is_range] == recorded
        # What is left are expressions that timex itself fails on; see the next tests.


@pytest.mark.parametrize(
    ("text", "now", "begin", "end"),
    [
        ("day + 1d", "2014-08-01T01:02:00", "2014-08-02T00:00:00", "2014-08-03T00:00:00"),
        ("day - 2d", "2014-08-01T01:02:00", "2014-07-30T00:00:00", "2014-07-31T00:00:00"),
        ("day + 1d 6h", "2014-08-01T01:02:00", "2014-08-02T06:00:00", "2014-08-03T06:00:00"),
        ("hour + 1h", "2014-08-01T01:02:00", "2014-08-01T02:00:00", "2014-08-01T03:00:00"),
        ("month + 1mo", "2015-01-31T12:30:00", "2015-02-01T00:00:00", "2015-03-01T00:00:00"),
        ("year - 1y", "2016-02-29T00:00:00", "2015-01-01T00:00:00", "2016-01-01T00:00:00"),
        ("$timestamp + 1mo", "2015-01-31T12:30:00", "2015-02-28T12:30:00", None),
        ("$timestamp - 1mo", "2014-12-31T05:06:07", "2014-11-30T05:06:07", None),
        ("$timestamp + 1y", "2016-02-29T00:00:00", "2017-02-28T00:00:00", None),
        ("$timestamp + 1y 12mo", "2014-12-31T00:00:00", "2016-12-31T00:00:00", None),
        ("$timestamp @ 31d", "2015-02-03T00:00:00", "2015-02-28T00:00:00", None),
        ("$timestamp @ 2mo", "2015-01-31T00:00:00", "2015-02-28T00:00:00", None),
        ("($timestamp to $timestamp + 30s) + 5", "2015-01-01T00:00:00", "2015-01-01T00:00:00.000005", None),
    ],
)
def test_what_timex_fails_on_means_what_it_says(text: str, now: str, begin: str, end: str | None) -> None:
    found = parse(text).range(times_at(now))
    assert iso(found.begin_us) == begin
    assert end is None or iso(found.end_us) == end


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("", 0, "not the end"),
        ("day +", 5, "a duration such as 1d"),
        ("$timestamp to", 13, "not the end"),
        ("(day", 4, "closing parenthesis"),
        ("day)", 3, "does not belong here"),
        ("dya", 0, "did you mean day?"),
        ("week", 0, "there are: hour, day, month, year"),
        ("$last + 1 day", 10, "unknown unit 'day'"),
        ("$last + 1w", 9, "unknown unit 'w'"),
        ("$last + 5", 8, "say the unit of 5"),
        ("$last @ 25h", 8, "from 0 to 23"),
        ("$last + 1d; drop", 10, "';' does not belong here"),
        ("$1", 1, "the name of a variable"),
        ("day to $last", 4, "a range stands before it"),
        ("$last to day", 9, "a range follows it"),
        ("day(day)", 3, "takes a moment"),
        ("(" * 200 + "day", 50, "parentheses within each other"),
        ("$last + 99999999999999999999d", 8, "too large"),
    ],
)
def test_an_error_says_what_is_wrong_and_where(text: str, position: int, says: str) -> None:
    with pytest.raises(TimexError) as caught:
        parse(text)
    assert says in caught.value.message
    assert caught.value.details["position"] == position
    assert f"position {position}" in caught.value.message


def test_says_which_variables_it_needs() -> None:
    assert parse("($a + 1d) @ 0h to $b").variables == {"a", "b"}
    assert parse("day + 6h").variables == {"timestamp"}
    with pytest.raises(UnboundVariable, match=r"\$a has no value"):
        parse("$a").at({"b": 1})


def test_a_range_holds_its_begin_and_not_its_end() -> None:
    day = parse("day")
    times = times_at("2014-08-01T01:02:00")
    assert day.holds(us("2014-08-01T00:00:00"), times)
    assert day.holds(us("2014-08-01T23:59:59.999999"), times)
    assert not day.holds(us("2014-08-02T00:00:00"), times)
    assert parse("$timestamp").holds(times["timestamp"], times)
    assert not parse("$timestamp").holds(times["timestamp"] + 1, times)


@pytest.mark.parametrize(
    "text", ["$timestamp + 9000y", "$timestamp - 3000y", "day + 999999999d", "$timestamp - 99999999mo"]
)
def test_times_outside_of_the_calendar_are_an_error(text: str) -> None:
    with pytest.raises(TimexError, match="years 1 to 9999"):
        parse(text).at(times_at("2015-01-01T00:00:00"))


def test_a_range_made_empty_is_an_error_and_not_endless() -> None:
    with pytest.raises(TimexError, match="empty"):
        parse("hour @ 0h").at(times_at("2014-08-01T05:00:00"))


UNITS = st.sampled_from(["us", "s", "sec", "m", "min", "h", "hr", "d", "mo", "y", "yr"])
DURATIONS = st.lists(st.tuples(st.integers(0, 50), UNITS), min_size=1, max_size=3).map(
    lambda parts: " ".join(f"{number}{unit}" for number, unit in parts)
)
MOMENTS = st.recursive(
    st.sampled_from(["$timestamp", "$first", "$last"]),
    lambda inner: st.one_of(
        inner.map("({})".format),
        st.tuples(inner, st.sampled_from("+-"), DURATIONS).map(lambda parts: "{} {} {}".format(*parts)),
        inner.map("{} @ 0h 0m".format),
    ),
    max_leaves=6,
)
RANGES = st.recursive(
    st.one_of(
        st.sampled_from(["hour", "day", "month", "year"]),
        MOMENTS.map("day({})".format),
        st.tuples(MOMENTS, MOMENTS).map("({0[0]} to {0[1]})".format),
    ),
    lambda inner: st.one_of(
        inner.map("({})".format),
        st.tuples(inner, st.sampled_from("+-"), DURATIONS).map(lambda parts: "{} {} {}".format(*parts)),
        st.tuples(inner, st.integers(0, 20)).map("{0[0]} + {0[1]}".format),
    ),
    max_leaves=5,
)
NOW = st.datetimes(dt.datetime(1000, 1, 1), dt.datetime(3000, 1, 1))  # noqa: DTZ001 - of the calendar, nowhere on Earth


@given(text=MOMENTS, now=NOW)
def test_whatever_the_grammar_makes_can_be_evaluated(text: str, now: dt.datetime) -> None:
    expression = parse(text)
    assert not expression.is_range
    time = expression.at(times_at(now.isoformat()))
    assert expression.range(times_at(now.isoformat())) == TimeRange(time, time)


@given(text=RANGES, now=NOW)
def test_ranges_can_be_evaluated_and_those_of_functions_stay_in_order(text: str, now: dt.datetime) -> None:
    expression = parse(text)
    assert expression.is_range
    found = expression.range(times_at(now.isoformat()))
    assert expression.at(times_at(now.isoformat())) == found.begin_us
    if "to" not in text:
        assert found.begin_us < found.end_us


@given(now=NOW, shift=st.integers(0, 200), sign=st.sampled_from("+-"))
def test_a_pinned_range_shifted_by_a_part_of_it_holds_its_time(now: dt.datetime, shift: int, sign: str) -> None:
    times = times_at(now.isoformat())
    found = parse(f"day {sign} {shift}h").range(times)
    assert times["timestamp"] in found
    assert found.end_us - found.begin_us == 24 * HOUR
    assert (found.begin_us - (shift if sign == "+" else -shift) * HOUR) % (24 * HOUR) == 0


@given(st.text(alphabet="$+-@()to dayhrmin1230 \n", max_size=40) | st.text(max_size=30))
def test_any_text_is_parsed_or_refused_with_a_position(text: str) -> None:
    position = 0
    try:
        parse(text)
    except TimexError as error:
        position = error.details["position"]
    assert 0 <= position <= len(text)
