"""Notices: outgoing mails and webhook calls, rows before they are sent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from eventproc.model.events import Event
from eventproc.model.handlers import HandlerVersion
from eventproc.model.runs import FileRecord, LogChunk, Run

DIGEST_HEADER = "X-Eventproc-Digest"  # of a mail: FIRST-LAST, ids of the further notices that it stands for


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


@dataclass(frozen=True, slots=True)
class Mailed:
    """Mails that were sent at one time, and the notices that they were for: a digest is for several."""

    sent_us: int
    mails: int
    notices: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NoticeFacts:
    """
    What a mail can tell: everything is read from the store in one transaction, right before rendering.

    `digest` are the runs of further notices that this mail stands for (oldest first, the mail's own run not among
    them), `digest_ids` the first and the last of their notices, `digest_count` how many there are (`digest` may be
    cut).
    """

    notice: Notice
    run: Run
    handler: HandlerVersion | None  # None once retention has taken it
    event: Event | None
    log_tail: tuple[LogChunk, ...] = ()
    files: tuple[FileRecord, ...] = ()
    sender: str  # an address, or `Name <address>`
    store_id: str  # tells the mails of one installation from those of another
    now_us: int
    digest: tuple[Run, ...] = ()
    digest_ids: tuple[int, int] | None = None
    digest_count: int = 0
    digest_last: Run | None = None  # that of the newest further notice
    digest_why: str = ""  # these were held back
    throttle_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A finished mail: RFC 5322 bytes with CRLF line ends, pure ASCII but for headers that need SMTPUTF8."""

    subject: str
    message_id: str
    mail: bytes
