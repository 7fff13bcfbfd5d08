"""The in-memory twin of the mailers, for tests of handlers and of the platform."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Literal

from eventproc.abc import Mailer
from eventproc.errors import MailError, MailRefused


@dataclass(frozen=True, kw_only=True, slots=True)
class SentMail:
    """A mail that somebody received."""

    message: bytes
    sender: str
    recipients: tuple[str, ...]

    @property
    def parsed(self) -> EmailMessage:
        return message_from_bytes(self.message, policy=policy.default)

    @property
    def subject(self) -> str:
        return str(self.parsed["Subject"])

    @property
    def text(self) -> str:
        """The plain-text body."""
        return self._body("plain")

    @property
    def html(self) -> str:
        """The HTML body."""
        return self._body("html")

    def _body(self, subtype: Literal["plain", "html"]) -> str:
        body = self.parsed.get_body((subtype,))
        return str(body.get_content()).replace("\r\n", "\n") if body is not None else ""


@dataclass(kw_only=True)
class MemoryMailer(Mailer):
    """
    Keeps what it is given in `sent`.

    `refused` names addresses that are refused for good, `deferred` those that can not be reached for now, each
    with the words of the imagined server; `down` makes every try fail with that text.
    """

    refused: dict[str, str] = field(default_factory=dict)
    deferred: dict[str, str] = field(default_factory=dict)
    down: str | None = None
    sent: list[SentMail] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def send(self, message: bytes, sender: str, recipients: Sequence[str]) -> Mapping[str, str]:
        if self.down is not None:
            raise MailError(self.down, server=True)
        refused = {to: self.refused[to] for to in recipients if to in self.refused}
        deferred = {to: self.deferred[to] for to in recipients if to in self.deferred}
        reached = tuple(to for to in recipients if to not in refused and to not in deferred)
        if reached:
            with self._lock:
                self.sent.append(SentMail(message=bytes(message), sender=sender, recipients=reached))
        settle(recipients, refused, deferred)
        return refused

    def describe(self) -> str:
        return "memory (mails are kept in this process)"


def settle(recipients: Sequence[str], refused: Mapping[str, str], deferred: Mapping[str, str]) -> None:
    """Raise what the port says about recipients that were not reached; return when only some are refused for good."""
    if deferred:
        words = "; ".join(f"{to}: {text}" for to, text in deferred.items())
        raise MailError(
            f"not delivered yet to {len(deferred)} of {len(recipients)} recipients: {words}",
            recipients=[to for to in recipients if to in deferred],
            refused=dict(refused),
        )
    if recipients and len(refused) == len(set(recipients)):
        words = "; ".join(f"{to}: {text}" for to, text in refused.items())
        raise MailRefused(f"every recipient was refused: {words}", refused=dict(refused))
