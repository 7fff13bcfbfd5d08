"""
Plugin directories: where handler and hook files lie, and how a handler file is executed.

Handler files are executed on the client's side only (`handlers push`, `eventproc test`), never by the server. A
plugin's module is in `sys.modules` only while it executes: were it kept, its functions would be pickled as references
to a module that no worker has; were it never there, `@dataclass` would fail in it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from eventproc.errors import EventprocError, PluginError
from eventproc.model.marks import HandlerMark, marks_of

Kind = Literal["handlers", "hooks"]

_SUFFIXES: dict[Kind, tuple[str, ...]] = {"handlers": (".py",), "hooks": (".yaml", ".yml")}
_HERE = Path(__file__).parent
_loading = threading.RLock()


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginFile:
    """A file of a plugin directory; `origin` says whose it is: bundled, project, or a distribution's entry point."""

    path: Path
    origin: str

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkedHandler:
    """A function or class that `@register(...)` marked, with one of its marks."""

    target: Any
    mark: HandlerMark


# ------------------------------------------------------------------------------------------------- directories


def bundled_dir(kind: Kind) -> Path:
    """Return the directory of what comes with eventproc: in the installed package, else beside it in a checkout."""
    installed = _HERE / "_bundled" / kind
    # importlib.resources finds neither in an editable install.
    return installed if installed.is_dir() else _HERE.parent / kind


def project_dir(project: Path, kind: Kind) -> Path | None:
    """Return a project's own directory, None where it has none."""
    found = project / kind
    return found if found.is_dir() and found.resolve() != bundled_dir(kind).resolve() else None


def entry_point_dirs(kind: Kind) -> tuple[list[tuple[str, Path]], list[PluginError]]:
    """Return the directories that installed distributions add (name, path), and why some can not be used."""
    found: list[tuple[str, Path]] = []
    problems: list[PluginError] = []
    for point in sorted(importlib.metadata.entry_points(group=f"eventproc.{kind}"), key=lambda point: point.name):
        label = f"entry point {point.name} ({point.value})"
        try:
            directory = Path(point.load()())
        except Exception as error:  # noqa: BLE001 - other people's code; its neighbours live
            problems.append(PluginError(f"{label}: {type(error).__name__}: {error}", entry_point=point.name))
            continue
        if directory.is_dir():
            found.append((point.name, directory))
        else:
            problems.append(PluginError(f"{label}: {directory} is not a directory", entry_point=point.name))
    return found, problems


def files_in(directory: Path, kind: Kind) -> list[Path]:
    """Return a directory's plugin files by name; hidden ones, `_private` ones and tests are none."""
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix in _SUFFIXES[kind] and not path.name.startswith((".", "_", "test_")) and path.is_file()
    )


def find(kind: Kind, projects: Iterable[Path] = ()) -> tuple[list[PluginFile], list[PluginError]]:
    """
    Find all plugin files: bundled ones, those of entry points, those of project directories.

    Two files of the same name are both found: what a plugin is called stands inside it.
    """
    directories: list[tuple[str, Path]] = []
    if bundled_dir(kind).is_dir():
        directories.append(("bundled", bundled_dir(kind)))
    named, problems = entry_point_dirs(kind)
    directories += named
    directories += [("project", found) for project in projects if (found := project_dir(project, kind))]
    files: list[PluginFile] = []
    for origin, directory in directories:
        try:
            files += [PluginFile(path=path, origin=origin) for path in files_in(directory, kind)]
        except OSError as error:
            problems.append(PluginError(f"{directory}: {error.strerror or error}", file=str(directory)))
    return files, problems


# ------------------------------------------------------------------------------------------------- handler files


def load(path: Path) -> ModuleType:
    """
    Execute a handler file and return its module.

    `sys.modules` is as it was before afterwards, but for what the file imported. Raises PluginError naming the file,
    the line and the reason.
    """
    file = path.resolve()
    # A name of its own for each path: two files with one stem live, and email.py does not hide the standard module.
    name = f"eventproc_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: not a Python file", file=str(path))
    if not file.is_file():
        raise PluginError(f"{path}: there is no such file", file=str(path))
    module = importlib.util.module_from_spec(spec)
    with _loading:
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise _broken(path, file, error) from error
        finally:
            sys.modules.pop(name, None)
    return module


def _broken(path: Path, file: Path, error: BaseException) -> PluginError:
    line = None
    if isinstance(error, SyntaxError) and error.filename == str(file):
        line, reason = error.lineno, f"{type(error).__name__}: {error.msg}"
    else:
        # The last line of the file itself, not of what it called.
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = lines[-1] if lines else None
        text = error.message if isinstance(error, EventprocError) else str(error)
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    where = f"{path}:{line}" if line else str(path)
    return PluginError(f"{where}: {reason}", file=str(path), line=line, reason=reason)


def marked_handlers(module: ModuleType) -> list[MarkedHandler]:
    """Return what a module's `@register(...)` without `conn` marked, in the order of the file."""
    seen: set[int] = set()
    found: list[MarkedHandler] = []
    for value in list(vars(module).values()):
        if id(value) in seen or not callable(value):
            continue
        seen.add(id(value))
        found += [MarkedHandler(target=value, mark=mark) for mark in marks_of(value)]
    return found


def load_all(paths: Iterable[Path]) -> Iterator[tuple[Path, list[MarkedHandler] | PluginError]]:
    """Execute handler files one after another; yield each with its handlers, or with what is wrong with it."""
    for path in paths:
        try:
            yield path, marked_handlers(load(path))
        except PluginError as error:
            yield path, error
