"""Mailers by URL."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from eventproc.abc import Mailer
from eventproc.errors import ConfigError
from eventproc.notify.eml import EmlMailer
from eventproc.notify.memory import MemoryMailer
from eventproc.notify.smtp import SmtpMailer


def mailer_from_url(url: str | None, directory: str | os.PathLike[str]) -> Mailer:
    """
    Make the mailer that a URL asks for; without one, mails become `.eml` files in `directory`.

    `smtp://[user:password@]host[:port]`, `smtps://…` (see `SmtpMailer`), `eml:///some/directory`, `memory:`.
    """
    if not url:
        return EmlMailer(directory)
    scheme = url.partition(":")[0].lower()
    if scheme in ("smtp", "smtps"):
        return SmtpMailer(url)
    if scheme == "eml":
        path = urlsplit(url).path
        return EmlMailer(path or directory)
    if scheme == "memory":
        return MemoryMailer()
    raise ConfigError(f"mail URL: {scheme[:20]!r} is not one of smtp, smtps, eml, memory", setting="EVENTPROC_SMTP_URL")
