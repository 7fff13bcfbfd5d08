"""The mailer that writes files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from eventproc.errors import MailError
from eventproc.notify import EmlMailer

HEADERS = b"Date: Mon, 23 Nov 2026 12:00:00 +0100\r\nMessage-ID: <1@x>\r\n"


def test_files_and_directory_are_for_their_owner_only(tmp_path: Path) -> None:
    EmlMailer(tmp_path / "mails").send(HEADERS + b"\r\nhi", "s@x", ["a@x"])
    (path,) = (tmp_path / "mails").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_names_sort_by_the_mails_dates_in_utc(tmp_path: Path) -> None:
    EmlMailer(tmp_path).send(HEADERS + b"\r\nhi", "s@x", ["a@x"])
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("20261123T110000Z-")


def test_the_same_mail_sent_twice_is_one_file(tmp_path: Path) -> None:
    for _ in range(2):
        EmlMailer(tmp_path).send(HEADERS + b"\r\nhi", "s@x", ["a@x"])
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("junk", [b"", b"\x00\xff\r\n\r\n", b"Date: soon\r\n\r\nx", b"Message-ID: ../../evil\r\n\r\n"])
def test_any_bytes_are_kept_inside_the_directory(tmp_path: Path, junk: bytes) -> None:
    EmlMailer(tmp_path / "mails").send(junk, "s@x", ["a@x"])
    (path,) = (tmp_path / "mails").iterdir()
    assert path.read_bytes() == junk
    assert [entry.name for entry in tmp_path.iterdir()] == ["mails"]


def test_a_directory_that_can_not_be_made_is_an_error_to_retry_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MailError, match="can not write mails into"):
        EmlMailer(tmp_path / "file").send(HEADERS + b"\r\n", "s@x", ["a@x"])


def test_a_full_disk_is_an_error_to_retry_and_leaves_no_half_file() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(MailError, match="can not write mails"):
        EmlMailer(full).send(HEADERS + b"\r\n", "s@x", ["a@x"])
