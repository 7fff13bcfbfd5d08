"""Handlers travel by value with all of the user's own code that they need."""

from __future__ import annotations

import abc
import collections
import dataclasses
import enum
import functools
import json
import logging
import sys
import threading
import time
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from clean_python import call_blob, made, run_blob

from eventproc.codec.blob import pack, verify
from eventproc.codec.bundle import HandlerSizeWarning

CONST = 5
SECRET = "hunter2"


def helper(x):
    return x + CONST


class Color(enum.Enum):
    RED = 1
    BLUE = "b"

    def low(self):
        return self.name.lower()


class Planet(enum.Enum):
    EARTH = (1, 2)

    def __init__(self, mass, radius):
        self.mass = mass
        self.radius = radius

    @property
    def total(self):
        return self.mass + self.radius


class Perm(enum.IntFlag):
    R = 4
    W = 2


class Word(enum.StrEnum):
    HI = "hi"


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: list = dataclasses.field(default_factory=list)
    z: typing.ClassVar[int] = 3

    def sum(self):
        return self.x + sum(self.y) + CONST


@dataclasses.dataclass(slots=True, kw_only=True)
class Slotted:
    a: int = 1
    b: str = "x"


Pair = collections.namedtuple("Pair", "a b", defaults=[2])  # noqa: PYI024 - people write it


class Typed(typing.NamedTuple):
    a: int
    b: int = 7

    def total(self):
        return self.a + self.b


class Base(abc.ABC):
    @abc.abstractmethod
    def go(self): ...


class Impl(Base):
    def go(self):
        return "impl"


class Sub(Impl):
    registry: typing.ClassVar[dict] = {}

    def go(self):
        return "sub-" + super().go()


Sub.registry["self"] = Sub
REGISTRY = {"sub": Sub}
T = typing.TypeVar("T")


class Box(typing.Generic[T]):
    def __init__(self, value: T):
        self.value = value


class Meta(type):
    def hello(cls):
        return cls.__name__


class WithMeta(metaclass=Meta):
    pass


class Plugin:
    names: typing.ClassVar[list] = []

    def __init_subclass__(cls):
        Plugin.names.append(cls.label)


class One(Plugin):
    label = "one"


class Slots:
    __slots__ = ("_b", "a")

    def __init__(self):
        self.a, self._b = 1, 2


class Refused(ValueError):
    def __init__(self, why):
        super().__init__(why)
        self.why = why


class Descriptor:
    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner):
        return self.name


class Members:
    described = Descriptor()

    @functools.cached_property
    def cached(self):
        return 9

    @staticmethod
    def static():
        return 1

    @classmethod
    def named(cls):
        return cls.__name__


class Typing(typing.TypedDict):
    a: int


@functools.lru_cache
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def even(n):
    return True if n == 0 else odd(n - 1)


def odd(n):
    return False if n == 0 else even(n - 1)


def shout(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return str(function(*args, **kwargs)).upper()

    return wrapper


COUNT = 0
LOCK = threading.Lock()
LOG = logging.getLogger("mine")


def bump():
    global COUNT
    with LOCK:
        COUNT += 1
    LOG.info("bumped")
    return COUNT


# ------------------------------------------------------------------------------------------- handlers under test


def uses_helper(db, x):
    return helper(x)


def annotated(db, x: int = 1, *, y: float = 2.0, **rest: typing.Any) -> str:
    try:
        with LOCK:
            return f"{x}-{y}-{[i + 1 for i in range(3)]}-{[*(i * 2 for i in rest)]}"
    finally:
        pass


def enums(db):
    return [Color.RED.low(), Color("b").name, Planet.EARTH.total, int(Perm.R | Perm.W), Word.HI, Word("hi") is Word.HI]


def dataclasses_too(db):
    moved = dataclasses.replace(Point(1, [2]), x=4)
    return [moved.sum(), dataclasses.asdict(Point(2)), Slotted(a=3).a, [f.name for f in dataclasses.fields(Point)]]


def tuples(db):
    return [Pair(1).b, Typed(1).total(), Typed(1)._replace(a=3).a, repr(Pair(2))]


def classes(db):
    try:
        Base()
        abstract = False
    except TypeError:
        abstract = True
    try:
        raise Refused("why")
    except Refused as error:
        why = error.why
    return [abstract, REGISTRY["sub"]().go(), Sub.registry["self"] is Sub, Box[int](3).value, WithMeta.hello(), why]


def more_classes(db):
    slots, members = Slots(), Members()
    return [slots.a, slots._b, members.described, members.cached, members.static(), members.named(), Typing(a=1)]


def init_subclass(db):
    return One.label, "one" in Plugin.names


def cached_function(db):
    return fib(20), even(10), odd(10)


@shout
def decorated(db):
    return "loud"


def counts(db):
    return bump(), bump(), COUNT


async def asynchronous(db, x):
    return x * 2


def with_numpy(db):
    return float(np.sqrt(4.0)), float(np.linalg.norm([3, 4])), np.arange(3).tolist()


def imports_by_c_code(db):
    return int(np.isfinite(np.arange(4.0)).sum()), time.strptime("2026", "%Y").tm_year


def uses_ep(db):
    return ep.event["key"]  # noqa: F821 - there in the handler's process


def closure_over(n):
    def handler(db):
        nonlocal n
        n += 1
        return n

    return handler


class Callable:
    def __init__(self):
        self.k = 2

    def __call__(self, db):
        return self.k + CONST

    def method(self, db):
        return self.k * 10


class Whole:
    """A class handler."""

    def handle_events(self, events, env):
        self.seen = [helper(event["x"]) for event in events]
        return self.seen

    def commit(self):
        return len(self.seen)


CASES = {
    "helper and constant": (uses_helper, {"x": 1}, 6),
    "annotations, defaults, with, comprehension": (annotated, {"q": 1}, "1-2.0-[1, 2, 3]-['qq']"),
    "enums": (enums, {}, ["red", "BLUE", 3, 6, "hi", True]),
    "dataclasses": (dataclasses_too, {}, [11, {"x": 2, "y": []}, 3, ["x", "y"]]),
    "named tuples": (tuples, {}, [2, 8, 3, "Pair(a=2, b=2)"]),
    "abstract, cyclic, generic, meta classes": (classes, {}, [True, "sub-impl", True, 3, "WithMeta", "why"]),
    "slots, descriptors, cached properties": (more_classes, {}, [1, 2, "described", 9, 1, "Members", {"a": 1}]),
    "__init_subclass__ that reads the class": (init_subclass, {}, ["one", True]),
    "caches and mutual recursion": (cached_function, {}, [6765, True, False]),
    "decorated": (decorated, {}, "LOUD"),
    "async": (asynchronous, {"x": 4}, 8),
    "numpy by reference": (with_numpy, {}, [2.0, 5.0, [0, 1, 2]]),
    "C code that imports": (imports_by_c_code, {}, [4, 2026]),
    "ep": (uses_ep, {}, "from-ep"),
    "closure": (closure_over(4), {}, 5),
    "lambda": (lambda db, x: helper(x) * 2, {"x": 1}, 12),
    "partial": (functools.partial(lambda a, db: a + helper(0), 4), {}, 9),
    "callable instance": (Callable(), {}, 7),
    "bound method": (Callable().method, {}, 20),
    "class handler": (Whole, {"x": 2}, [[7], 1]),
}


@pytest.mark.parametrize("case", CASES)
def test_runs_where_the_users_files_are_not(case):
    handler, payload, expected = CASES[case]
    assert call_blob(pack(handler).blob, payload) == [expected]


def test_globals_are_shared_by_all_functions_and_calls():
    """`global` works as at home: state is one per module, not one per function."""
    assert call_blob(pack(counts).blob, {}, {}) == [[1, 2, 2], [3, 4, 4]]
    assert COUNT == 0


def test_a_locked_lock_arrives_open():
    with LOCK:
        bundle = pack(counts)
    assert call_blob(bundle.blob) == [[1, 2, 2]]


# ------------------------------------------------------------------------------------------- what is said of a bundle


def test_a_bundle_says_what_it_is():
    bundle = pack(uses_helper)
    assert bundle.kind == "function"
    assert bundle.qualname == "uses_helper"
    assert bundle.source == "def uses_helper(db, x):\n    return helper(x)\n"
    assert bundle.filename == __file__
    assert bundle.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert bundle.globals == ("CONST", "helper")
    import hashlib

    assert bundle.digest == hashlib.sha256(bundle.blob).hexdigest()


def test_the_source_is_of_what_was_written():
    assert pack(decorated).source.startswith("@shout\ndef decorated(db):")
    assert pack(Whole).source.startswith("class Whole:")
    assert pack(Whole).kind == "class"
    assert "self.k + CONST" in pack(Callable()).source
    assert pack(functools.partial(uses_helper, None)).qualname == "uses_helper"
    assert pack(closure_over(1)).source.startswith("def handler(db):\n    nonlocal n")


def test_the_source_is_the_files_even_where_somebody_changed_linecache(monkeypatch):
    """A handler that ran in this process (as in tests of handlers) leaves its own lines under the file's name."""
    import linecache

    monkeypatch.setitem(linecache.cache, __file__, (3, None, ["x\n"] * 3, __file__))
    assert pack(uses_helper).source == "def uses_helper(db, x):\n    return helper(x)\n"


def test_without_source_there_is_none():
    assert pack(made("def handler(db): return 1")).source is None


def test_captured_secrets_are_listed():
    def handler(db):
        return len(SECRET)

    assert pack(handler).globals == ("SECRET",)


def test_captured_variables_of_an_enclosing_function_are_listed():
    assert pack(closure_over(4)).globals == ("n",)


@pytest.mark.parametrize("case", CASES)
def test_packing_twice_gives_the_same_digest(case):
    handler = CASES[case][0]
    assert pack(handler).digest == pack(handler).digest


def test_the_digest_does_not_depend_on_the_hash_seed(tmp_path):
    """The same file makes the same blob in another process, so that a push of nothing new can be seen."""
    import subprocess

    script = tmp_path / "script.py"
    script.write_text(
        "from eventproc.codec.blob import pack\n"
        "WORDS = {'a', 'b', 'c', 'd', 'e'}\n"
        "def handler(db, x):\n    return x in {'p', 'q', 'r', 's'} or x in WORDS\n"
        "print(pack(handler).digest)\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, str(script)],
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_threads_do_not_meet():
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda _: pack(classes).digest, range(40)))
    assert len(set(digests)) == 1


def test_dill_is_left_as_it_was():
    import dill

    before = dict(dill.Pickler.dispatch)
    pack(with_numpy)
    values = [np.zeros(3), np.float64(1), np.add, np.dtype("i4"), np.ma.masked_array([1])]
    pack(lambda db: len(values))
    assert dict(dill.Pickler.dispatch) == before


def test_a_large_handler_warns_and_says_what_is_large():
    data = bytes(2_000_000)

    def handler(db):
        return len(data)

    with pytest.warns(HandlerSizeWarning, match=r"handler is 1\.9 MiB.*data 1\.9 MiB"):
        bundle = pack(handler)
    assert call_blob(bundle.blob) == [2_000_000]


def test_verify_accepts_what_a_worker_can_load():
    verify(pack(uses_helper))
    pack(uses_helper, check=True)


def test_the_mark_of_register_stays_at_home():
    from eventproc import register

    @register(hook="a.b", notify_on_failure="someone@example.com")
    def handler(db):
        return 1

    blob = pack(handler).blob
    assert b"example.com" not in blob
    assert b"eventproc" not in blob
    assert call_blob(blob) == [1]


def test_the_imported_ep_becomes_the_real_one():
    from eventproc import ep

    bundle = pack(made("def handler(db): return ep.event['key']", ep=ep))
    assert bundle.globals == ()
    assert call_blob(bundle.blob) == ["from-ep"]


def test_the_worker_needs_only_dill():
    modules = run_blob(pack(enums).blob)["modules"]
    assert not [name for name in modules if name.startswith("eventproc")]


def test_a_function_of_main_with_a_module_it_imports(tmp_path):
    """A script run as __main__ beside its own module, as people start."""
    import subprocess

    (tmp_path / "beside.py").write_text("FACTOR = 4\ndef f(x): return x * FACTOR\n")
    (tmp_path / "script.py").write_text(
        "import sys, beside\nfrom beside import f\nfrom eventproc.codec.blob import pack\n"
        "TOP = 1\ndef handler(db, x): return [f(x), beside.f(x + TOP), __name__]\n"
        "sys.stdout.buffer.write(pack(handler).blob)\n"
    )
    blob = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=True,
    ).stdout
    assert call_blob(blob, {"x": 2}) == [[8, 12, "__main__"]]


def test_json_keeps_a_bundle():
    from eventproc.codec.bundle import bundle_from_json, bundle_to_json

    bundle = pack(uses_helper)
    assert bundle_from_json(json.loads(json.dumps(bundle_to_json(bundle)))) == bundle


# ------------------------------------------------------------------------------------------------ threads


def test_threads_may_pickle_at_once_and_what_others_print_meanwhile_is_not_lost(capsys):
    def handler_for(number):
        def told(db, **kwargs):
            return helper(number) + len(db)

        return told

    def pickle_some(number):
        print(f"thread {number}")
        return {pack(handler_for(number), check=False).digest for _ in range(10)}

    before = sys.stdout
    alone = [{pack(handler_for(number), check=False).digest} for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(pickle_some, range(6)))
    assert together == alone
    assert sys.stdout is before
    assert sorted(capsys.readouterr().out.splitlines()) == [f"thread {number}" for number in range(6)]
