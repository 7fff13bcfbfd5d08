"""Graphite's protocols: every line and frame is read for what it is, and refused by itself where it is nothing."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.errors import InvalidInput
from eventproc.metrics.batch import microseconds
from eventproc.metrics.lines import parse_lines
from eventproc.metrics.names import parse_name
from eventproc.metrics.pickles import parse_frame


def samples(batch) -> list[tuple[str, float, float]]:
    rows = zip(batch.names, batch.values.tolist(), batch.seconds.tolist(), strict=True)
    return [(name.decode(), value, second) for name, value, second in rows]


def reasons(batch) -> list[tuple[str, str]]:
    return [(str(refusal.reason), refusal.metric) for refusal in batch.refusals]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"a.b 1 2\n", [("a.b", 1.0, 2.0)]),
        (b"a 1 2\r\nb 3 4\r\n", [("a", 1.0, 2.0), ("b", 3.0, 4.0)]),
        (b"a\t1   2.5\n b  -1e3 -1 \n", [("a", 1.0, 2.5), ("b", -1000.0, -1.0)]),
        (b"a;k=v 1 2", [("a;k=v", 1.0, 2.0)]),
        (b"test.metric 4.0 1386792175\n", [("test.metric", 4.0, 1386792175.0)]),
        (b"", []),
    ],
)
def test_good_lines_are_read(block, expected):
    batch = parse_lines(block)
    assert samples(batch) == expected
    assert batch.refusals == []


@pytest.mark.parametrize(
    ("line", "reason", "metric"),
    [
        (b"a 1", "unreadable", ""),
        (b"a 1 2 3", "unreadable", ""),
        (b"GET / HTTP/1.1 x", "unreadable", ""),
        (b"\x80\x02]q\x01", "unreadable", ""),
        (b"", "unreadable", ""),
        (b"a x 2", "bad value", "a"),
        (b"a 1_000 2", "bad value", "a"),
        (b"a 0x10 2", "bad value", "a"),
        (b"a 1 now", "bad time", "a"),
        (b"a 1 1_0", "bad time", "a"),
        (b"\xff\0 x 2", "bad value", "\\xff\0"),
        (b"a" * 5000 + b" 1", "too long", ""),
    ],
)
def test_a_bad_line_is_refused_and_its_neighbours_are_not(line, reason, metric):
    batch = parse_lines(b"first 1 1\n" + line + b"\nlast 2 2\n")
    assert samples(batch) == [("first", 1.0, 1.0), ("last", 2.0, 2.0)]
    assert reasons(batch) == [(reason, metric)]
    assert batch.refusals[0].line == 1
    assert batch.lines is not None
    assert batch.lines.tolist() == [0, 2]


words = st.binary(min_size=1, max_size=6).filter(lambda word: not set(word) & set(b" \t\n\r\x0b\x0c"))
tokens = st.one_of(words, st.sampled_from([b"1", b"2.5", b"nan", b"-1", b"\0", b"1_0", b"a.b", b"inf"]))


@given(st.lists(st.lists(tokens, max_size=5), max_size=8))
def test_the_quick_way_reads_what_the_slow_way_reads(lines):
    """A block is read as its lines would be one by one."""
    block = b"".join(b" ".join(line) + b"\n" for line in lines)
    whole = parse_lines(block)
    apart = [parse_lines(b" ".join(line) + b"\n") for line in lines]
    assert repr(samples_raw(whole)) == repr([row for batch in apart for row in samples_raw(batch)])
    assert len(whole.names) + len(whole.refusals) == len(lines)


def samples_raw(batch) -> list[tuple[bytes, float, float]]:
    return list(zip(batch.names, batch.values.tolist(), batch.seconds.tolist(), strict=True))


# ------------------------------------------------------------------------------------------------ pickle


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_are_read(protocol):
    batch = parse_frame(pickle.dumps([("a.b", (10, 1.5)), ["c;k=v", [11.25, 2]], ("d", ("12", "3"))], protocol))
    assert samples(batch) == [("a.b", 1.5, 10.0), ("c;k=v", 2.0, 11.25), ("d", 3.0, 12.0)]
    assert batch.refusals == []


def test_what_is_no_sample_in_a_pickle_is_refused_alone():
    items = [("a", (1, 1)), ("b", (1, "x")), ("c", (None, 1)), (1, (1, 1)), "word", ("d", 5), ("e", (2, 2))]
    batch = parse_frame(pickle.dumps(items))
    assert [name for name, _, _ in samples(batch)] == ["a", "e"]
    assert reasons(batch) == [
        ("bad value", "b"),
        ("bad time", "c"),
        ("unreadable", ""),
        ("unreadable", ""),
        ("unreadable", ""),
    ]


class _Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_that_name_a_class_are_refused(protocol, capsys):
    batch = parse_frame(pickle.dumps([("a", (1, _Evil()))], protocol))
    assert samples(batch) == []
    assert reasons(batch) == [("unreadable", "")]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"garbage",
        pickle.dumps(5),
        pickle.dumps({"a": 1}),
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",  # bytes of an exabyte
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0f.",  # a bytearray of an exabyte
        b"\x80\x04]\x94(h\0h\0e" + b"h\0a" * 10 + b".",  # a list of itself
        b"(" * 1000 + b".",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04P1\n.",
    ],
)
def test_hostile_pickles_do_nothing(frame):
    batch = parse_frame(frame)
    assert samples(batch) == []
    assert batch.refusals


def test_a_memo_with_room_for_four_billion_costs_nothing():
    batch = parse_frame(b"\x80\x04]r\xff\xff\xff\xff.")
    assert (batch.names, batch.refusals) == ([], [])


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(frame):
    batch = parse_frame(frame)
    assert len(batch.names) == len(batch.values) == len(batch.seconds)


# ------------------------------------------------------------------------------------------------ names and times


def test_the_order_of_tags_does_not_matter():
    left = parse_name("disk.used;rack=a1;datacenter=dc1")
    assert left == parse_name("disk.used;datacenter=dc1;rack=a1")
    assert left.name == "disk.used;datacenter=dc1;rack=a1"
    assert left.tags == {"datacenter": "dc1", "rack": "a1"}
    assert parse_name("plain.name").tags == {}


@pytest.mark.parametrize(
    "name",
    ["", "a b", "ä", "a\x7f", "a\0", "x" * 513, ";k=v", "a;k", "a;=v", "a;k=", "a;", "a;k!=v", "a;k=~v"],
)
def test_names_that_are_none_say_why(name):
    with pytest.raises(InvalidInput):
        parse_name(name)


def test_times_are_exact_to_the_microsecond():
    given_s = [1700000000.123457, 0.0, -1.0, 1386288000.021, -5.0, math.nan, 1.7e12, math.inf]
    times, bad = microseconds(np.array(given_s), now_us=77)
    assert times.tolist()[:4] == [1_700_000_000_123_457, 0, 77, 1_386_288_000_021_000]
    assert bad.tolist() == [False, False, False, False, True, True, True, True]
