"""The package's public names, and that importing it stays light."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys

import pytest

import eventproc

HEAVY = (
    *("alembic", "click", "cryptography", "dill", "fastapi", "httpcore", "httpx", "jinja2", "matplotlib", "msgspec"),
    *("numba", "numpy", "pika", "pydantic", "rich", "sqlalchemy", "starlette", "structlog", "yaml", "zstandard"),
)


def test_all_is_what_is_there():
    for name in eventproc.__all__:
        assert getattr(eventproc, name) is not None
    public = {
        name
        for name, value in vars(eventproc).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and name not in ("TYPE_CHECKING", "Any", "annotations")
    }
    assert public <= set(eventproc.__all__)
    assert dir(eventproc) == sorted(eventproc.__all__)


def test_all_names_what_the_type_checker_sees():
    """The names under TYPE_CHECKING and those that are loaded lazily are the same."""
    source = inspect.getsource(eventproc)
    block = source[source.index("if TYPE_CHECKING:") : source.index("__version__ = ")]
    for name in eventproc._HOMES:
        assert f"{name}," in block or f"import {name}\n" in block, name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'registr'"):
        _ = eventproc.registr


@pytest.mark.parametrize(
    "program",
    [
        "import eventproc",
        "from eventproc import *",
        "from eventproc import Connection, register; register(hook='a.b')(lambda db: 1) if 0 else None",
        "import eventproc.plugins",
        "from eventproc import Connection; Connection('localhost:1', 'k')",
    ],
)
def test_importing_loads_nothing_heavy(program):
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded & set(HEAVY) == set()


def test_the_version_is_the_distributions():
    from importlib.metadata import version

    assert eventproc.__version__ == version("eventproc")


def test_ep_outside_of_a_handler_says_where_it_works():
    with pytest.raises(RuntimeError, match="inside a running handler only"):
        eventproc.ep.upload_file("x", "y")
    with pytest.raises(RuntimeError, match=r"ep\.event"):
        _ = eventproc.ep.event


def test_emit_takes_a_connection_or_a_session_not_both():
    from eventproc.errors import InvalidInput

    with pytest.raises(InvalidInput, match="either conn or session"):
        eventproc.emit("a.b", {}, conn=eventproc.Connection("localhost:1", "k"), session=object())


def test_every_error_is_drawn_in_the_tree_of_errors_and_pickles():
    from eventproc import errors

    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.EventprocError)
    }
    drawn = {
        line.split()[1] for line in (errors.__doc__ or "").splitlines() if line.strip()[:2] in ("* ", "+ ", "- ", ". ")
    }
    assert drawn == set(classes)
    for cls in classes.values():
        error = pickle.loads(pickle.dumps(cls("what", where="here")))
        assert (type(error), error.message, error.details) == (cls, "what", {"where": "here"})


@pytest.mark.parametrize("name", ["Db", "Series"])
def test_the_types_for_handlers_say_what_handlers_are_given(name):
    from eventproc.child import db as child

    def calls(cls):
        found = {key: getattr(cls, key) for key in dir(cls) if not key.startswith("_")}
        return {
            key: None if isinstance(value, property) else [(p.name, p.kind, p.default) for p in _parameters(value)]
            for key, value in found.items()
        }

    real = calls({"Db": child.Db, "Series": child.Stream}[name])
    real.pop("btrdb", None)  # btrdb's name for the connection: nobody needs it who has `db`
    assert calls(getattr(eventproc, name)) == real


def _parameters(function):
    return inspect.signature(function).parameters.values()


def test_types_of_handlers_do_not_travel_with_them(tmp_path):
    """Where handlers run there is no eventproc: a type that is named in one must not be looked for there."""
    from eventproc.codec.blob import pack

    source = """
from eventproc import Db, Ep, Series, ep

def function(db: Db, value: int = 0) -> str:
    def inner(db: Db, series: "Series") -> Series:
        return series
    return f"{inner(db, value)} {ep.event.message_id}"

class Handler:
    db: Db
    last: Series

    def handle_events(self, events: list, env: dict) -> list:
        return events
"""
    module = tmp_path / "typed_handlers.py"
    module.write_text(source)
    namespace = {"__name__": "__main__", "__file__": str(module)}
    exec(compile(source, str(module), "exec"), namespace)
    for name in ("function", "Handler"):
        blob = pack(namespace[name], check=True).blob
        assert b"eventproc" not in blob
