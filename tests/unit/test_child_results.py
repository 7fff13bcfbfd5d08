"""Results become JSON or a word on why not; times are read exactly; source lines find their place."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import datetime as dt
import json
import linecache
import textwrap
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.child.failures import describe, shorten, size
from eventproc.child.loader import seed_source
from eventproc.child.results import ResultError, to_json
from eventproc.child.times import to_ns
from eventproc.sandbox.hostile import clean_text, failure_from, result_text

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
LIMITS = {
    "timeout_s": 1.0, "cpu_s": 1.0, "memory_bytes": 1 << 20, "open_files": 9, "file_bytes": 1, "result_bytes": 1,
    "output_bytes": 1,
}  # fmt: skip


@given(json_values)
def test_what_json_holds_arrives_unchanged_but_for_nul(value):
    text = result_text(to_json(value))
    text.encode()
    assert "\x00" not in json.dumps(json.loads(text), ensure_ascii=False)
    if "\\u0000" not in json.dumps(value):
        assert json.loads(text) == value


@given(st.recursive(st.none() | st.binary() | st.floats(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_anything_else_is_a_result_error_and_never_bad_json(value):
    try:
        text = to_json(value)
    except ResultError:
        return
    result_text(text)


def test_times_in_a_result_are_iso_texts_so_that_a_class_may_return_its_events():
    """As handlers of other frameworks do: what they return are the events that they were given."""
    when = dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC)
    text = to_json([{"timestamp": when, "day": when.date(), "at": when.time()}])
    assert json.loads(text) == [
        {"timestamp": "2026-01-02T03:04:05.000678Z", "day": "2026-01-02", "at": "03:04:05.000678"}
    ]


@given(st.binary(max_size=100))
def test_hostile_results_are_json_or_a_value_error(data):
    try:
        json.loads(result_text(data))
    except ValueError:
        return


@given(st.text(alphabet=st.characters()))
def test_cleaned_text_can_be_stored(text):
    cleaned = clean_text(text + "\x00\ud800")
    assert "\x00" not in cleaned
    cleaned.encode()


@pytest.mark.parametrize("claim", [5, [], "x", {}, {"kind": "lost"}, {"kind": ["exception"]}, {"kind": None}])
def test_a_failure_that_is_none_becomes_one(claim):
    found = failure_from(claim)
    assert found is not None
    assert found.kind == "sandbox"


def test_no_failure_stays_none():
    assert failure_from(None) is None


@given(st.datetimes(min_value=dt.datetime(1700, 1, 1), max_value=dt.datetime(2200, 1, 1)))  # noqa: DTZ001  naive on purpose
def test_times_are_the_same_however_they_are_written(moment):
    aware = moment.replace(tzinfo=dt.UTC)
    expected = ((aware - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)) * 1000
    assert to_ns(aware) == expected
    assert to_ns(moment) == expected
    assert to_ns(aware.isoformat()) == expected
    assert to_ns(aware.isoformat().replace("+00:00", "Z")) == expected
    assert to_ns(np.datetime64(expected, "ns")) == expected
    assert to_ns(np.int64(expected)) == expected
    assert to_ns(aware.astimezone(dt.timezone(dt.timedelta(hours=-7)))) == expected


def test_nanoseconds_in_a_string_are_kept():
    assert to_ns("1970-01-01T00:00:01.123456789Z") == 1_123_456_789
    assert to_ns("1970-01-01T02:00:01.5+02:00") == 1_500_000_000
    assert to_ns("1970-01-02") == 86_400_000_000_000


@pytest.mark.parametrize("bad", [None, True, 1.5, "soon", "2026-13-01", []])
def test_what_is_no_time_is_refused(bad):
    with pytest.raises((TypeError, ValueError)):
        to_ns(bad)


def code_of(text: str, filename: str, line: int) -> types.FunctionType:
    """Compile a function as if it stood at `line` of a file that is not here."""
    namespace: dict[str, object] = {}
    exec(compile("\n" * (line - 1) + textwrap.dedent(text), filename, "exec"), namespace)
    return next(value for value in namespace.values() if isinstance(value, types.FunctionType))


@pytest.mark.parametrize("line", [1, 40])
@pytest.mark.parametrize("prefix", ["", "@(lambda f: f)\n", "@(lambda f: f)\n@(\n    lambda f: f\n)\n"])
def test_tracebacks_show_the_lines_of_source_that_came_with_the_blob(line, prefix):
    source = f"{prefix}def handler(db):\n    x = 1\n    raise ValueError(x)  # here\n"
    handler = code_of(source, f"/nowhere/{line}-{len(prefix)}.py", line)
    seed_source(handler, source, None)
    with pytest.raises(ValueError) as caught:
        handler(None)
    described = describe(caught.value, LIMITS)
    assert "raise ValueError(x)  # here" in described["traceback"]
    linecache.clearcache()


@pytest.mark.parametrize("line", [1, 2, 3, 40])
@pytest.mark.parametrize("prefix", ["", "@(lambda c: c)\n", "@(\n    lambda c:\n    c\n)\n"])
@pytest.mark.parametrize("docstring", ["", '    """What it does."""\n\n    # why\n'])
@pytest.mark.parametrize("decorator", ["", "    @(lambda f: f)\n"])
def test_tracebacks_show_the_lines_of_a_class(line, prefix, docstring, decorator):
    methods = "def handle_events(self, events, env):\n        pass\n\n    def commit(self):\n"
    methods += "        raise ValueError  # here\n"
    source = f"{prefix}class Handler:\n{docstring}{decorator}    {methods}"
    namespace: dict[str, object] = {}
    exec(compile("\n" * (line - 1) + source, "/nowhere/class.py", "exec"), namespace)
    seed_source(namespace["Handler"], source, None)
    with pytest.raises(ValueError) as caught:
        namespace["Handler"]().commit()
    assert "raise ValueError  # here" in describe(caught.value, LIMITS)["traceback"]
    linecache.clearcache()


def test_a_whole_file_as_source_works_too():
    source = "import os\n\n\ndef other():\n    pass\n\n\ndef handler(db):\n    raise ValueError('in file')\n"
    namespace: dict[str, object] = {}
    exec(compile(source, "/nowhere/file.py", "exec"), namespace)
    seed_source(namespace["handler"], source, "/nowhere/file.py")
    assert linecache.getline("/nowhere/file.py", 9) == "    raise ValueError('in file')\n"
    linecache.clearcache()


def test_sizes_and_cuts_read_well():
    assert [size(999), size(4096), size(3 << 20), size(3 << 29)] == ["999 bytes", "4 KiB", "3 MiB", "1.5 GiB"]
    assert shorten("x" * 100, 1000) == "x" * 100
    assert "80 characters cut" in shorten("x" * 100, 20)
