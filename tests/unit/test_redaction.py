"""Values of secrets are taken out of texts, JSON and streams of output, however they are written."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.engine.redaction import MIN_LENGTH, RedactedStreams, Redactor

VALUE = "pä55/wörd+\"x'\\ & more\nlast"
PLAIN = Redactor({"TOKEN": "tok-3nAbCdEf", "PIN": "246813"})


@pytest.mark.parametrize(
    "written",
    [
        VALUE,
        json.dumps(VALUE)[1:-1],
        json.dumps(VALUE, ensure_ascii=False)[1:-1],
        repr(VALUE)[1:-1],
        repr(VALUE.encode())[2:-1],
        quote(VALUE),
        quote(VALUE, safe=""),
        quote_plus(VALUE),
        quote(VALUE, safe="").lower().replace("%c3%a4", "%c3%a4"),
        base64.b64encode(VALUE.encode()).decode(),
        base64.urlsafe_b64encode(VALUE.encode()).decode().rstrip("="),
        VALUE.encode().hex(),
    ],
)
def test_a_value_is_found_in_every_form_that_common_tools_give_it(written):
    assert Redactor({"PASSWORD": VALUE}).text(f"before{written}after") == "before***PASSWORD***after"


@pytest.mark.parametrize("around", range(6))
def test_base64_of_a_longer_text_does_not_show_the_value_inside(around):
    whole = base64.b64encode(b"u" * around + b":tok-3nAbCdEf:" + b"v" * around).decode()
    clean = PLAIN.text(f"Authorization: Basic {whole}")
    assert "***TOKEN***" in clean
    pieces = clean.removeprefix("Authorization: Basic ").split("***TOKEN***")
    assert sum(map(len, pieces)) <= len(whole) - len("tok-3nAbCdEf") * 8 // 6 + 2


def test_other_texts_stay_as_they_are():
    for text in ("", "tok-3nAbCdE", "nothing to see", "***TOKEN***"):
        assert PLAIN.text(text) == text
    assert Redactor({}).text("anything") == "anything"
    assert not Redactor({"SHORT": "x" * (MIN_LENGTH - 1)})


def test_of_two_values_one_inside_the_other_the_longer_one_is_named():
    redactor = Redactor({"A": "abcd", "B": "abcdefgh"})
    assert redactor.text("abcdefgh abcdef") == "***B*** ***A***ef"


def test_a_value_read_from_a_file_is_found_without_its_line_break_too():
    assert Redactor({"TOKEN": "tok-3nAbCdEf\n"}).text("<tok-3nAbCdEf>") == "<***TOKEN***>"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a":"x tok-3nAbCdEf"}', {"a": "x ***TOKEN***"}),
        ('{"tok-3nAbCdEf":1.50}', {"***TOKEN***": 1.5}),
        ('{"pin":246813,"n":[1,2.5,true,null,-3e2]}', {"pin": "***PIN***", "n": [1, 2.5, True, None, -300.0]}),
        ("246813", "***PIN***"),
        (r'"\u0074ok\u002d3nAbCdEf"', "***TOKEN***"),
        ('"\\"quoted\\" \\\\ and tok-3nAbCdEf"', '"quoted" \\ and ***TOKEN***'),
    ],
)
def test_json_stays_json(before, after):
    assert json.loads(PLAIN.json(before)) == after


def test_json_without_a_value_stays_as_it_was_written():
    text = '{"big": 1e999, "n": 1.10, "s": "a\\/b \\u00e4"}'
    assert PLAIN.json(text) == text


def test_json_nested_to_any_depth_is_cleaned():
    text = "[" * 5000 + '"tok-3nAbCdEf"' + "]" * 5000
    assert "tok-3nAbCdEf" not in PLAIN.json(text)


def test_a_value_that_is_json_itself_is_not_shown_as_the_object_that_it_means():
    redactor = Redactor({"ACCOUNT": '{"user":"me","key":"k1"}'})
    assert json.loads(redactor.json('{"user":"me","key":"k1"}')) == "***ACCOUNT***"


@given(
    st.text(alphabet='abC\n%"\\é ', min_size=MIN_LENGTH, max_size=30),
    st.lists(st.text(alphabet='abC\n%"\\é ', max_size=10), max_size=4),
    st.data(),
)
def test_in_whatever_pieces_output_comes_no_value_comes_through(value, around, data):
    redactor = Redactor({"S": value})
    text = value.join(around) if around else value
    streams, shown, at = RedactedStreams(redactor), "", 0
    while at < len(text):
        size = data.draw(st.integers(1, len(text) - at))
        shown += streams.feed("stdout", text[at : at + size])
        at += size
    rest = dict(streams.rest()).get("stdout", "")
    if redactor:
        assert value not in shown.replace("***S***", "\0") + rest.replace("***S***", "\0")
    else:
        assert shown + rest == text


def test_the_streams_of_a_run_do_not_mix():
    streams = RedactedStreams(PLAIN)
    assert streams.feed("stdout", "a tok-3n") == "a "
    assert streams.feed("stderr", "AbCdEf\n") == "AbCdEf\n"
    assert streams.feed("stdout", "AbCdEf\n") == "***TOKEN***\n"
    assert streams.rest() == []


def test_what_only_began_like_a_value_is_shown_in_the_end():
    streams = RedactedStreams(PLAIN)
    assert streams.feed("stdout", "tok-3n") == ""
    assert streams.rest() == [("stdout", "tok-3n")]


def test_where_the_platform_cut_a_text_no_half_of_a_value_stays():
    cut = "message tok-3nAb\n[... 123 characters cut ...]\nAbCdEf end"
    assert PLAIN.text(cut) == "message ***TOKEN***\n[... 123 characters cut ...]\n***TOKEN*** end"
    streams = RedactedStreams(PLAIN)
    shown = streams.feed("stdout", "x tok-3nAb") + streams.feed("stdout", "\n[cut here: the limit]\n")
    assert shown == "x ***TOKEN***\n[cut here: the limit]\n"
