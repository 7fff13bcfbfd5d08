"""
Filters on payloads, written as the dict patterns that EventBridge made known.

A pattern is a dict that mirrors the payload. Each member holds either a further pattern or a list of alternatives:

    {"state": ["failed", "lost"]}                      one of these values
    {"metric": {"name": [{"prefix": "web."}]}}         a path, each step a dict ("metric.name" as one key works too)
    {"value": [{"numeric": [">", 0, "<=", 5]}]}        comparisons; all must hold
    {"host": [{"anything-but": ["a", "b"]}]}           anything else, if it is there
    {"error": [{"exists": false}]}                     the member is missing
    {"path": [{"wildcard": "/data/*/raw"}]}            `*` stands for any characters; also suffix, equals-ignore-case
    {"$or": [{"a": [1]}, {"b": [2]}]}                  one of these patterns

All members must match. Where the payload has a list, one matching element is enough; a pattern below a list of
dicts must match within one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from eventproc.errors import InvalidInput

Test = Callable[[Any], bool]

MAX_DEPTH = 32
MAX_TESTS = 1000
_MISSING: Any = object()


class FilterError(InvalidInput):
    """The filter is malformed."""


def check_filter(pattern: Any) -> None:
    """Raise InvalidInput, naming the place, unless `pattern` is a filter."""
    compile_filter(pattern)


def matches(pattern: Mapping[str, Any], payload: Any) -> bool:
    """Tell whether the payload matches; to use a pattern often, compile it once."""
    return compile_filter(pattern)(payload)


def compile_filter(pattern: Any) -> Test:
    """Turn a pattern into a function of the payload."""
    return _Compiler().pattern(pattern, "filter", 0)


def _fail(where: str, text: str) -> FilterError:
    return FilterError(f"{where}: {text}", path=where)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(left: Any, right: Any) -> bool:
    # 1 == True in Python, but not in JSON.
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


class _Compiler:
    def __init__(self) -> None:
        self.tests = 0

    def pattern(self, pattern: Any, where: str, depth: int) -> Test:
        if not isinstance(pattern, Mapping):
            raise _fail(where, f"a pattern is a dict such as {{'state': ['failed']}}, not {type(pattern).__name__}")
        if not pattern:
            raise _fail(where, "an empty dict says nothing; leave it out")
        if depth > MAX_DEPTH:
            raise _fail(where, f"nested deeper than {MAX_DEPTH} levels")
        tests = [self._member(key, value, where, depth) for key, value in pattern.items()]
        return _all_of(tests)

    def _member(self, key: Any, value: Any, where: str, depth: int) -> Test:
        if not isinstance(key, str) or not key:
            raise _fail(where, f"the key {key!r} is no name of a member")
        here = f"{where}.{key}"
        if key == "$or":
            return self._alternatives_of_patterns(value, here, depth)
        if key.startswith("$"):
            raise _fail(here, "the only key with $ is $or")
        if isinstance(value, Mapping):
            return _below(key, self.pattern(value, here, depth + 1))
        if isinstance(value, list | tuple):
            return self._alternatives(key, value, here)
        raise _fail(here, f"write the alternatives as a list: [{value!r}]")

    def _alternatives_of_patterns(self, value: Any, where: str, depth: int) -> Test:
        if not isinstance(value, list | tuple) or not value:
            raise _fail(where, "takes a list of patterns")
        tests = [self.pattern(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
        return lambda payload: any(test(payload) for test in tests)

    def _alternatives(self, key: str, value: Any, where: str) -> Test:
        if not value:
            raise _fail(where, "the list of alternatives is empty, so nothing could match")
        self.tests += len(value)
        if self.tests > MAX_TESTS:
            raise _fail(where, f"more than {MAX_TESTS} alternatives in one filter")
        absent = any(isinstance(item, Mapping) and item.get("exists") is False for item in value)
        tests = [_value_test(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return _leaf(key, tests, absent=absent)


def _all_of(tests: list[Test]) -> Test:
    if len(tests) == 1:
        only = tests[0]
        return lambda payload: isinstance(payload, Mapping) and only(payload)
    return lambda payload: isinstance(payload, Mapping) and all(test(payload) for test in tests)


def _resolve(payload: Any, key: str) -> list[Any]:
    """Return the values under `key`, which may be a dotted path when there is no member of that very name."""
    value = payload.get(key, _MISSING)
    if value is not _MISSING:
        return [value]
    found = [payload] if "." in key else []
    for step in key.split(".") if found else ():
        found = [node[step] for item in found for node in _each(item) if isinstance(node, Mapping) and step in node]
    return found


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _below(key: str, test: Test) -> Test:
    return lambda payload: any(test(item) for value in _resolve(payload, key) for item in _each(value))


def _leaf(key: str, tests: list[Test], *, absent: bool) -> Test:
    def check(payload: Any) -> bool:
        values = _resolve(payload, key)
        if not values:
            return absent
        return any(test(item) for value in values for item in _each(value) for test in tests)

    def exists_in_empty_list(payload: Any) -> bool:
        # `exists` asks for the member, and an empty list is one.
        return check(payload) or (bool(values := _resolve(payload, key)) and any(test(values[0]) for test in tests))

    return exists_in_empty_list if any(getattr(test, "on_member", False) for test in tests) else check


def _value_test(item: Any, where: str) -> Test:
    if isinstance(item, Mapping):
        if len(item) != 1:
            raise _fail(where, f"one operator per dict, here are {len(item)}")
        ((name, argument),) = item.items()
        make = _OPERATORS.get(name)
        if make is None:
            raise _fail(where, f"unknown operator {name!r}; there are: {', '.join(sorted(_OPERATORS))}")
        return make(argument, f"{where}.{name}")
    if not _is_scalar(item):
        raise _fail(
            where, f"an alternative is a text, number, true, false, null or operator, not {type(item).__name__}"
        )
    return lambda value: _same(value, item)


def _text(argument: Any, where: str) -> str:
    if not isinstance(argument, str) or not argument:
        raise _fail(where, f"takes a text, not {argument!r}")
    return argument


def _affix(method: str) -> Callable[[Any, str], Test]:
    def make(argument: Any, where: str) -> Test:
        if isinstance(argument, Mapping):
            if set(argument) != {"equals-ignore-case"}:
                raise _fail(where, 'takes a text or {"equals-ignore-case": text}')
            folded = _text(argument["equals-ignore-case"], f"{where}.equals-ignore-case").casefold()
            return lambda value: isinstance(value, str) and bool(getattr(value.casefold(), method)(folded))
        text = _text(argument, where)
        return lambda value: isinstance(value, str) and bool(getattr(value, method)(text))

    return make


def _ignore_case(argument: Any, where: str) -> Test:
    folded = _text(argument, where).casefold()
    return lambda value: isinstance(value, str) and value.casefold() == folded


def _wildcard(argument: Any, where: str) -> Test:
    text = _text(argument, where)
    if "**" in text:
        raise _fail(where, "two * side by side mean no more than one")
    # Each piece is looked for behind the one before it, so that no pattern can take more than linear time.
    pieces = [piece.replace("\0", "*") for piece in re.sub(r"\\\*", "\0", text).split("*")]
    if len(pieces) == 1:
        return lambda value: isinstance(value, str) and value == pieces[0]
    head, *middle, tail = pieces

    def test(value: Any) -> bool:
        if not (isinstance(value, str) and value.startswith(head) and value.endswith(tail)):
            return False
        at, end = len(head), len(value) - len(tail)
        for piece in middle:
            at = value.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return at <= end

    return test


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda left, right: bool(left == right),
    "!=": lambda left, right: bool(left != right),
    "<": lambda left, right: bool(left < right),
    "<=": lambda left, right: bool(left <= right),
    ">": lambda left, right: bool(left > right),
    ">=": lambda left, right: bool(left >= right),
}


def _numeric(argument: Any, where: str) -> Test:
    if not isinstance(argument, list | tuple) or not argument or len(argument) % 2:
        raise _fail(where, 'takes pairs of comparison and number, such as [">", 0, "<=", 5]')
    tests = []
    for index in range(0, len(argument), 2):
        sign, bound = argument[index], argument[index + 1]
        if not isinstance(sign, str) or sign not in _COMPARE:
            raise _fail(f"{where}[{index}]", f"{sign!r} is none of {' '.join(_COMPARE)}")
        if not _is_number(bound):
            raise _fail(f"{where}[{index + 1}]", f"{bound!r} is no number")
        tests.append((_COMPARE[sign], bound))
    return lambda value: _is_number(value) and all(compare(value, bound) for compare, bound in tests)


def _exists(argument: Any, where: str) -> Test:
    if not isinstance(argument, bool):
        raise _fail(where, "takes true or false")

    def test(_value: Any) -> bool:
        return argument

    test.on_member = True  # type: ignore[attr-defined]
    return test


def _anything_but(argument: Any, where: str) -> Test:
    if isinstance(argument, Mapping):
        inner = _anything_but_operator(argument, where)
        return lambda value: not inner(value)
    values = list(argument) if isinstance(argument, list | tuple) else [argument]
    if not values or not all(_is_scalar(value) for value in values):
        raise _fail(where, "takes a value, a list of values, or an operator on texts")
    return lambda value: not any(_same(value, other) for other in values)


def _anything_but_operator(argument: Mapping[str, Any], where: str) -> Test:
    if len(argument) != 1 or (name := next(iter(argument))) not in _TEXT_OPERATORS:
        raise _fail(where, f"takes one of the operators {', '.join(sorted(_TEXT_OPERATORS))}")
    texts = argument[name]
    if isinstance(texts, list | tuple):
        if not texts:
            raise _fail(where, f"the list of {name} is empty")
        tests = [_TEXT_OPERATORS[name](text, f"{where}.{name}[{index}]") for index, text in enumerate(texts)]
        return lambda value: any(test(value) for test in tests)
    return _TEXT_OPERATORS[name](texts, f"{where}.{name}")


_TEXT_OPERATORS: dict[str, Callable[[Any, str], Test]] = {
    "prefix": _affix("startswith"),
    "suffix": _affix("endswith"),
    "equals-ignore-case": _ignore_case,
    "wildcard": _wildcard,
}
_OPERATORS: dict[str, Callable[[Any, str], Test]] = {
    **_TEXT_OPERATORS,
    "numeric": _numeric,
    "exists": _exists,
    "anything-but": _anything_but,
}
