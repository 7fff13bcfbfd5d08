"""Mails as `.eml` files in a directory: what happens with them while no mail server is configured."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from email import message_from_bytes, policy
from email.utils import parsedate_to_datetime
from pathlib import Path

from eventproc.abc import Mailer
from eventproc.errors import MailError


class EmlMailer(Mailer):
    """
    Writes each mail to a file that any mail program opens.

    A file is there whole or not at all and only its owner can read it: mails hold results and tracebacks.
    Its name follows from the mail, so that a second try of the same mail replaces the first.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)

    def send(self, message: bytes, sender: str, recipients: Sequence[str]) -> Mapping[str, str]:  # noqa: ARG002  # the port's signature; both stand in the mail's headers
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(self._directory / _name(message), message)
        except OSError as error:
            raise MailError(f"can not write mails into {self._directory}: {error.strerror}", server=True) from error
        return {}

    def describe(self) -> str:
        return f".eml files in {self._directory} (no mail server is configured)"


def _name(message: bytes) -> str:
    """Name the file so that a listing is in the order of the mails' dates."""
    headers = message_from_bytes(message.split(b"\r\n\r\n", 1)[0] + b"\r\n\r\n", policy=policy.compat32)
    stamp = "undated"
    with contextlib.suppress(TypeError, ValueError):  # no Date, or one that is none: the mail is kept all the same
        stamp = parsedate_to_datetime(str(headers["Date"])).astimezone(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    identity = str(headers["Message-ID"]).encode() if headers["Message-ID"] else message
    return f"{stamp}-{hashlib.sha256(identity).hexdigest()[:16]}.eml"


def _write(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105  # both names are strings from mkstemp
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            os.unlink(temporary)  # noqa: PTH108  # see above
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
