"""
JSON paths with the grammar of jsonpath-rw 1.x, which event definitions are written in.

    path = name {"," name} | "*" | "[" index "]" | "[" from ":" to "]" | "[*]" | "[" name {"," name} "]" | "$"
         | "`this`" | "`parent`" | "(" path ")" | path "[" … "]"
         | path ".." path | path "." path | path "|" path | path "where" path        (from weakest to strongest)

Names that hold other characters than letters, digits, _, @ and - are quoted: `image_meta.'org.openstack__1__os'`.
`|` binds stronger than `.`: write `(payload.a)|(payload.b)`. Plain paths, nearly all there are, are followed without
any of the machinery that the others need.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from eventproc.errors import InvalidInput

_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_@][A-Za-z0-9_@-]*)|(?P<number>-?[0-9]+)|(?P<sign>\.\.|[*.\[\]()$,:|&])"
    r"|'(?P<single>(?:[^'\\]|\\.)*)'|\"(?P<double>(?:[^\"\\]|\\.)*)\"|`(?P<named>[^`]*)`|(?P<end>\Z)|(?P<bad>.))",
    re.DOTALL,
)
_PRECEDENCE = {"..": 1, ".": 2, "|": 3, "&": 4, "where": 5}
_MAX_DEPTH = 50


class PathError(InvalidInput):
    """The JSON path is malformed; `details` has its position."""


@dataclass(frozen=True, slots=True)
class Found:
    """A place in a document: its value, and how it was reached."""

    value: Any
    step: str = ""
    parent: Found | None = None

    @property
    def path(self) -> str:
        """The way from the root, joined by dots."""
        steps: list[str] = []
        place: Found | None = self
        while place is not None and place.parent is not None:
            steps.append(place.step)
            place = place.parent
        return ".".join(reversed(steps))

    def child(self, step: str, value: Any) -> Found:
        return Found(value, step, self)


class _Node(Protocol):
    def find(self, place: Found) -> list[Found]: ...


@dataclass(frozen=True, slots=True)
class _Fields:
    names: tuple[str, ...]

    def find(self, place: Found) -> list[Found]:
        value = place.value
        if not isinstance(value, Mapping):
            return []
        names = value.keys() if "*" in self.names else self.names
        return [place.child(name, value[name]) for name in names if name in value]


@dataclass(frozen=True, slots=True)
class _Index:
    index: int

    def find(self, place: Found) -> list[Found]:
        if not isinstance(place.value, list | str) or not -len(place.value) <= self.index < len(place.value):
            return []
        return [place.child(f"[{self.index}]", place.value[self.index])]


@dataclass(frozen=True, slots=True)
class _Slice:
    start: int | None
    end: int | None

    def find(self, place: Found) -> list[Found]:
        if place.value is None:
            return []
        # What is no list counts as a list of one.
        values = place.value if isinstance(place.value, list) else [place.value]
        return [place.child(f"[{at}]", values[at]) for at in range(len(values))[self.start : self.end]]


@dataclass(frozen=True, slots=True)
class _Root:
    def find(self, place: Found) -> list[Found]:
        while place.parent is not None:
            place = place.parent
        return [place]


@dataclass(frozen=True, slots=True)
class _This:
    def find(self, place: Found) -> list[Found]:
        return [place]


@dataclass(frozen=True, slots=True)
class _Parent:
    def find(self, place: Found) -> list[Found]:
        return [] if place.parent is None else [place.parent]


@dataclass(frozen=True, slots=True)
class _Child:
    left: _Node
    right: _Node

    def find(self, place: Found) -> list[Found]:
        return [below for found in self.left.find(place) for below in self.right.find(found)]


@dataclass(frozen=True, slots=True)
class _Descendants:
    left: _Node
    right: _Node

    def find(self, place: Found) -> list[Found]:
        return [below for found in self.left.find(place) for below in self._below(found)]

    def _below(self, place: Found) -> Iterator[Found]:
        yield from self.right.find(place)
        if isinstance(place.value, Mapping):
            for name, value in place.value.items():
                yield from self._below(place.child(name, value))
        elif isinstance(place.value, list):
            for at, value in enumerate(place.value):
                yield from self._below(place.child(f"[{at}]", value))


@dataclass(frozen=True, slots=True)
class _Union:
    left: _Node
    right: _Node

    def find(self, place: Found) -> list[Found]:
        return self.left.find(place) + self.right.find(place)


@dataclass(frozen=True, slots=True)
class _Where:
    left: _Node
    right: _Node

    def find(self, place: Found) -> list[Found]:
        return [found for found in self.left.find(place) if self.right.find(found)]


_SIMPLE: dict[str, _Node] = {"*": _Fields(("*",)), "$": _Root(), "`this`": _This(), "`parent`": _Parent()}
_OPERATORS: dict[str, Callable[[_Node, _Node], _Node]] = {
    ".": _Child,
    "..": _Descendants,
    "|": _Union,
    "where": _Where,
}


class JsonPath:
    """A parsed path."""

    __slots__ = ("_chains", "_node", "text")

    def __init__(self, text: str, node: _Node) -> None:
        self.text = text
        self._node = node
        chains = _chains(node)
        self._chains = None if chains is None else tuple((names, ".".join(names)) for names in chains)

    def find(self, document: Any) -> list[tuple[str, Any]]:
        """Return (path, value) of everything that the path leads to and that is not null, in its order."""
        if self._chains is None:
            found = self._node.find(Found(document))
            return [(place.path, place.value) for place in found if place.value is not None]
        pairs = ((path, _follow(names, document)) for names, path in self._chains)
        return [(path, value) for path, value in pairs if value is not None]

    def first(self, document: Any) -> Any:
        """Return the first value that is not null, else None."""
        if self._chains is None:
            return next((place.value for place in self._node.find(Found(document)) if place.value is not None), None)
        for names, _ in self._chains:
            value = _follow(names, document)
            if value is not None:
                return value
        return None


def _follow(names: tuple[str, ...], document: Any) -> Any:
    for name in names:
        if type(document) is not dict:  # what JSON is parsed into
            return None
        document = document.get(name)
    return document


def _chains(node: _Node) -> list[tuple[str, ...]] | None:
    """Return the plain paths that the node is a union of; None if it is anything else."""
    if isinstance(node, _Union):
        left, right = _chains(node.left), _chains(node.right)
        return None if left is None or right is None else left + right
    if isinstance(node, _Root):
        return [()]
    if isinstance(node, _Fields):
        return [node.names] if len(node.names) == 1 and node.names[0] != "*" else None
    if isinstance(node, _Child):
        left, right = _chains(node.left), _chains(node.right)
        if left is None or right is None or len(left) != 1 or len(right) != 1 or isinstance(node.right, _Root):
            return None
        return [left[0] + right[0]]
    return None


@lru_cache(maxsize=4096)
def parse(text: str) -> JsonPath:
    """Parse a path. Raises PathError."""
    return JsonPath(text, _Parser(text).parse())


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # name, number, named, end, or the sign itself
    value: Any
    at: int


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        value, at = match[kind], match.start(kind)
        if kind in ("single", "double"):
            yield _Token("name", re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL), at - 1)
        elif kind in ("sign", "bad") or (kind == "name" and value == "where"):
            yield _Token(value, value, at)
        else:
            yield _Token(kind, int(value) if kind == "number" else value, at)
        if kind == "end":
            return


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0

    def parse(self) -> _Node:
        node = self._binary(1)
        if self._peek.kind != "end":
            raise self._error(f"{self._peek.value!r} does not belong here")
        return node

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, kind: str | None = None) -> _Token:
        token = self._peek
        if kind is not None and token.kind != kind:
            raise self._error(f"{kind!r} is expected")
        if token.kind != "end":
            self._next += 1
        return token

    def _error(self, reason: str, token: _Token | None = None) -> PathError:
        at = (token or self._peek).at
        return PathError(f"path {self._text!r}, position {at}: {reason}", position=at)

    def _binary(self, weakest: int) -> _Node:
        left = self._postfix()
        while (precedence := _PRECEDENCE.get(self._peek.kind, 0)) >= weakest:
            operator = self._take()
            if operator.kind == "&":
                raise self._error("& has no meaning; neither has it in stackdistiller", operator)
            right = self._binary(precedence + 1)
            left = _OPERATORS[operator.kind](left, right)
        return left

    def _postfix(self) -> _Node:
        node = self._primary()
        while self._peek.kind == "[":
            node = _Child(node, self._brackets())
        return node

    def _primary(self) -> _Node:
        token = self._peek
        if token.kind == "[":
            return self._brackets()
        self._take()
        if token.kind == "(":
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise self._error(f"more than {_MAX_DEPTH} parentheses within each other", token)
            node = self._binary(1)
            self._take(")")
            self._depth -= 1
            return node
        if token.kind == "name":
            return self._names(token)
        simple = _SIMPLE.get(f"`{token.value}`" if token.kind == "named" else token.kind)
        if simple is None:
            raise self._error("a name, *, $, [ or ( is expected", token)
        return simple

    def _names(self, first: _Token) -> _Fields:
        names = [first.value]
        while self._peek.kind == ",":
            self._take()
            names.append(self._take("name").value)
        return _Fields(tuple(names))

    def _brackets(self) -> _Node:
        self._take("[")
        node: _Node
        if self._peek.kind == "*":
            self._take()
            node = _Slice(None, None)
        elif self._peek.kind == "name":
            node = self._names(self._take())
        else:
            start = self._take().value if self._peek.kind == "number" else None
            if self._peek.kind == ":":
                self._take()
                node = _Slice(start, self._take().value if self._peek.kind == "number" else None)
            elif start is None:
                raise self._error("a number, a slice such as 1:3, * or a name is expected")
            else:
                node = _Index(start)
        self._take("]")
        return node
