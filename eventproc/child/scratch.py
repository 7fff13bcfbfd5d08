"""
Looks into a handler's private directory, and empties it, whatever the handler did to it.

Directories may be nested deeper than paths can name or Python can recurse, and be closed to their own owner. So
everything goes by descriptors of directories, few of them at a time, and no symbolic link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Dict, Iterator, List, Optional, Tuple

OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
BLOCK = 512
MAX_DEPTH = 200  # of directories; what is nested deeper is taken for more than is allowed


def empty(path: str) -> None:
    """Remove all that is in a directory, and what else the handler left on it; what can not be removed stays."""
    os.chmod(path, 0o700)  # noqa: PTH101  strings all along
    for name in os.listxattr(path):
        os.removexattr(path, name)
    if not os.listdir(path):  # noqa: PTH208  on the path of every call
        return
    top = os.open(path, OPEN)
    try:
        _flatten(top)
    finally:
        os.close(top)


def remove(path: str) -> None:
    """Remove a directory and all that is in it; what can not be removed stays, and nothing is raised."""
    with contextlib.suppress(OSError):
        empty(path)
    with contextlib.suppress(OSError):
        os.rmdir(path)  # noqa: PTH106  strings all along


def measure(path: str, most_files: int, most_bytes: int) -> Tuple[int, int]:
    """Return how many entries a directory holds, and the bytes they take; counts no further once either is too much."""
    files = size = 0
    open_ones: List[Tuple[int, Iterator[str]]] = []
    try:
        top = _open(path)
        open_ones.append((top, iter(os.listdir(top))))  # noqa: PTH208  by descriptor
        while open_ones and files <= most_files and size <= most_bytes:
            directory, names = open_ones[-1]
            name = next(names, None)
            if name is None:
                os.close(open_ones.pop()[0])
                continue
            files += 1
            with contextlib.suppress(OSError):  # it is gone again
                found = os.lstat(name, dir_fd=directory)
                size += found.st_blocks * BLOCK
                if stat.S_ISDIR(found.st_mode):
                    if len(open_ones) == MAX_DEPTH:
                        return most_files + 1, size
                    below = _open(name, directory)
                    open_ones.append((below, iter(os.listdir(below))))  # noqa: PTH208  as above
    finally:
        for directory, _ in open_ones:
            os.close(directory)
    return files, size


def unnamed(path: str, pid: int) -> int:
    """Return the bytes of files in the file system of `path` that a process holds open although they have no name."""
    found: Dict[int, int] = {}
    with contextlib.suppress(OSError):  # it is gone
        device = os.stat(path).st_dev  # noqa: PTH116  strings all along
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208  four times a second
            with contextlib.suppress(OSError):
                held = os.stat(f"/proc/{pid}/fd/{name}")  # noqa: PTH116  as above
                if stat.S_ISREG(held.st_mode) and held.st_nlink == 0 and held.st_dev == device:
                    found[held.st_ino] = held.st_blocks * BLOCK
    return sum(found.values())


def _flatten(top: int) -> None:
    """Remove what is in a directory: what is nested moves up, until it stands empty at the top."""
    number = 0
    kept: List[str] = []  # can not be removed
    while True:
        names = [name for name in os.listdir(top) if name not in kept]
        if not names:
            return
        for name in names:
            if _gone(name, top):
                continue
            try:
                number = _raise_contents(name, top, number)
                os.rmdir(name, dir_fd=top)
            except OSError:
                kept.append(name)


def _gone(name: str, directory: int) -> bool:
    """Remove a file or an empty directory."""
    for take in (os.unlink, os.rmdir):
        with contextlib.suppress(OSError):
            take(name, dir_fd=directory)
            return True
    return False


def _raise_contents(name: str, top: int, number: int) -> int:
    """Empty a directory: files go, directories that hold something move to the top, under new names."""
    directory = _open(name, top)
    try:
        for below in os.listdir(directory):  # noqa: PTH208  by descriptor
            if _gone(below, directory):
                continue
            os.close(_open(below, directory))  # moving it needs the right to write in it
            while True:
                number += 1
                try:
                    os.rename(below, f"{number}", src_dir_fd=directory, dst_dir_fd=top)
                except (FileExistsError, NotADirectoryError):
                    continue
                except OSError as error:
                    if error.errno == errno.ENOTEMPTY:
                        continue
                    raise
                break
    finally:
        os.close(directory)
    return number


def _open(name: str, directory: Optional[int] = None) -> int:
    """Open a directory, also one that was closed to its owner."""
    try:
        return os.open(name, OPEN, dir_fd=directory)
    except PermissionError:
        pass
    seen = os.open(name, LOOK, dir_fd=directory)  # what is looked at is what is changed, not a link put in its place
    try:
        os.chmod(f"/proc/self/fd/{seen}", 0o700)  # noqa: PTH101  as above
    finally:
        os.close(seen)
    return os.open(name, OPEN, dir_fd=directory)
