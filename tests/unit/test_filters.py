"""Filters on payloads."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.errors import InvalidInput
from eventproc.registry.filters import check_filter, matches

PAYLOAD = {
    "state": "failed",
    "value": 3,
    "ratio": 0.5,
    "ok": True,
    "none": None,
    "metric": {"name": "web.requests", "tags": {"dc": "east"}},
    "hosts": ["a", "b"],
    "empty": [],
    "results": [{"anomaly": 0.2, "ts": 1}, {"anomaly": 0.9999, "ts": 2}],
    "a.b": "dotted",
}


@pytest.mark.parametrize(
    "pattern",
    [
        {"state": ["failed", "lost"]},
        {"value": [3]},
        {"value": [3.0]},
        {"ok": [True]},
        {"none": [None]},
        {"state": ["failed"], "value": [3]},
        {"metric": {"name": ["web.requests"]}},
        {"metric.name": ["web.requests"]},
        {"metric.tags.dc": [{"prefix": "ea"}]},
        {"a.b": ["dotted"]},
        {"hosts": ["b"]},
        {"results": {"anomaly": [{"numeric": [">", 0.99]}]}},
        {"results.anomaly": [{"numeric": [">", 0.99]}]},
        {"results": {"anomaly": [{"numeric": [">", 0.99]}], "ts": [2]}},
        {"state": [{"prefix": "fa"}]},
        {"state": [{"suffix": "ed"}]},
        {"state": [{"prefix": {"equals-ignore-case": "FA"}}]},
        {"state": [{"equals-ignore-case": "FAILED"}]},
        {"state": [{"wildcard": "f*e*"}]},
        {"state": [{"wildcard": "failed"}]},
        {"state": [{"anything-but": "lost"}]},
        {"state": [{"anything-but": ["lost", 3]}]},
        {"state": [{"anything-but": {"prefix": "lo"}}]},
        {"state": [{"anything-but": {"wildcard": ["l*", "g*"]}}]},
        {"value": [{"numeric": [">", 0, "<=", 3]}]},
        {"value": [{"numeric": ["=", 3]}]},
        {"value": [{"numeric": ["!=", 4]}]},
        {"value": [{"exists": True}]},
        {"none": [{"exists": True}]},
        {"empty": [{"exists": True}]},
        {"missing": [{"exists": False}]},
        {"metric": {"missing": [{"exists": False}]}},
        {"missing": [{"exists": False}, "x"]},
        {"$or": [{"state": ["x"]}, {"value": [3]}]},
        {"metric": {"$or": [{"name": ["x"]}, {"tags": {"dc": ["east"]}}]}},
    ],
)
def test_a_pattern_matches_what_it_describes(pattern):
    assert matches(pattern, PAYLOAD)


@pytest.mark.parametrize(
    "pattern",
    [
        {"state": ["lost"]},
        {"value": ["3"]},
        {"value": [True]},
        {"ok": [1]},
        {"ok": [{"numeric": ["=", 1]}]},
        {"none": [False]},
        {"missing": [None]},
        {"missing": [{"anything-but": "x"}]},
        {"state": ["failed"], "value": [4]},
        {"metric": ["web.requests"]},
        {"metric.nothing": ["x"]},
        {"state": {"deeper": ["x"]}},
        {"hosts": ["c"]},
        {"empty": ["x"]},
        # The two conditions hold in different rows only.
        {"results": {"anomaly": [{"numeric": [">", 0.99]}], "ts": [1]}},
        {"state": [{"prefix": "x"}]},
        {"value": [{"prefix": "3"}]},
        {"state": [{"wildcard": "f*x*"}]},
        {"state": [{"wildcard": "fai"}]},
        {"state": [{"anything-but": ["failed"]}]},
        {"state": [{"anything-but": {"suffix": "ed"}}]},
        {"state": [{"numeric": [">", 0]}]},
        {"value": [{"numeric": [">", 3]}]},
        {"value": [{"exists": False}]},
        {"missing": [{"exists": True}]},
        {"$or": [{"state": ["x"]}, {"value": [4]}]},
    ],
)
def test_a_pattern_does_not_match_anything_else(pattern):
    assert not matches(pattern, PAYLOAD)


@pytest.mark.parametrize(
    ("pattern", "place", "hint"),
    [
        ([], "filter", "a pattern is a dict"),
        ({}, "filter", "an empty dict"),
        ({"a": "x"}, "filter.a", "['x']"),
        ({"a": []}, "filter.a", "empty"),
        ({"a": {"b": 3}}, "filter.a.b", "[3]"),
        ({"a": [["x"]]}, "filter.a[0]", "list"),
        ({"a": [{"prefx": "x"}]}, "filter.a[0]", "unknown operator 'prefx'"),
        ({"a": [{"prefix": "x", "suffix": "y"}]}, "filter.a[0]", "one operator"),
        ({"a": [{"prefix": 3}]}, "filter.a[0].prefix", "takes a text"),
        ({"a": [{"prefix": ""}]}, "filter.a[0].prefix", "takes a text"),
        ({"a": [{"numeric": [">"]}]}, "filter.a[0].numeric", "pairs"),
        ({"a": [{"numeric": ["~", 1]}]}, "filter.a[0].numeric[0]", "'~'"),
        ({"a": [{"numeric": [">", "1"]}]}, "filter.a[0].numeric[1]", "no number"),
        ({"a": [{"numeric": [">", True]}]}, "filter.a[0].numeric[1]", "no number"),
        ({"a": [{"exists": "yes"}]}, "filter.a[0].exists", "true or false"),
        ({"a": [{"anything-but": []}]}, "filter.a[0].anything-but", "takes"),
        ({"a": [{"anything-but": {"numeric": [">", 1]}}]}, "filter.a[0].anything-but", "one of the operators"),
        ({"a": [{"wildcard": "a**b"}]}, "filter.a[0].wildcard", "side by side"),
        ({"$or": {}}, "filter.$or", "list of patterns"),
        ({"$or": [{"a": "x"}]}, "filter.$or[0].a", "['x']"),
        ({"$and": []}, "filter.$and", "$or"),
        ({3: ["x"]}, "filter", "no name"),
        ({"a": list(range(2000))}, "filter.a", "1000"),
    ],
)
def test_a_malformed_pattern_is_refused_with_its_place_and_what_to_write(pattern, place, hint):
    with pytest.raises(InvalidInput) as caught:
        check_filter(pattern)
    assert caught.value.details["path"] == place
    assert caught.value.message.startswith(place)
    assert hint in caught.value.message


def test_a_pattern_nested_without_end_is_refused():
    pattern: dict[str, Any] = {"a": ["x"]}
    for _ in range(100):
        pattern = {"a": pattern}
    with pytest.raises(InvalidInput, match="nested deeper"):
        check_filter(pattern)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)
payloads = st.dictionaries(st.text(max_size=8), json_values, max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(payloads, json_values)
def test_whatever_is_given_as_a_pattern_is_refused_or_gives_an_answer(payload, pattern):
    try:
        check_filter(pattern)
    except InvalidInput:
        return
    assert matches(pattern, payload) in (True, False)


@given(st.text(min_size=1).filter(lambda name: not name.startswith("$")), scalars, payloads)
def test_a_member_matches_exactly_its_own_value(name, value, payload):
    assert matches({name: [value]}, {**payload, name: value})


@given(st.text(min_size=1).filter(lambda name: not name.startswith("$")), scalars, scalars)
def test_anything_but_is_the_opposite_of_the_exact_match(name, value, other):
    payload = {name: value}
    assert matches({name: [{"anything-but": [other]}]}, payload) is not matches({name: [other]}, payload)


@given(st.lists(st.text(alphabet="ab*", max_size=6).filter(lambda text: text and "**" not in text)), st.text("ab"))
def test_wildcards_agree_with_regular_expressions(patterns, text):
    import re

    for pattern in patterns:
        expected = re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), text, re.DOTALL) is not None
        assert matches({"a": [{"wildcard": pattern}]}, {"a": text}) is expected


@given(st.floats(allow_nan=False), st.floats(allow_nan=False, allow_infinity=False))
def test_numeric_comparisons_are_those_of_numbers(value, bound):
    for sign, expected in (("<", value < bound), (">=", value >= bound), ("=", value == bound)):
        assert matches({"a": [{"numeric": [sign, bound]}]}, {"a": value}) is expected


def test_a_long_text_against_many_wildcards_takes_linear_time():
    pattern = {"a": [{"wildcard": "*".join("a" * 400) + "*b"}]}
    assert not matches(pattern, {"a": "a" * 200_000})


def test_filters_survive_json():
    pattern = {"metric.name": [{"prefix": "web"}], "value": [{"numeric": [">", math.pi]}]}
    assert matches(json.loads(json.dumps(pattern)), {"metric": {"name": "web"}, "value": 4})
