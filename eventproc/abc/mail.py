"""The ports for outgoing mail."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from eventproc.model import (
    NoticeFacts,
    Rendered,
)


class Mailer(ABC):
    """Sends rendered mails."""

    @abstractmethod
    def send(self, message: bytes, sender: str, recipients: Sequence[str]) -> Mapping[str, str]:
        """
        Send one RFC 5322 message; return the recipients that were refused for good, with the server's words.

        Raises MailRefused when all are refused for good, MailError when it is worth another try
        (`details["recipients"]` then are those still to be reached, when some were). Both errors carry
        `details["refused"]`, address → the server's words, for those refused for good; `details["server"]` is
        true when nothing could be sent because of the server itself, whoever the mail was for.
        """

    @abstractmethod
    def describe(self) -> str:
        """Say where mails go, without secrets."""


class Renderer(ABC):
    """Writes the mails."""

    @abstractmethod
    def render(self, facts: NoticeFacts) -> Rendered:
        """Write the mail; the same facts give the same bytes. Hostile text in the facts stays text."""
