"""
The one door of numba: kernels are compiled where numba is installed and run as they are elsewhere.

Kernels must give the same numbers either way, so they use integers, or floating point in a fixed order. Where plain
Python would be too slow or would overflow aloud, a kernel names what runs `instead`.
NUMBA_DISABLE_JIT=1, numba's own variable, makes this module behave as if numba were missing.

Only entries, which Python calls, keep their machine code on disk, and with it that of all they call. numba notices a
change of the file an entry stands in but not of those it calls: so an entry closes over `stamp()`, and what a function
closes over is part of its key in the cache.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

_njit: Any
_config: Any
try:
    from numba import njit as _njit
    from numba.core import config as _config
except ImportError:  # the extra `htm` is not installed: slower, and the same numbers
    _njit = _config = None

F = TypeVar("F", bound=Callable[..., Any])

COMPILED: bool = _njit is not None and not _config.DISABLE_JIT
_OPTIONS = {"nogil": True, "error_model": "numpy"}
_SOURCES = ("jit", "dice", "sensing", "memory", "streams", "foresight", "kernels")


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
        return cast("F", _njit(_nrt=not bare, **_OPTIONS)(function))

    return decorate


def entry(function: F) -> F:
    """Compile a kernel that Python calls, at its first call, and keep the machine code on disk."""
    if not COMPILED:
        return function
    try:
        return cast("F", _njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:  # neither the package's directory nor the user's cache directory can be written
        directory = own_directory()
    if directory is None:
        return cast("F", _njit(**_OPTIONS)(function))
    before = _config.CACHE_DIR
    _config.CACHE_DIR = str(directory)
    try:
        return cast("F", _njit(cache=True, **_OPTIONS)(function))
    finally:
        _config.CACHE_DIR = before


def own_directory() -> Path | None:
    """Find a temporary directory that only this user can write: machine code is loaded from it."""
    path = Path(tempfile.gettempdir()) / f"eventproc-numba-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        seen = path.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.getuid() and not seen.st_mode & 0o022
    return path if mine else None
