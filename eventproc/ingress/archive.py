"""
Archives of COMTRADE files: zip, tar (plain, gzip, bzip2, xz), a folder, or a single .cff.

What comes in is not trusted. Names that lead out of the archive, links, devices, encrypted and oversized members are
refused one by one, each with its reason; an archive that is too big as a whole is refused as a whole.
Nothing is ever unpacked to a place that a member's name decides.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, TypeAlias, cast

from eventproc.errors import IngressError

Source: TypeAlias = bytes | Path | BinaryIO

MIB: Final = 1 << 20
_BLOCK: Final = 1 << 18  # bytes read at once
_SPOOL: Final = 32 * MIB  # a larger tar is unpacked to a temporary file
_MAX_NAME: Final = 1024  # characters
_LITTER: Final = frozenset({".ds_store", "thumbs.db", "desktop.ini", "__macosx"})
_DAMAGE: Final = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveLimits:
    """How much an archive may hold. `ratio` (unpacked to packed bytes) counts for what is over `ratio_floor`."""

    members: int = 10_000
    member_bytes: int = 256 * MIB
    total_bytes: int = 1024 * MIB
    ratio: int = 250
    ratio_floor: int = 16 * MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A member that was left alone. `refused` tells hostile ones from litter that merely does not belong there."""

    path: str
    reason: str
    refused: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A file in the archive; `path` is clean: relative, with forward slashes and without dots."""

    path: str
    size: int
    read: Callable[[], bytes]


@dataclass(kw_only=True, slots=True)
class Archive:
    """What is in an archive. `digest` identifies the content."""

    members: list[Member] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    digest: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """A member as the archive describes it, before anything of it is believed."""

    name: str
    size: int
    packed: int | None  # None: not known by itself
    problem: str | None  # why it can not be read at all
    read: Callable[[int], bytes]  # at most so many bytes


@contextlib.contextmanager
def open_archive(source: Source, *, name: str, limits: ArchiveLimits | None = None) -> Iterator[Archive]:
    """
    Open an archive given as bytes, as a seekable binary file, or as the path of a file or folder.

    Raises IngressError when it is none, is damaged as a whole, or is over the limits as a whole.
    """
    limits = limits or ArchiveLimits()
    with contextlib.ExitStack() as stack:
        if isinstance(source, Path) and source.is_dir():
            yield _sift(_folder(source), limits, digest=None)
            return
        file = stack.enter_context(_open(source))
        digest = _digest(file)
        try:
            found = _members(file, name, limits, stack)
            archive = _sift(found, limits, digest=digest)
        except _DAMAGE as error:
            raise IngressError(f"{name} is damaged and can not be opened: {error}") from error
        yield archive


def _open(source: Source) -> contextlib.AbstractContextManager[BinaryIO]:
    if isinstance(source, bytes):
        return BytesIO(source)
    if isinstance(source, Path):
        try:
            return cast("BinaryIO", source.open("rb"))
        except OSError as error:
            raise IngressError(f"{source} can not be read: {error.strerror}") from error
    return contextlib.nullcontext(source)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
    file.seek(0)
    return digest.hexdigest()


def _members(file: BinaryIO, name: str, limits: ArchiveLimits, stack: contextlib.ExitStack) -> Iterator[_Found]:
    head = file.read(512)
    file.seek(0)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip(stack.enter_context(zipfile.ZipFile(file)))
    if head[:14].lower().replace(b"\xef\xbb\xbf", b"").startswith(b"--- file type"):
        return iter([_single(file, name)])
    openers = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
    for magic, opener in openers:
        if head.startswith(magic):
            spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL)  # noqa: SIM115 - the stack closes it
            unpacked = cast("BinaryIO", stack.enter_context(spool))
            with cast("BinaryIO", opener(file, "rb")) as packed:
                _unpack(packed, unpacked, _size(file), limits, name)
            file = unpacked
            head = file.read(512)
            file.seek(0)
            break
    if head[257:262] != b"ustar" and not (any(head) and tarfile.is_tarfile(file)):
        raise IngressError(f"{name} is not an archive: send a zip, a tar (also .gz, .bz2, .xz) or a single .cff")
    file.seek(0)
    return _tar(stack.enter_context(tarfile.open(fileobj=file, mode="r:")))


def _size(file: BinaryIO) -> int:
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(here)
    return size


def _unpack(packed: BinaryIO, unpacked: BinaryIO, packed_size: int, limits: ArchiveLimits, name: str) -> None:
    """Unpack a compressed tar up to the limits, so that walking through it can not be made endless."""
    total = 0
    while block := packed.read(_BLOCK):
        total += len(block)
        # Headers and padding of a tar come on top of its members.
        if total > limits.total_bytes + 1024 * limits.members or _bloated(total, packed_size, limits):
            raise IngressError(_too_big(name, limits), limit=limits.total_bytes)
        unpacked.write(block)
    unpacked.seek(0)


def _bloated(size: int, packed: int, limits: ArchiveLimits) -> bool:
    return size > limits.ratio_floor and size > limits.ratio * max(packed, 1)


def _too_big(name: str, limits: ArchiveLimits) -> str:
    return (
        f"{name} unpacks to more than {limits.total_bytes // MIB} MiB or more than {limits.ratio} times its own size: "
        "it was refused; split it, or pack real records"
    )


# --------------------------------------------------------------------------------------------------- kinds


def _single(file: BinaryIO, name: str) -> _Found:
    return _Found(name=PurePosixPath(name).name, size=_size(file), packed=None, problem=None, read=file.read)


def _zip(archive: zipfile.ZipFile) -> Iterator[_Found]:
    for info in archive.infolist():
        mode = info.external_attr >> 16
        if info.is_dir():
            continue
        problem = None
        if info.flag_bits & 1:
            problem = "it is encrypted"
        elif mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            problem = "it is a link or a device"
        yield _Found(
            name=info.filename,
            size=info.file_size,
            packed=info.compress_size,
            problem=problem,
            read=lambda limit, info=info: _read_zip(archive, info, limit),  # type: ignore[misc]
        )


def _read_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    try:
        with archive.open(info) as file:
            return file.read(limit)
    except (NotImplementedError, RuntimeError) as error:  # another compression, or encryption after all
        raise IngressError(f"{info.filename} can not be unpacked: {error}") from error


def _tar(archive: tarfile.TarFile) -> Iterator[_Found]:
    for info in archive:
        if info.isdir():
            continue
        yield _Found(
            name=info.name,
            size=info.size,
            packed=None,
            problem=None if info.isreg() else "it is a link or a device",
            read=lambda limit, info=info: _read_tar(archive, info, limit),  # type: ignore[misc]
        )


def _read_tar(archive: tarfile.TarFile, info: tarfile.TarInfo, limit: int) -> bytes:
    file = archive.extractfile(info)
    if file is None:
        raise IngressError(f"{info.name} can not be unpacked")
    with file:
        return file.read(limit)


def _folder(root: Path) -> Iterator[_Found]:
    for directory, folders, files in os.walk(root, followlinks=False):
        folders.sort()
        for file in sorted(files + [name for name in folders if Path(directory, name).is_symlink()]):
            path = Path(directory, file)
            status = path.lstat()
            yield _Found(
                name=path.relative_to(root).as_posix(),
                size=status.st_size,
                packed=None,
                problem=None if stat.S_ISREG(status.st_mode) else "it is a link or a device",
                read=lambda limit, path=path: _read_file(path, limit),  # type: ignore[misc]
            )


def _read_file(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)


# --------------------------------------------------------------------------------------------------- sifting


def _sift(found: Iterator[_Found], limits: ArchiveLimits, *, digest: str | None) -> Archive:
    archive = Archive()
    identity = hashlib.sha256()
    seen: set[str] = set()
    total = 0
    for number, item in enumerate(found, start=1):
        if number > limits.members:
            raise IngressError(f"more than {limits.members} files are in the archive: split it", limit=limits.members)
        path, problem = _clean(item.name)
        problem = problem or item.problem or _size_problem(item, limits)
        if problem is None and path in seen:
            problem = "there is another file of that name before it"
        if problem is not None:
            archive.skipped.append(Skipped(path=item.name[:_MAX_NAME], reason=problem, refused=True))
            continue
        if _is_litter(path):
            archive.skipped.append(Skipped(path=path, reason="it does not belong to a record", refused=False))
            continue
        total += item.size
        if total > limits.total_bytes:
            raise IngressError(_too_big("the archive", limits), limit=limits.total_bytes)
        seen.add(path)
        identity.update(f"{path}\0{item.size}\0".encode())
        archive.members.append(Member(path=path, size=item.size, read=_bounded(item, limits)))
    archive.digest = digest or identity.hexdigest()
    return archive


def _clean(name: str) -> tuple[str, str | None]:
    """Return the member's path as we shall use it, and why it must not be used."""
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if len(name) > _MAX_NAME:
        return name, "its name is too long"
    if any(ord(char) < 32 or 0xD800 <= ord(char) < 0xE000 for char in name):
        return name, "its name has control characters"
    if path.startswith("/") or (len(path) > 1 and path[1] == ":"):
        return name, "its name is an absolute path"
    if ".." in parts:
        return name, "its name leads out of the archive"
    if not parts:
        return name, "it has no name"
    return "/".join(parts), None


def _size_problem(item: _Found, limits: ArchiveLimits) -> str | None:
    if item.size > limits.member_bytes:
        return f"it has {item.size} bytes, and {limits.member_bytes} are the limit for one file"
    if item.packed is not None and _bloated(item.size, item.packed, limits):
        return f"it unpacks to more than {limits.ratio} times its packed size"
    return None


def _is_litter(path: str) -> bool:
    parts = path.lower().split("/")
    return any(part in _LITTER for part in parts) or parts[-1].startswith("._")


def _bounded(item: _Found, limits: ArchiveLimits) -> Callable[[], bytes]:
    """Read no more than was announced, whatever really is there."""

    def read() -> bytes:
        try:
            data = item.read(min(item.size, limits.member_bytes) + 1)
        except _DAMAGE as error:
            raise IngressError(f"{item.name} is damaged in the archive: {error}") from error
        if len(data) != item.size:
            raise IngressError(f"{item.name} is damaged in the archive: its size is not the announced {item.size}")
        return data

    return read
