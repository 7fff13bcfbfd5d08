"""Date formats are found by looking at all rows; what can not be told is an error that names the way out."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.errors import InvalidInput
from eventproc.scoring.dates import detect_format, format_named

MOMENT = dt.datetime(2014, 4, 21, 13, 5, 7, tzinfo=dt.UTC)
WHOLE = int(MOMENT.timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2014-04-21 13:05:07", "iso"),
        ("2014-04-21T13:05:07Z", "iso"),
        ("2014-04-21T15:05:07+02:00", "iso"),
        ("2014-04-21 13:05:07 UTC", "iso"),
        ("2014-04-21 08:05:07 -0500", "iso"),
        ("2014/04/21 13:05:07", "iso"),
        ("2014-4-21 13:05:07.000", "iso"),
        ("20140421T130507", "iso"),
        ("20140421130507", "%Y%m%d%H%M%S"),
        ("21/04/2014 13:05:07", "day-first"),
        ("21-04-14 13:05:07", "day-first"),
        ("04/21/2014 13:05:07", "month-first"),
        ("4/21/14 1:05:07 PM", "month-first"),
        ("21.04.2014 13:05:07", "day-first"),
        ("21-Apr-2014 13:05:07", "month-name"),
        ("Mon, 21 Apr 2014 13:05:07 +0000", "month-name"),
        ("[21/Apr/2014:13:05:07 +0000]", "month-name"),
        ("Apr 21, 2014 1:05:07 PM", "month-name"),
        ("21 April 2014 13:05:07", "month-name"),
        ("Mon Apr 21 13:05:07 2014", "month-name"),
        ("1398085507", "epoch-s"),
        ("1398085507.0", "epoch-s"),
        ("1398085507000", "epoch-ms"),
        ("1398085507000000", "epoch-us"),
        ("1398085507000000000", "epoch-ns"),
    ],
)
def test_one_moment_in_many_forms(text, name):
    form = detect_format([text])
    assert form.name == name
    assert form.read_us(text, dt.UTC) == WHOLE


def test_a_time_without_zone_is_of_the_column_s_zone():
    form = detect_format(["2014-07-01 12:00:00"])
    assert form.read_us("2014-07-01 12:00:00", ZoneInfo("Europe/Berlin")) == form.read_us(
        "2014-07-01T10:00:00Z", dt.UTC
    )


def test_the_last_of_many_rows_decides_between_day_and_month():
    rows = [f"0{day}/04/2014 00:00" for day in range(1, 10)]
    with pytest.raises(InvalidInput, match=r"--date-format \(day-first or month-first\)"):
        detect_format(rows, option="--date-format")
    assert detect_format([*rows, "13/04/2014 00:00"]).name == "day-first"
    assert detect_format([*rows, "04/13/2014 00:00"]).name == "month-first"


def test_contradicting_rows_are_an_error_that_shows_both():
    with pytest.raises(InvalidInput, match=r"'13/04/2014'.*'04/13/2014'"):
        detect_format(["13/04/2014", "04/13/2014", "01/01/2014"])


def test_where_both_readings_agree_nothing_is_ambiguous():
    assert detect_format(["01/01/2014", "02/02/2014"]).read_us("02/02/2014", dt.UTC) == 1391299200000000


def test_no_known_form_names_the_option():
    with pytest.raises(InvalidInput, match="name it with --date-format"):
        detect_format(["yesterday", "today"], option="--date-format")


def test_a_few_broken_texts_do_not_hide_the_form():
    assert detect_format(["2014-04-01", "rubbish", "2014-04-02"]).name == "iso"


@pytest.mark.parametrize("name", ["isoo", "%Q"])
def test_unknown_names_and_patterns_are_refused(name):
    with pytest.raises(InvalidInput):
        format_named(name).read_us("2014", dt.UTC)


@given(st.integers(31_536_000, 4_102_444_800), st.sampled_from("/-."))
def test_every_day_above_the_twelfth_is_read_back_from_both_orders(seconds, mark):
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    for order, name in (("%d{0}%m{0}%Y %H:%M:%S", "day-first"), ("%m{0}%d{0}%Y %H:%M:%S", "month-first")):
        text = moment.strftime(order.format(mark))
        if moment.day > 12:
            form = detect_format([text])
            assert form.name == name
            assert form.read_us(text, dt.UTC) == seconds * 1_000_000


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_and_nothing_else(text):
    for name in ("iso", "day-first", "month-first", "month-name", "epoch-s", "epoch-ns"):
        try:
            assert isinstance(format_named(name).read_us(text, dt.UTC), int)
        except (ValueError, OverflowError):
            continue
