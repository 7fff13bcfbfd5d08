"""
Directories of packages on this host: built once, used read-only, and removed when room is needed.

An entry is built beside its place and renamed into it when it is whole, so that a half-made one is never used. Whoever
uses one holds a shared lock on a file beside it, and whoever builds it an exclusive one; the kernel lets go of both
when their holder dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from eventproc.errors import SandboxError
from eventproc.sandbox.installer import size_of

log = structlog.get_logger(__name__)

ABOUT = "eventproc-environment.json"
PAUSE_S = 0.05
BESIDES_BUILD_S = 60.0  # that a builder may take beyond the time its installer has
FRESH_S = 60.0  # a use is written down no more often than that


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One directory of packages."""

    name: str
    path: Path
    about: Mapping[str, Any]  # python, packages, what for
    size: int  # bytes
    used_at: float  # seconds since 1970
    in_use: bool


class Held:
    """An entry that can not be removed until it is let go of."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def about(self) -> dict[str, Any]:
        return _read(self.path)

    def close(self) -> None:
        """Let go of it; idempotent."""
        if self._fd >= 0:
            _touch(self.path)
            os.close(self._fd)
            self._fd = -1


Build = Callable[[Path, int], Mapping[str, Any]]  # fills a directory, given a locked file; returns what it is


class Environments:
    """The entries below one directory, shared by all processes of this host that use the same data directory."""

    def __init__(self, root: Path, *, max_bytes: int, build_s: float, clean: Callable[[], None] = lambda: None) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._build_s = build_s
        self._clean = clean  # forgets what can be downloaded again

    # ------------------------------------------------------------------------------------------- using

    def hold(self, name: str, build: Build) -> Held:
        """Return the entry, built if need be: once, however many ask. Raises what `build` raises."""
        until = time.monotonic() + self._build_s + BESIDES_BUILD_S
        while True:
            held = self.find(name)
            if held is not None:
                return held
            with self._lock_file(name, "build") as fd:
                if not _locked(fd, fcntl.LOCK_EX):
                    if time.monotonic() > until:
                        raise SandboxError(f"packages are still being installed by another process ({name[:12]})")
                    time.sleep(PAUSE_S)
                    continue
                if not self._place(name).is_dir():
                    self._make(name, build, fd)
            self.make_room(keep=name)

    def find(self, name: str) -> Held | None:
        """Return the entry if it is there."""
        path = self._place(name)
        if not path.is_dir():
            return None
        fd = self._open(name, "use")
        fcntl.flock(fd, fcntl.LOCK_SH)  # removers hold it for the time of one rename
        if not path.is_dir():
            os.close(fd)
            return None
        _touch(path)
        return Held(path, fd)

    def _make(self, name: str, build: Build, fd: int) -> None:
        self.sweep()
        for left in (self._root / "building").glob(f"{name}.*"):  # by one who was killed: the lock is ours
            shutil.rmtree(left, ignore_errors=True)
        work = self._root / "building" / f"{name}.{secrets.token_hex(4)}"
        work.mkdir(mode=0o700, parents=True)
        work.chmod(0o755)  # handlers run as other users
        began = time.monotonic()
        try:
            about = build(work, fd)
            about = {**about, "name": name, "size": size_of(work), "built_at": time.time()}
            (work / ABOUT).write_text(json.dumps(about), encoding="utf-8")
            place = self._place(name)
            place.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            _sync(work / ABOUT)
            work.rename(place)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        log.info("packages were installed", name=name[:12], seconds=round(time.monotonic() - began, 2))

    # ------------------------------------------------------------------------------------------- looking after

    def all(self) -> list[Entry]:
        """Return the entries, the one used last at the end."""
        found = []
        for path in self._places():
            with contextlib.suppress(OSError, ValueError):  # removed while we look
                about = _read(path)
                used_at = (path / ABOUT).stat().st_mtime
                size = int(about.get("size", 0))
                entry = Entry(
                    name=path.name, path=path, about=about, size=size, used_at=used_at, in_use=self._in_use(path.name)
                )
                found.append(entry)
        return sorted(found, key=lambda entry: entry.used_at)

    def total(self) -> int:
        """Return the bytes of everything here: entries, downloads and what is being built."""
        return size_of(self._root)

    def remove(self, name: str) -> bool:
        """Remove an entry unless it is in use."""
        with self._lock_file(name, "use") as fd:
            if not _locked(fd, fcntl.LOCK_EX):
                return False
            trash = self._root / "building" / f"{name}.{secrets.token_hex(4)}"
            trash.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            try:
                self._place(name).rename(trash)
            except FileNotFoundError:
                return False
        shutil.rmtree(trash, ignore_errors=True)
        return True

    def make_room(self, *, keep: str = "") -> None:
        """Stay within the bound: downloads go first, then what was not used for the longest time."""
        if self.total() <= self._max_bytes:
            return
        self._clean()
        for entry in self.all():
            total = self.total()
            if total <= self._max_bytes:
                return
            if entry.name != keep and self.remove(entry.name):
                log.info("packages were removed to make room", name=entry.name[:12], size=entry.size)

    def sweep(self) -> None:
        """Remove what builders that were killed have left: those whose lock nobody holds."""
        building = self._root / "building"
        for path in building.iterdir() if building.is_dir() else ():
            name = path.name.rpartition(".")[0]
            with self._lock_file(name, "build") as fd:
                if _locked(fd, fcntl.LOCK_EX) or self._place(name).is_dir():
                    shutil.rmtree(path, ignore_errors=True)

    # ------------------------------------------------------------------------------------------- files

    def _place(self, name: str) -> Path:
        return self._root / "ready" / name

    def _places(self) -> Sequence[Path]:
        ready = self._root / "ready"
        return [path for path in ready.iterdir() if path.is_dir()] if ready.is_dir() else []

    def _in_use(self, name: str) -> bool:
        with self._lock_file(name, "use") as fd:
            return not _locked(fd, fcntl.LOCK_EX)

    def _open(self, name: str, kind: str) -> int:
        locks = self._root / "locks"
        make_root(self._root)
        locks.mkdir(mode=0o700, exist_ok=True)
        return os.open(locks / f"{name}.{kind}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def _lock_file(self, name: str, kind: str) -> Iterator[int]:
        fd = self._open(name, kind)
        try:
            yield fd
        finally:
            os.close(fd)


def make_root(root: Path) -> None:
    """Make the directory of all environments, in a data directory that is nobody else's."""
    root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.mkdir(mode=0o711, exist_ok=True)


def _locked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / ABOUT).read_text(encoding="utf-8"))
    return found


def _touch(path: Path) -> None:
    """Write down that it was used just now; the time stands in the file's own date."""
    with contextlib.suppress(OSError):
        if time.time() - (path / ABOUT).stat().st_mtime > FRESH_S:
            os.utime(path / ABOUT)


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
