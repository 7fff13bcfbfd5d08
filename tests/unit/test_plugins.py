"""Plugin directories and handler files."""

from __future__ import annotations

import importlib.metadata
import sys
import textwrap
from pathlib import Path

import pytest
from clean_python import call_blob

from eventproc import plugins
from eventproc.codec.blob import pack
from eventproc.errors import PluginError


@pytest.fixture
def directory(tmp_path):
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


GOOD = """
    from dataclasses import dataclass
    from eventproc import register

    FACTOR = 3

    @dataclass
    class Reading:
        value: int

    @register(name="first", hook="a.b")
    def first(db, value):
        return Reading(value).value * FACTOR

    @register(hook="c.d", tags=["x"])
    def second(db):
        return 2

    def helper():
        return 1

    alias = first
"""


def test_a_file_is_executed_and_its_marked_handlers_found(directory):
    module = plugins.load(directory("good.py", GOOD))
    found = plugins.marked_handlers(module)
    assert [(item.mark.hook, item.mark.name) for item in found] == [("a.b", "first"), ("c.d", "second")]
    assert found[0].target is module.first


def test_its_handlers_travel_by_value(directory):
    module = plugins.load(directory("good.py", "from __future__ import annotations\n" + textwrap.dedent(GOOD)))
    bundle = pack(module.first)
    assert call_blob(bundle.blob, {"value": 2}) == [6]
    assert bundle.globals == ("FACTOR", "Reading")
    assert bundle.source.startswith('@register(name="first", hook="a.b")')


def test_the_source_of_a_class_in_a_plugin_is_found(directory):
    path = directory(
        "klass.py",
        """
        class Other:
            pass

        class Watch:
            '''Docs.'''
            def handle_events(self, events, env):
                return len(events)
            def commit(self):
                return None
        """,
    )
    assert pack(plugins.load(path).Watch).source.startswith("class Watch:\n    '''Docs.'''")


def test_sys_modules_is_as_before(directory):
    before = set(sys.modules)
    plugins.load(directory("good.py", GOOD))
    with pytest.raises(PluginError):
        plugins.load(directory("bad.py", "raise RuntimeError('no')"))
    assert {name for name in set(sys.modules) - before if name.startswith("eventproc_plugin")} == set()
    assert before <= set(sys.modules)


def test_a_plugin_named_like_a_standard_module(directory):
    import email

    path = directory("email.py", "import email.message\nWHERE = email.message.__file__\n")
    assert "Lib" in plugins.load(path).WHERE or "lib" in plugins.load(path).WHERE
    assert sys.modules["email"] is email


def test_two_files_with_one_stem(directory):
    one = directory(
        "one/threshold.py", "from eventproc import register\n@register(hook='a.b')\ndef one(db): return 1\n"
    )
    two = directory(
        "two/threshold.py", "from eventproc import register\n@register(hook='a.b')\ndef two(db): return 2\n"
    )
    found = dict(plugins.load_all([one, two]))
    assert [item.mark.name for item in found[one]] == ["one"]
    assert [item.mark.name for item in found[two]] == ["two"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("x = 1\ndef broken(:\n", 2, "SyntaxError"),
        ("x = 1\n\nimport nothing_of_that_name\n", 3, "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
        ("def f():\n    return 1 / 0\n\nf()\n", 2, "ZeroDivisionError: division by zero"),
        ("from eventproc import register\nregister(hook='a.b', timeot=1)\n", 2, "did you mean 'timeout'"),
        ("from eventproc import register\n@register()\ndef f(db): ...\n", 2, "say which hook"),
    ],
)
def test_a_broken_file_names_file_line_and_reason(directory, text, line, words):
    path = directory("broken.py", text)
    with pytest.raises(PluginError) as caught:
        plugins.load(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert words in str(caught.value)
    assert caught.value.details["line"] == line


def test_a_file_that_is_no_text_is_named(directory, tmp_path):
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "null.py").write_bytes(b"x = 1\0")
    for name in ("binary.py", "null.py", "missing.py"):
        with pytest.raises(PluginError, match=name):
            plugins.load(tmp_path / name)


def test_a_broken_file_does_not_spoil_its_neighbours(directory, tmp_path):
    directory("a_broken.py", "1 / 0")
    directory("b_good.py", GOOD)
    directory("_private.py", "1 / 0")
    directory("test_good.py", "1 / 0")
    directory("notes.txt", "")
    results = dict(plugins.load_all(plugins.files_in(tmp_path, "handlers")))
    assert [path.name for path in results] == ["a_broken.py", "b_good.py"]
    assert isinstance(results[tmp_path / "a_broken.py"], PluginError)
    assert len(results[tmp_path / "b_good.py"]) == 2


def test_the_bundled_directories_are_there():
    assert (plugins.bundled_dir("handlers") / "waveform_report.py").is_file()
    assert list(plugins.bundled_dir("hooks").glob("*.yaml"))


def test_an_installed_packages_own_copy_comes_first(tmp_path, monkeypatch):
    installed = tmp_path / "_bundled" / "handlers"
    installed.mkdir(parents=True)
    monkeypatch.setattr(plugins, "_HERE", tmp_path)
    assert plugins.bundled_dir("handlers") == installed
    assert plugins.bundled_dir("hooks") == tmp_path.parent / "hooks"


def test_a_projects_directories(directory, tmp_path):
    directory("handlers/mine.py", GOOD)
    directory("hooks/mine.yaml", "hooks: []")
    files, problems = plugins.find("handlers", [tmp_path])
    assert problems == []
    assert [file.name for file in files if file.origin == "project"] == ["mine"]
    assert "waveform_report" in [file.name for file in files if file.origin == "bundled"]
    files, _ = plugins.find("hooks", [tmp_path])
    assert "mine" in [file.name for file in files]
    assert plugins.project_dir(tmp_path / "nowhere", "handlers") is None


def test_a_checkout_as_project_does_not_double_the_bundled_ones():
    checkout = plugins.bundled_dir("handlers").parent
    files, _ = plugins.find("handlers", [checkout])
    assert len(files) == len({file.path for file in files})


class Point:
    """An entry point of another distribution."""

    group = "eventproc.handlers"

    def __init__(self, name, loaded):
        self.name = name
        self.value = f"acme:{name}"
        self._loaded = loaded

    def load(self):
        return self._loaded


def test_entry_points_add_directories_and_broken_ones_are_told(directory, tmp_path, monkeypatch):
    directory("acme/report.py", GOOD)

    def broken():
        raise ImportError("acme is half installed")

    points = [
        Point("b-broken", broken),
        Point("good", lambda: tmp_path / "acme"),
        Point("nowhere", lambda: str(tmp_path / "none")),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if group == Point.group else [])
    files, problems = plugins.find("handlers")
    assert [file.name for file in files if file.origin == "good"] == ["report"]
    assert [str(problem) for problem in problems] == [
        "entry point b-broken (acme:b-broken): ImportError: acme is half installed",
        f"entry point nowhere (acme:nowhere): {tmp_path / 'none'} is not a directory",
    ]
