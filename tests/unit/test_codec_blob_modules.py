"""What of the user's own modules travels with a handler, and what stays where it is."""

from __future__ import annotations

import importlib
import sys
import textwrap

import pytest
from clean_python import call_blob, made

from eventproc.codec.blob import pack
from eventproc.errors import InvalidHandler


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's project directory on sys.path, with a module, a package, and a module that nobody imported yet."""
    files = {
        "mymod_under_test.py": """
            import sqlite3
            FACTOR = 3
            COUNT = 0
            DB = sqlite3.connect(":memory:")
            class Thing:
                def __init__(self, x): self.x = x
                def double(self): return Thing(self.x * 2)
                def __eq__(self, other): return isinstance(other, Thing) and other.x == self.x
            def f(x): return x * FACTOR
            def bump():
                global COUNT
                COUNT += 1
                return COUNT
            def handler(db, x): return f(x)
        """,
        "mypkg_under_test/__init__.py": "NAME = 'pkg'\n",
        "mypkg_under_test/sub.py": """
            from . import NAME
            from .deep import depth
            LIMIT = 7
            def g(x): return f"{NAME}{x}{depth()}"
            def relative(db):
                from .lazy import later
                from . import lazy
                return later(), lazy.VALUE
        """,
        "mypkg_under_test/deep.py": "def depth(): return 2\n",
        "mypkg_under_test/lazy.py": "VALUE = 11\ndef later(): return VALUE + 1\n",
        "never_loaded_under_test.py": "import mymod_under_test\ndef h(x): return mymod_under_test.f(x) + 1\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    mymod = importlib.import_module("mymod_under_test")
    yield mymod
    mymod.DB.close()
    for name in list(sys.modules):
        if name.partition(".")[0].endswith("_under_test"):
            del sys.modules[name]


def test_a_function_of_an_importable_module_travels_by_value(project):
    assert call_blob(pack(project.handler).blob, {"x": 2}) == [6]


def test_from_import_and_import_of_own_modules(project):
    from mymod_under_test import Thing, bump, f

    handler = made(
        """
        def handler(db):
            mine = f(1), mymod.f(2), mymod.Thing(3).double().x, Thing(2).double() == Thing(4)
            return [*mine, bump(), bump(), mymod.COUNT]
        """,
        mymod=project,
        f=f,
        Thing=Thing,
        bump=bump,
    )
    assert call_blob(pack(handler).blob) == [[3, 6, 6, True, 1, 2, 2]]
    assert project.COUNT == 0


def test_only_what_is_used_of_a_module_in_a_closure_travels(project):
    def handler(db):
        def inner():
            return project.FACTOR

        return [project.f(x) for x in range(2)], inner()

    bundle = pack(handler)
    assert bundle.globals == ("mymod_under_test.FACTOR", "mymod_under_test.f")
    assert call_blob(bundle.blob) == [[[0, 3], 3]]


def test_only_what_is_used_of_a_module_travels(project):
    """mymod.DB can not be pickled, and does not have to be."""
    bundle = pack(made("def handler(db): return mymod.f(1)", mymod=project))
    assert bundle.globals == ("mymod_under_test.FACTOR", "mymod_under_test.f")
    assert call_blob(bundle.blob) == [3]


def test_imports_inside_the_function(project):
    def handler(db):
        import mymod_under_test as m
        import mypkg_under_test.sub
        from mymod_under_test import Thing
        from mypkg_under_test import sub as s
        from mypkg_under_test.sub import LIMIT

        return m.f(1), Thing(1).x, mypkg_under_test.sub.g(1), s.LIMIT, LIMIT

    assert call_blob(pack(handler).blob) == [[3, 1, "pkg12", 7, 7]]


def test_an_inner_import_of_a_module_that_was_never_loaded(project):
    def handler(db):
        from never_loaded_under_test import h

        return h(2)

    before = dict(sys.modules)
    assert call_blob(pack(handler).blob) == [7]
    assert dict(sys.modules) == before


def test_an_imported_module_used_at_once(project):
    """Python 3.13 stores and loads a name in one instruction."""

    def handler(db):
        import mymod_under_test as m

        one = m
        return one.FACTOR if db else m.f(1)

    with pytest.raises(InvalidHandler, match=r"global DB \(sqlite3.Connection\)"):
        pack(handler)  # `one` is the module itself, so that all of it is needed

    def better(db):
        import mymod_under_test as m

        return m.FACTOR if db else m.f(1)

    assert call_blob(pack(better).blob) == [3]


@pytest.mark.parametrize("name", ["argparse", "asyncio.base_events", "inspect", "json.decoder", "typing", "numpy.lib"])
def test_any_code_can_be_read(name):
    """Reading bytecode never fails, and finds the global names that the compiler put there."""
    from types import FunctionType

    from eventproc.codec.scan import scan

    for value in vars(importlib.import_module(name)).values():
        members = vars(value).values() if isinstance(value, type) else [value]
        for function in members:
            if isinstance(function, FunctionType):
                needs = scan(function.__code__)
                assert needs.loads.keys() <= names_of(function.__code__)


def names_of(code):
    nested = [names_of(const) for const in code.co_consts if hasattr(const, "co_names")]
    return set(code.co_names).union(*nested)


def test_relative_imports(project):
    sub = importlib.import_module("mypkg_under_test.sub")
    assert call_blob(pack(sub.relative).blob) == [[12, 11]]


def test_a_module_handed_around_travels_whole(project):
    sub = importlib.import_module("mypkg_under_test.sub")
    box = [sub]

    def handler(db):
        return box[0].g(1), sorted(name for name in vars(box[0]) if not name.startswith("_"))

    assert call_blob(pack(handler).blob) == [["pkg12", ["LIMIT", "NAME", "depth", "g", "relative"]]]


def test_modules_are_left_as_they_were(project):
    import mymod_under_test

    def handler(db):
        return mymod_under_test.f(1)

    modules, state = dict(sys.modules), dict(vars(mymod_under_test))
    pack(handler)
    assert dict(sys.modules) == modules
    assert dict(vars(mymod_under_test)) == state


def test_an_installed_module_is_not_overwritten():
    """dill alone would send along the state of modules and put it into the worker's."""
    import dill.settings  # an installed module with state

    def handler(db):
        return sorted(dill.settings.settings) != []

    assert len(pack(handler).blob) < 1000


def test_what_a_function_only_mentions_in_annotations_stays_here():
    class Only:
        pass

    def handler(db, x: Only = None) -> Only:
        return 1

    handler.__annotations__["y"] = Only
    assert call_blob(pack(handler).blob) == [1]
