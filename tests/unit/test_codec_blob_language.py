"""What Python's classes and libraries can do still works after the journey."""

from __future__ import annotations

import abc
import collections
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import logging
import operator
import pathlib
import queue
import random
import re
import string
import threading
import types
import typing
import uuid
import weakref

import numpy as np
import pytest
from clean_python import call_blob

from eventproc.codec.blob import pack

CASES: dict[str, tuple[typing.Any, typing.Any]] = {}


def case(expected):
    """Note a handler and what it must return over there."""

    def note(handler):
        CASES[handler.__name__] = (handler, expected)
        return handler

    return note


@contextlib.contextmanager
def managed(x):
    yield x + 1


@case(2)
def context_managers(db):
    with managed(1) as y:
        return y


@functools.singledispatch
def kind_of(x):
    return "object"


@kind_of.register
def _(x: int):
    return "int"


@kind_of.register(str)
def _of_text(x):
    return "str"


@case(["int", "str", "object"])
def single_dispatch(db):
    return kind_of(1), kind_of("x"), kind_of(1.0)


@functools.total_ordering
class Ordered:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x == other.x

    def __lt__(self, other):
        return self.x < other.x

    __hash__ = object.__hash__


@case([True, True])
def orderings(db):
    return Ordered(1) <= Ordered(2), Ordered(2) > Ordered(1)


DIGITS = re.compile(r"\d+")
DAY = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
PRICE = decimal.Decimal("1.5")
PATH = pathlib.PurePosixPath("/x")
UID = uuid.UUID(int=5)
SECOND = operator.itemgetter(1)
THIRD = fractions.Fraction(1, 3)
TEMPLATE = string.Template("$a")


@case([["12"], "2020-01-01T00:00:00+00:00", "1.5", "/x", str(uuid.UUID(int=5)), 2, "1/3", "v"])
def values_of_the_standard_library(db):
    texts = [DIGITS.findall("a12"), DAY.isoformat(), str(PRICE), str(PATH), str(UID), SECOND([1, 2]), str(THIRD)]
    return [*texts, TEMPLATE.substitute(a="v")]


class Auto(enum.Enum):
    A = enum.auto()
    B = enum.auto()

    @classmethod
    def first(cls):
        return cls.A


class Bits(enum.Flag):
    X = enum.auto()
    Y = enum.auto()
    XY = X | Y


class Alias(enum.Enum):
    ONE = 1
    UNO = 1  # noqa: PIE796 - an alias


class Text(str, enum.Enum):  # noqa: UP042 - people write it
    K = "k"


@case([1, "XY", True, True, ["ONE", "UNO"], True, ["A", "B"]])
def kinds_of_enums(db):
    same = (Bits.X | Bits.Y) is Bits.XY
    return (
        Auto.first().value,
        Bits.XY.name,
        same,
        Alias.UNO is Alias.ONE,
        list(Alias.__members__),
        Text.K == "k",
        [a.name for a in Auto],
    )


@typing.runtime_checkable
class Goes(typing.Protocol):
    def go(self) -> int: ...


class Goer:
    def go(self):
        return 1


@case([True, False])
def protocols(db):
    return isinstance(Goer(), Goes), isinstance(3, Goes)


@dataclasses.dataclass
class Parent:
    x: int


@dataclasses.dataclass(order=True)
class Child(Parent):
    y: Parent | None = None

    def __post_init__(self):
        self.z = self.x


@case([1, True, "Child(x=1, y=None)"])
def inherited_dataclasses(db):
    return Child(1, Parent(2)).z, Child(1) < Child(2), repr(Child(1))


class Outer:
    class Inner:
        v = 4

    @property
    def p(self):
        return self._p

    @p.setter
    def p(self, value):
        self._p = value * 2

    def __class_getitem__(cls, key):
        return key


@case([4, 6, "q", "Outer.Inner"])
def nested_classes_and_properties(db):
    o = Outer()
    o.p = 3
    return Outer.Inner.v, o.p, Outer["q"], Outer.Inner.__qualname__


class Abstract(abc.ABC):  # noqa: B024 - only registered with
    pass


Abstract.register(int)


@case(True)
def virtual_subclasses(db):
    return isinstance(3, Abstract)


DEFAULTS = collections.defaultdict(list)
DEFAULTS["a"].append(1)
ORDERED = collections.OrderedDict(a=1)
DEQUE = collections.deque([1], maxlen=3)
COUNTER = collections.Counter("aab")
CHAIN = collections.ChainMap({"a": 1})
SPACE = types.SimpleNamespace(a=1)
FROZEN = types.MappingProxyType({"a": 1})
WEAK: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


@case([{"a": [1], "b": [2]}, {"a": 1}, [1], 2, 1, 1, 1, 0])
def collections_of_all_kinds(db):
    DEFAULTS["b"].append(2)
    return dict(DEFAULTS), dict(ORDERED), list(DEQUE), COUNTER["a"], CHAIN["a"], SPACE.a, FROZEN["a"], len(WEAK)


RNG = np.random.default_rng(1)
DICE = random.Random(3)
FIRST = (int(np.random.default_rng(1).integers(1000)), random.Random(3).random())


@case(list(FIRST))
def generators_keep_their_state(db):
    return int(RNG.integers(1000)), DICE.random()


EVENT = threading.Event()
QUEUE: queue.Queue = queue.Queue()


@case([False, 1])
def threads_tools(db):
    QUEUE.put(1)
    return EVENT.is_set(), QUEUE.get()


class Node:
    def __init__(self):
        self.me = self
        self.kids = [self]


NODE = Node()


@case([True, True])
def cycles(db):
    return NODE.me is NODE, NODE.kids[0] is NODE


class Single:
    instance = None

    def __new__(cls):
        if cls.instance is None:
            cls.instance = super().__new__(cls)
        return cls.instance


ONLY = Single()


@case(True)
def singletons(db):
    return Single() is ONLY


def repeated(n):
    def outer(function):
        @functools.wraps(function)
        def inner(*args):
            return [function(*args)] * n

        return inner

    return outer


@repeated(2)
def doubled(x):
    return x


class Quiet(contextlib.ContextDecorator):
    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        return False


@Quiet()
def in_quiet():
    return 5


@case([[3, 3], 5])
def decorators(db):
    return doubled(3), in_quiet()


@case([1, [2]])
def pattern_matching(db):
    match {"a": [1, 2]}:
        case {"a": [x, *rest]}:
            return x, rest


Bound = typing.TypeVar("Bound", bound=int)
Mapped = dict[str, list[int]]
Maybe = typing.Optional[int]  # noqa: UP045 - people write it
Calls = typing.Callable[[int], str]


def same(x: Bound) -> Bound:
    return x


@case([1, "dict[str, list[int]]", "typing.Callable[[int], str]"])
def typing_objects(db):
    assert Maybe is not None
    return same(1), str(Mapped), str(Calls)


class WithDict:
    __slots__ = ("__dict__", "a")

    def __init__(self):
        self.a = 1
        self.b = 2


MIXED = WithDict()


@case([1, 2])
def slots_beside_a_dict(db):
    return MIXED.a, MIXED.b


class Tagging(type):
    def __new__(mcs, name, bases, namespace, *, tag=None):
        cls = super().__new__(mcs, name, bases, namespace)
        cls.tag = tag
        return cls

    def __init__(cls, name, bases, namespace, *, tag=None):
        super().__init__(name, bases, namespace)


class Tagged(metaclass=Tagging, tag="t"):
    pass


@case("t")
def what_a_metaclass_was_told(db):
    return Tagged.tag


LOGGER = logging.getLogger("mine")


async def later(x):
    return x


def count():
    yield from range(3)


@case(["mine", 3, [0, 1, 2]])
def loggers_coroutines_generators(db):
    import asyncio

    return LOGGER.name, asyncio.run(later(3)), list(count())


@pytest.mark.parametrize("name", CASES)
def test_works_over_there(name):
    handler, expected = CASES[name]
    bundle = pack(handler)
    assert call_blob(bundle.blob) == [expected]
    assert pack(handler).digest == bundle.digest
