"""Frames survive any cut of the stream, and nothing but a frame is taken for one."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.child.frames import HEAD, Decoder, FrameError, pack

headers = st.dictionaries(st.sampled_from("tabcxyz"), st.none() | st.integers() | st.text(), max_size=4)
bodies = st.lists(st.binary(max_size=50), max_size=4)


@given(st.lists(st.tuples(headers, bodies), max_size=6), st.lists(st.integers(1, 40), min_size=1))
def test_frames_come_back_however_the_stream_is_cut(frames, cuts):
    stream = b"".join(pack(header, parts) for header, parts in frames)
    decoder, found, at = Decoder(), [], 0
    while at < len(stream):
        size = cuts[at % len(cuts)]
        decoder.feed(stream[at : at + size])
        at += size
        while (frame := decoder.next()) is not None:
            found.append(frame)
    assert len(found) == len(frames)
    for (header, parts), (got_header, got_parts) in zip(frames, found, strict=True):
        assert {key: value for key, value in got_header.items() if key != "n"} == json.loads(json.dumps(header))
        assert b"".join(got_parts) == b"".join(parts)
        if len(parts) > 1:
            assert got_parts == parts


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_awaited_but_never_anything_else(data):
    decoder = Decoder(max_header=100, max_body=100)
    decoder.feed(data)
    try:
        while (frame := decoder.next()) is not None:
            assert isinstance(frame[0], dict)
    except FrameError:
        return


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"nul",
        b'"x"',
        b"\xff\xff",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"n":[1]}',
        b'{"n":[-1,1]}',
        b'{"n":5}',
        b'{"n":[true]}',
        b'{"n":[1e999]}',
    ],
)
def test_a_bad_header_is_refused(header):
    decoder = Decoder()
    decoder.feed(HEAD.pack(len(header), 0) + header)
    with pytest.raises(FrameError):
        decoder.next()


def test_sizes_over_the_cap_are_refused_before_anything_is_kept():
    decoder = Decoder(max_header=10, max_body=10)
    decoder.feed(HEAD.pack(11, 0))
    with pytest.raises(FrameError, match="11"):
        decoder.next()


def test_a_header_with_lone_surrogates_is_sent_escaped():
    decoder = Decoder()
    decoder.feed(pack({"a": "\ud800"}))
    frame = decoder.next()
    assert frame is not None
    assert frame[0] == {"a": "\\ud800"} or frame[0] == {"a": "\ud800"}
