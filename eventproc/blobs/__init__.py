"""Bytes of uploaded files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from eventproc.abc import Blobs
from eventproc.errors import InvalidInput, NotFound, TooLarge, Unavailable

CODE = re.compile(r"[0-9a-f]{32}")
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def _check(code: str) -> str:
    if not CODE.fullmatch(code):
        raise InvalidInput(f"{code!r} is no file code; 32 hex digits are needed")
    return code


def _bounded(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"the file is larger than {max_bytes:,} bytes", max_bytes=max_bytes)
        yield chunk


class MemoryBlobs(Blobs):
    """The twin of `FileBlobs`, for tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, tuple[bytes, int]] = {}

    def put(self, code: str, chunks: Iterable[bytes], *, max_bytes: int) -> tuple[int, str]:
        _check(code)
        data = b"".join(_bounded(chunks, max_bytes))
        with self._lock:
            self._files[code] = data, time.time_ns() // 1000
        return len(data), hashlib.sha256(data).hexdigest()

    def open(self, code: str) -> BinaryIO:
        with self._lock:
            if code not in self._files:
                raise NotFound(f"there is no file {code}", code=code)
            return io.BytesIO(self._files[code][0])

    def delete(self, code: str) -> bool:
        with self._lock:
            return self._files.pop(code, None) is not None

    def codes(self, *, older_than_us: int) -> Iterator[str]:
        with self._lock:
            found = [code for code, (_, stored_us) in self._files.items() if stored_us < older_than_us]
        return iter(found)


class FileBlobs(Blobs):
    """Files `ab/abcdef…` below a directory; each appears whole, and on the disk, or not at all."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._temporary = self.directory / "tmp"

    def _path(self, code: str) -> Path:
        return self.directory / code[:2] / code

    def put(self, code: str, chunks: Iterable[bytes], *, max_bytes: int) -> tuple[int, str]:
        _check(code)
        temporary = self._temporary / f"{code}.{secrets.token_hex(4)}"
        try:
            self._temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                size, digest = self._write(temporary, _bounded(chunks, max_bytes))
                self._publish(temporary, self._path(code))
            except BaseException:
                with contextlib.suppress(OSError):  # the first error is the one to report
                    temporary.unlink()
                raise
        except OSError as error:
            reason = "the disk is full" if error.errno in NO_ROOM else str(error)
            raise Unavailable(f"the file can not be stored in {self.directory}: {reason}") from error
        return size, digest

    @staticmethod
    def _write(path: Path, chunks: Iterable[bytes]) -> tuple[int, str]:
        digest = hashlib.sha256()
        size = 0
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        return size, digest.hexdigest()

    @staticmethod
    def _publish(temporary: Path, path: Path) -> None:
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _fsync_directory(path.parent.parent)
        temporary.rename(path)
        _fsync_directory(path.parent)

    def open(self, code: str) -> BinaryIO:
        if not CODE.fullmatch(code):
            raise NotFound(f"there is no file {code}", code=code)
        try:
            return self._path(code).open("rb")
        except FileNotFoundError:
            raise NotFound(f"there is no file {code}", code=code) from None
        except OSError as error:
            raise Unavailable(f"the file {code} can not be read: {error}") from error

    def delete(self, code: str) -> bool:
        if not CODE.fullmatch(code):
            return False
        try:
            self._path(code).unlink()
        except FileNotFoundError:
            return False
        return True

    def codes(self, *, older_than_us: int) -> Iterator[str]:
        """Return the codes stored before that time; remains of writers that were killed before it go on the way."""
        for path in self._older(self._temporary, older_than_us):
            path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # nothing was ever stored
            for folder in sorted(self.directory.iterdir()):
                if len(folder.name) == 2 and folder.is_dir():
                    yield from (path.name for path in self._older(folder, older_than_us) if CODE.fullmatch(path.name))

    @staticmethod
    def _older(folder: Path, than_us: int) -> Iterator[Path]:
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime_ns // 1000 < than_us:
                    yield Path(entry.path)


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


__all__ = ["FileBlobs", "MemoryBlobs"]
