"""Where a user's processes on one machine meet: machine code is loaded from there, and one at a time compiles."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK = "compiling.lock"


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


def compiling() -> bool:
    """Tell whether a process of this user on this machine is compiling kernels."""
    with _lock_file() as file:
        if file is None:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextmanager
def alone() -> Iterator[None]:
    """Wait until nobody else compiles."""
    with _lock_file() as file:
        if file is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _lock_file() -> Iterator[IO[bytes] | None]:
    directory = own_directory()
    if directory is None:
        yield None
        return
    with (directory / LOCK).open("ab") as file:
        yield file
