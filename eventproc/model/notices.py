"""Notices: outgoing mails and webhook calls, rows before they are sent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NoticeState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"  # gave up, or refused for good


@dataclass(frozen=True, kw_only=True, slots=True)
class NewNotice:
    """A notice about a run's outcome; (run_id, outcome, round of requeue) is unique, so it is written once."""

    run_id: int
    outcome: str  # success | failure
    recipients: tuple[str, ...]
    due_us: int
    serial: int = 0  # a requeued run may have another outcome, with the next serial


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """A notice as it stands. The mail is rendered at the first try and kept, so that each try sends the same."""

    id: int
    run_id: int
    outcome: str
    serial: int
    recipients: tuple[str, ...]
    refused: tuple[str, ...]  # recipients that the server refused for good
    state: NoticeState
    attempts: int
    due_us: int
    created_us: int
    sent_us: int | None
    error: str | None
    message_id: str | None
    subject: str | None
    mail: bytes | None  # the rendered message, RFC 5322
    token: int = 0
