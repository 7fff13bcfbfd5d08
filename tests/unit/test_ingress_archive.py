"""Archives are opened whatever their kind, and what is hostile in them is kept out, one member at a time."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.errors import IngressError
from eventproc.ingress.archive import Archive, ArchiveLimits, Source, open_archive

SMALL = ArchiveLimits(members=5, member_bytes=10_000, total_bytes=20_000, ratio=10, ratio_floor=1_000)
FILES = {"a.cfg": b"config", "sub/a.dat": b"data"}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w:") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def contents(source: Source, limits: ArchiveLimits | None = None) -> tuple[dict[str, bytes], Archive]:
    with open_archive(source, name="records", limits=limits) as archive:
        return {member.path: member.read() for member in archive.members}, archive


def reasons(archive: Archive) -> dict[str, str]:
    return {skipped.path: skipped.reason for skipped in archive.skipped}


# ------------------------------------------------------------------------------------------------ kinds


@pytest.mark.parametrize("kind", ["zip", "w:", "w:gz", "w:bz2", "w:xz"])
def test_every_kind_of_archive_is_recognised_by_its_content(kind: str) -> None:
    data = zipped(FILES) if kind == "zip" else tarred(FILES, kind)
    assert contents(data)[0] == FILES


def test_an_archive_may_be_bytes_a_file_or_a_path(tmp_path: Path) -> None:
    data = zipped(FILES)
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    found = [contents(source) for source in (data, io.BytesIO(data), path)]
    assert [files for files, _ in found] == [FILES] * 3
    assert len({archive.digest for _, archive in found}) == 1


def test_a_folder_is_read_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "records" / "sub").mkdir(parents=True)
    for name, content in FILES.items():
        (tmp_path / "records" / name).write_bytes(content)
    (tmp_path / "secret").write_text("x")
    (tmp_path / "records" / "link.cfg").symlink_to(tmp_path / "secret")
    (tmp_path / "records" / "folder").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "records" / "pipe.dat")
    files, archive = contents(tmp_path / "records")
    assert files == FILES
    assert set(reasons(archive)) == {"link.cfg", "folder", "pipe.dat"}
    assert all(skipped.refused for skipped in archive.skipped)


def test_a_single_cff_is_an_archive_of_itself() -> None:
    with open_archive(b"--- file type: CFG ---\n", name="up/record.cff") as archive:
        assert [member.path for member in archive.members] == ["record.cff"]


def test_names_of_windows_archives_are_paths() -> None:
    assert set(contents(zipped({"sub\\a.cfg": b"x"}))[0]) == {"sub/a.cfg"}


def test_litter_is_set_aside_and_told() -> None:
    litter = ["__MACOSX/._a.cfg", ".DS_Store", "sub/.DS_Store", "Thumbs.db", "._a.dat"]
    files, archive = contents(zipped(FILES | dict.fromkeys(litter, b"x")))
    assert files == FILES
    assert set(reasons(archive)) == set(litter)
    assert not any(skipped.refused for skipped in archive.skipped)


# ------------------------------------------------------------------------------------------------ what is hostile


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../up.cfg", "leads out"),
        ("sub/../../up.cfg", "leads out"),
        ("..\\up.cfg", "leads out"),
        ("/etc/up.cfg", "absolute"),
        ("C:\\up.cfg", "absolute"),
        ("new\nline.cfg", "control characters"),
        ("x" * 2000 + ".cfg", "too long"),
    ],
)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_name_that_leads_astray_is_refused_alone(pack, name: str, reason: str) -> None:  # type: ignore[no-untyped-def]
    files, archive = contents(pack(FILES | {name: b"x"}))
    assert files == FILES
    (skipped,) = archive.skipped
    assert reason in skipped.reason
    assert skipped.refused


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused_alone(kind: bytes) -> None:
    buffer = io.BytesIO(tarred(FILES))
    with tarfile.open(fileobj=buffer, mode="a:") as archive:
        info = tarfile.TarInfo("bad.cfg")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    files, opened = contents(buffer.getvalue())
    assert files == FILES
    assert reasons(opened) == {"bad.cfg": "it is a link or a device"}


def test_links_in_a_zip_are_refused_alone() -> None:
    buffer = io.BytesIO(zipped(FILES))
    with zipfile.ZipFile(buffer, "a") as archive:
        info = zipfile.ZipInfo("bad.cfg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    files, opened = contents(buffer.getvalue())
    assert files == FILES
    assert reasons(opened) == {"bad.cfg": "it is a link or a device"}


def test_an_encrypted_member_is_refused_alone() -> None:
    data = bytearray(zipped(FILES))
    entry = data.rindex(b"PK\x01\x02")  # the last member's entry in the directory
    data[entry + 8] |= 1
    files, opened = contents(bytes(data))
    assert files == {"a.cfg": b"config"}
    assert reasons(opened) == {"sub/a.dat": "it is encrypted"}


def test_the_second_of_two_equal_names_is_refused() -> None:
    buffer = io.BytesIO(zipped(FILES))
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a.cfg", "another")
    files, opened = contents(buffer.getvalue())
    assert files == FILES
    assert "another file of that name" in reasons(opened)["a.cfg"]


# ------------------------------------------------------------------------------------------------ bombs


def test_an_oversized_member_is_refused_alone() -> None:
    files, archive = contents(zipped(FILES | {"big.dat": os.urandom(10_001)}), SMALL)
    assert files == FILES
    assert "10000 are the limit" in reasons(archive)["big.dat"]


def test_a_member_that_unpacks_to_far_more_than_its_size_is_refused_alone() -> None:
    files, archive = contents(zipped(FILES | {"bomb.dat": bytes(9_000)}), SMALL)
    assert files == FILES
    assert "more than 10 times" in reasons(archive)["bomb.dat"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_too_much_in_total_refuses_the_archive(pack) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(IngressError, match="unpacks to more than"):
        contents(pack({f"{i}.dat": os.urandom(9_000) for i in range(4)}), SMALL)


@pytest.mark.parametrize("kind", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_not_unpacked_beyond_the_limit(kind: str) -> None:
    with pytest.raises(IngressError, match="unpacks to more than"):
        contents(tarred({"bomb.dat": bytes(50 << 20)}, kind), SMALL)


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_too_many_members_refuse_the_archive(pack) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(IngressError, match="more than 5 files"):
        contents(pack({f"{i}.cfg": b"" for i in range(6)}), SMALL)


def test_a_member_that_lies_about_its_size_is_an_error_of_its_own() -> None:
    data = bytearray(zipped({"a.cfg": b"x" * 50, "b.cfg": b"y"}))
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (20).to_bytes(4, "little")  # unpacked size in the directory
    with open_archive(bytes(data), name="records") as archive:
        first, second = archive.members
        with pytest.raises(IngressError, match=r"a\.cfg is damaged in the archive"):
            first.read()
        assert second.read() == b"y"


# ------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 and then nothing", b"\x1f\x8b rubbish", bytes(2000)])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(IngressError, match="records is"):
        contents(data)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IngressError, match="can not be read: No such file"):
        contents(tmp_path / "nothing.zip")


@given(st.data())
def test_a_damaged_archive_is_opened_or_refused_and_never_breaks_anything_else(data: st.DataObject) -> None:
    pack = data.draw(st.sampled_from([zipped(FILES), tarred(FILES), tarred(FILES, "w:gz"), tarred(FILES, "w:xz")]))
    damaged = bytearray(pack[: data.draw(st.integers(0, len(pack)))])
    for _ in range(data.draw(st.integers(0, 4)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        with open_archive(bytes(damaged), name="records", limits=SMALL) as archive:
            for member in archive.members:
                assert not member.path.startswith("/")
                assert ".." not in member.path.split("/")
                assert len(member.read()) <= SMALL.member_bytes
    except IngressError:
        return
