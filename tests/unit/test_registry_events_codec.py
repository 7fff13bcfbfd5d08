"""Payloads as canonical JSON, and the digest of their content."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.codec.events import content_digest, payload_json
from eventproc.errors import InvalidPayload, TooLarge

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)
payloads = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values, max_size=5)


@given(payloads)
def test_a_payload_reads_back_the_same(payload):
    assert json.loads(payload_json(payload)) == payload


@given(payloads)
def test_the_order_of_members_makes_no_difference(payload):
    turned = dict(reversed(payload.items()))
    assert payload_json(turned) == payload_json(payload)
    assert payload_json(payload).encode()  # can be stored


@pytest.mark.parametrize(
    ("payload", "path", "reason"),
    [
        ({"a": [1, float("nan")]}, "$.a[1]", "nan"),
        ({"a": float("inf")}, "$.a", "inf"),
        ({"a": {"b c": float("-inf")}}, "$.a['b c']", "-inf"),
        ({"a": {"b": "x\ud800"}}, "$.a.b", "lone surrogate"),
        ({"a": {"\udfff": 1}}, "$.a", "lone surrogate"),
        ({"a": {1: 2}}, "$.a", "1 is no text"),
        ({None: 2}, "$", "None is no text"),
        ({"a": {1, 2}}, "$.a", "set"),
        ({"a": b"x"}, "$.a", "bytes"),
        ({"a": 10**5000}, "$.a", "too many digits"),
        ([1], "$", "list"),
        ("x", "$", "str"),
        (None, "$", "NoneType"),
    ],
)
def test_what_json_can_not_hold_is_refused_with_its_path(payload, path, reason):
    with pytest.raises(InvalidPayload) as caught:
        payload_json(payload)
    assert caught.value.details["path"] == path
    assert reason in caught.value.message


def test_endless_and_very_deep_payloads_are_refused():
    endless: dict[str, object] = {}
    endless["self"] = endless
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for payload in (endless, {"a": deep}):
        with pytest.raises(InvalidPayload, match="nested deeper than 64"):
            payload_json(payload)


def test_a_payload_over_the_limit_is_refused_with_both_numbers():
    assert payload_json({"a": "x" * 92}, max_bytes=100)
    with pytest.raises(TooLarge, match=r"101 bytes.*limit is 100"):
        payload_json({"a": "x" * 93}, max_bytes=100)
    with pytest.raises(TooLarge, match="102 bytes"):  # bytes count, not characters
        payload_json({"a": "ä" * 47}, max_bytes=100)


def test_nul_travels_as_an_escape():
    assert payload_json({"a": "\x00"}) == '{"a":"\\u0000"}'


def test_the_digest_covers_what_the_sender_said():
    base = {"hook": "h", "payload_json": "{}"}
    variants = [
        base,
        {**base, "hook": "i"},
        {**base, "payload_json": '{"a":1}'},
        {**base, "tags": ("a",)},
        {**base, "tags": ("a", "b")},
        {**base, "tags": ("a,b",)},
        {**base, "key": "k"},
        {**base, "key": ""},
        {**base, "source": "k"},
        {**base, "time_us": 1},
    ]
    digests = [content_digest(**variant) for variant in variants]
    assert len(set(digests)) == len(variants)
    assert all(len(digest) == 64 for digest in digests)
    assert content_digest(**base, tags=("b", "a")) == content_digest(**base, tags=("a", "b"))
