"""
The one door of numba: kernels are compiled where numba is installed and run as they are elsewhere.

Kernels must give the same numbers either way, so they use integers, or floating point in a fixed order. Where plain
Python would be too slow or would overflow aloud, a kernel names what runs `instead`.
NUMBA_DISABLE_JIT=1, numba's own variable, makes this module behave as if numba were missing.

Only entries, which Python calls, keep their machine code on disk, and with it that of all they call. numba notices a
change of the file an entry stands in but not of those it calls: so an entry closes over `stamp()`, and what a function
closes over is part of its key in the cache.

Compiling takes half a minute, so a process that must not stand still can run all kernels as they are meanwhile: see
`Entry.interpreting` and `warm`.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar, TypeVar, cast

from eventproc.htm.places import own_directory

_njit: Any
_config: Any
_typeof: Any
try:
    from numba import njit as _njit
    from numba import typeof as _typeof
    from numba.core import config as _config
except ImportError:  # the extra `htm` is not installed: slower, and the same numbers
    _njit = _config = _typeof = None

F = TypeVar("F", bound=Callable[..., Any])

COMPILED: bool = _njit is not None and not _config.DISABLE_JIT
_OPTIONS = {"nogil": True, "error_model": "numpy"}
_SOURCES = ("jit", "dice", "sensing", "memory", "streams", "foresight", "kernels")

_plain: dict[int, FunctionType] = {}  # by a compiled kernel's id: what runs in its place
_spaces: dict[str, dict[str, Any]] = {}  # by module: its names, each kernel as it is


def stamp() -> int:
    """Digest the sources of all kernels: never 0."""
    here = Path(__file__).parent
    text = b"".join((here / f"{name}.py").read_bytes() for name in _SOURCES)
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "little") | 1


def jit(*, instead: Callable[..., Any] | None = None, bare: bool = False) -> Callable[[F], F]:
    """
    Compile a kernel that kernels call; without numba run `instead` or the plain function.

    A `bare` kernel makes no arrays and counts no references to those it is given: counting a memory's seventeen arrays
    at each call costs more than a small kernel's work. Its callers hold them.
    """

    def decorate(function: F) -> F:
        if not COMPILED:
            return cast("F", instead or function)
        compiled = _njit(_nrt=not bare, **_OPTIONS)(function)
        _plain[id(compiled)] = cast("FunctionType", instead or function)
        return cast("F", compiled)

    return decorate


class Entry:
    """A kernel that Python calls: compiled at its first call, with the machine code kept on disk."""

    interpreting: ClassVar[bool] = False  # all entries of the process run as they are, and nothing is compiled

    def __init__(self, function: Callable[..., None]) -> None:
        self.__doc__ = function.__doc__
        self._function = cast("FunctionType", function)
        self._as_it_is: Callable[..., Any] | None = None
        self.compiled: Any = _compiled(function) if COMPILED else function

    def __call__(self, *given: Any) -> Any:
        if not Entry.interpreting:
            return self.compiled(*given)
        if self._as_it_is is None:
            self._as_it_is = as_it_is(self._function)
        return self._as_it_is(*given)

    def at_hand(self, *given: Any) -> bool:
        """Tell whether there is machine code for a call like this, in memory or on disk."""
        if not COMPILED:
            return False
        signature = tuple(map(_typeof, given))
        if signature in self.compiled.overloads:
            return True
        kept = getattr(self.compiled, "_cache", None)  # numba has no public way to ask
        return kept is not None and kept.load_overload(signature, self.compiled.targetctx) is not None

    @property
    def cache_path(self) -> str | None:
        """Where the machine code is kept; None: in memory only."""
        return getattr(getattr(self.compiled, "stats", None), "cache_path", None)


def as_it_is(function: FunctionType) -> FunctionType:
    """Make the form of a kernel that runs in Python and calls no compiled one, nor do those that it calls."""
    names = _spaces.get(function.__module__)
    if names is None:
        names = _spaces[function.__module__] = dict(vars(sys.modules[function.__module__]))
        for name, value in list(names.items()):
            if id(value) in _plain:
                names[name] = as_it_is(_plain[id(value)])
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _compiled(function: Callable[..., None]) -> Any:
    try:
        return _njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither the package's directory nor the user's cache directory can be written
        directory = own_directory()
    if directory is None:
        return _njit(**_OPTIONS)(function)
    before = _config.CACHE_DIR
    _config.CACHE_DIR = str(directory)
    try:
        return _njit(cache=True, **_OPTIONS)(function)
    finally:
        _config.CACHE_DIR = before
