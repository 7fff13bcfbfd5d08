"""
The Pythons of this host: found in the usual places, asked what they are, and used if they can run handlers.

An interpreter is asked by starting it once; nothing is believed from its name. Of each version (3.9, 3.10, …) one is
used: the worker's own, else the one that the operator named, else the newest release.
"""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
AUTO = "auto"
OLDEST = (3, 8)
REFUSED_S = 300.0  # a network may come back
ASK_S = 20.0  # how long an interpreter may take to say what it is
QUESTION = """
import json, sys, sysconfig
lacks = []
for name in ("array", "asyncio", "ctypes", "hashlib", "json", "resource", "select", "socket", "struct", "zlib"):
    try:
        __import__(name)
    except Exception as error:
        lacks.append(name)
print(json.dumps({
    "version": list(sys.version_info[:3]), "level": sys.version_info[3], "kind": sys.implementation.name,
    "path": sys.executable, "prefix": sys.prefix, "base": sys.base_prefix, "lacks": lacks,
    "wide": sys.maxsize > 1 << 32, "threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
}))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interpreter:
    """One interpreter of this host."""

    path: str
    version: str = ""  # "3.9"; "" if it did not answer
    release: tuple[int, ...] = ()  # (3, 9, 18)
    unused: str = ""  # why handlers do not run on it

    @property
    def own(self) -> bool:
        return self.path == sys.executable

    @property
    def full(self) -> str:
        return ".".join(map(str, self.release))


def own_interpreter() -> Interpreter:
    """Return the one that runs this process."""
    return Interpreter(path=sys.executable, version=RUNNING, release=tuple(sys.version_info[:3]))


class Interpreters:
    """Looks once, when it is first asked; `places` is as the setting `interpreters` says."""

    def __init__(self, places: Sequence[str] = (AUTO,)) -> None:
        self._places = tuple(places)
        self._lock = threading.Lock()
        self._found: tuple[Interpreter, ...] | None = None
        self._refused: dict[str, tuple[str, float]] = {}  # version → why, and until when (monotonic)

    def all(self) -> tuple[Interpreter, ...]:
        """Return every interpreter that was found, the unused ones with the reason."""
        with self._lock:
            if self._found is None:
                self._found = tuple(find(self._places))
            now = time.monotonic()
            refused = {version: reason for version, (reason, until) in self._refused.items() if now < until}
            return tuple(
                replace(each, unused=refused[each.version]) if not each.unused and each.version in refused else each
                for each in self._found
            )

    def usable(self) -> dict[str, Interpreter]:
        """Return the interpreters that handlers run on, by version; our own comes first."""
        used = {each.version: each for each in self.all() if not each.unused}
        return dict(sorted(used.items(), key=lambda item: (not item[1].own, item[1].release)))

    def refuse(self, version: str, reason: str) -> None:
        """Do without that version for a while: what it needs could not be installed."""
        with self._lock:
            self._refused[version] = (reason, time.monotonic() + REFUSED_S)
        log.warning("a Python is not used", version=version, reason=reason)


# ---------------------------------------------------------------------------------------------- finding


def find(places: Sequence[str]) -> Iterator[Interpreter]:
    """Find the interpreters that `places` name; yields ours first, and each other one once."""
    own = own_interpreter()
    yield own
    asked: dict[str, Interpreter] = {}
    named = [place for place in places if place != AUTO]
    for path in dict.fromkeys([*_named(named), *(_usual() if AUTO in places else ())]):
        found = ask(path)
        key = os.path.realpath(found.path)
        # A virtual environment is another one than its base: it has packages of its own.
        if found.path not in asked and (key not in asked or not _is_file(found.path)):
            asked[found.path] = asked[key] = found
    yield from _choose(own, list(dict.fromkeys(asked.values())), preferred=set(_named(named)))
    for place in named:
        if not _expand(place):
            yield Interpreter(path=place, unused="there is no such interpreter (setting 'interpreters')")


def _choose(own: Interpreter, found: list[Interpreter], *, preferred: set[str]) -> Iterator[Interpreter]:
    """Leave one interpreter of each version in use."""
    best: dict[str, Interpreter] = {own.version: own}
    for each in sorted(found, key=lambda one: (one.path in preferred, one.release), reverse=True):
        if not each.unused:
            best.setdefault(each.version, each)
    for each in found:
        chosen = best.get(each.version)
        if os.path.realpath(each.path) == os.path.realpath(own.path) and _is_file(each.path):
            continue  # our own by another name
        if each.unused or chosen is each:
            yield each
        else:
            reason = "the worker itself runs" if chosen is own else "in its place"
            yield replace(each, unused=f"{reason} {chosen.path if chosen else ''} ({chosen.full if chosen else ''})")


def _named(places: Iterable[str]) -> list[str]:
    return [path for place in places for path in _expand(place)]


def _expand(place: str) -> list[str]:
    """Return the interpreters that a path, a directory or a pattern stands for."""
    found = []
    for path in sorted(glob.glob(os.path.expanduser(place))):  # noqa: PTH111, PTH207  a pattern, not a path
        if Path(path).is_dir():
            found += _below(path, ("bin/python3", "python3", "*/bin/python3"))
        else:
            found.append(path)
    return found


def _usual() -> Iterator[str]:
    """Yield what is on PATH and in the directories of the usual tools, the newest last of each."""
    names = [f"python3.{minor}" for minor in range(OLDEST[1], 30)]
    for directory in [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"]:
        if directory.startswith("/") and not directory.rstrip("/").endswith("/shims"):  # they only point elsewhere
            yield from (path for name in names if _is_file(path := f"{directory}/{name}"))
    try:
        home = str(Path.home())
    except RuntimeError:  # a user id without an account, as containers have them
        home = "/nonexistent"
    data = os.environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
    for root in (
        f"{os.environ.get('PYENV_ROOT') or f'{home}/.pyenv'}/versions",
        os.environ.get("UV_PYTHON_INSTALL_DIR") or f"{data}/uv/python",
        f"{data}/mise/installs/python",
        f"{home}/.asdf/installs/python",
        "/opt/python",
        "/opt",
    ):
        yield from _below(root, ("*/bin/python3.[0-9]", "*/bin/python3.[0-9][0-9]"))
    for root in (f"{home}/miniconda3", f"{home}/miniforge3", f"{home}/anaconda3", "/opt/conda"):
        yield from _below(root, ("bin/python3",))


def _below(root: str, patterns: Iterable[str]) -> list[str]:
    base = glob.escape(root)
    return [path for pattern in patterns for path in sorted(glob.glob(f"{base}/{pattern}")) if _is_file(path)]  # noqa: PTH207


def _is_file(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)  # noqa: PTH113  strings all along


def ask(path: str) -> Interpreter:
    """Start an interpreter and have it say what it is."""
    try:
        done = subprocess.run(  # noqa: S603  an interpreter of this host
            [path, "-I", "-c", QUESTION],
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            timeout=ASK_S,
            check=False,
        )
        said = json.loads(done.stdout or b"null") if done.returncode == 0 else None
    except subprocess.TimeoutExpired:
        return Interpreter(path=path, unused=f"it did not answer within {ASK_S:g} s")
    except (OSError, ValueError) as error:
        return Interpreter(path=path, unused=f"it can not be started: {error}")
    if not isinstance(said, dict):
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[0]
        return Interpreter(path=path, unused=f"it can not be started: {last[:200]}")
    release = tuple(said["version"])
    return Interpreter(
        path=said["path"] or path,
        version=f"{release[0]}.{release[1]}",
        release=release,
        unused=_objection(said, release),
    )


def _objection(said: dict[str, Any], release: tuple[int, ...]) -> str:
    objections = (
        (said["kind"] != "cpython", f"it is {said['kind']}, and handlers are made by CPython"),
        (release[:2] < OLDEST, f"Python {release[0]}.{release[1]} is older than 3.8"),
        (said["threaded"], "it is built without the interpreter lock"),
        (not said["wide"], "it is a 32-bit program"),
        (said["level"] != "final", "it is no final release"),
        (said["lacks"], f"it was built without {', '.join(said['lacks'])}"),
        (said["prefix"] != said["base"], "it is a virtual environment; name its base interpreter instead"),
    )
    return next((text for holds, text in objections if holds), "")
