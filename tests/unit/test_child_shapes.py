"""How much JSON a text holds is found out without making objects of it, whatever its strings pretend."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.child import shapes
from eventproc.child.frames import FrameError, pack
from eventproc.sandbox.hostile import HostileDecoder, result_text

texts = st.text(alphabet='ab"\\[]{},: é😀', max_size=12)
values = st.recursive(
    st.none() | st.integers() | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=30
)


def count(value):
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count, inside))


def depth(value):
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)


@given(values, st.booleans(), st.integers(1, 20))
def test_a_text_is_refused_exactly_for_what_is_in_it(value, escaped, piece):
    text = json.dumps(value, ensure_ascii=escaped).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "MAX_VALUES", 10)
        patch.setattr(shapes, "MAX_DEPTH", 2)
        patch.setattr(shapes, "PIECE", piece)
        refusal = shapes.too_much(text)
        if count(value) > 10:
            assert refusal == "more than 10 JSON values"
        elif 2 * count(value) <= 10:  # an empty list counts twice
            assert refusal == ("JSON that is nested deeper than 2 levels" if depth(value) > 2 else None)


@given(st.binary(max_size=400))
def test_any_bytes_can_be_looked_at(data):
    shapes.too_much(data * 3)


def test_what_strings_hold_does_not_count():
    text = json.dumps({"text": '[{,"\\' * 400_000}).encode()
    assert shapes.too_much(text) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[" + b"[]," * 130_000 + b"[]]", "250,000 JSON values"),
        (b"[" + b"0," * 260_000 + b"0]", "250,000 JSON values"),
        (b'{"a":' + b'{"b":0},' * 260_000, "250,000 JSON values"),
        (b"[" * 300 + b"]" * 300, "220 levels"),
        (b'{"a":' * 300 + b"0" + b"}" * 300, "220 levels"),
        (b"[" * 1_000_000, "250,000 JSON values"),
    ],
)
def test_too_much_is_refused_in_headers_and_results(text, says):
    refusal = shapes.too_much(text)
    assert refusal is not None
    assert says in refusal
    decoder = HostileDecoder(1 << 20)
    decoder.feed(len(text).to_bytes(4, "little") + bytes(4) + text)
    with pytest.raises(FrameError, match=says):
        decoder.next()
    with pytest.raises(ValueError, match=says):
        result_text(text)


def test_a_header_in_another_encoding_is_refused():
    text = '{"t":"left"}'.encode("utf-16")
    decoder = HostileDecoder(1 << 20)
    decoder.feed(len(text).to_bytes(4, "little") + bytes(4) + text)
    with pytest.raises(FrameError, match="not JSON"):
        decoder.next()


def test_what_no_database_can_hold_is_escaped_in_headers():
    decoder = HostileDecoder(1 << 20)
    decoder.feed(pack({"a": ["x\x00y", "\ud800"], "\x00": 1}))
    frame = decoder.next()
    assert frame is not None
    assert frame[0] == {"a": ["x\\x00y", "\\ud800"], "\\x00": 1}
