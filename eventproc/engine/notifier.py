"""The notifier: takes due notices from the store, has them written and sent, and records how it went."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from email import message_from_bytes, policy
from email.utils import parseaddr
from uuid import uuid4

import structlog

from eventproc.abc import Bus, Clock, Mailer, Renderer, Store, Tx
from eventproc.errors import EventprocError, MailError, MailRefused, Unavailable
from eventproc.model import (
    DIGEST_HEADER,
    SECOND_US,
    LogChunk,
    Notice,
    NoticeFacts,
    NoticeState,
    Run,
    isoformat,
)

TOPIC = "notices"
STORE_PAUSE_S = 1.0  # after the store failed
MARK_PAUSE_S = 0.2  # between tries to record that a mail went out
LOG_CHARS = 64_000  # of the log that a mail may quote
PAGE = 1000  # rows
WAITS = "waits for a digest"  # what begins the reason of a notice that was held back
CARRIED = f"{WAITS} by notice "  # of one that a digest stands for; with that digest's notice
SHOWN = 50  # runs that a digest lists

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class NotifierSettings:
    """How notices are sent."""

    sender: str = "eventproc@localhost"  # or "Name <address>"
    batch: int = 10  # notices leased at a time
    poll_s: float = 5.0  # between looks when no wake-up comes
    lease_s: float = 300.0
    send_s: float = 130.0  # longest that one send can take; none is begun with less than that left of the lease
    backoff_s: float = 30.0  # before the second try; doubles from try to try
    backoff_max_s: float = 3600.0
    jitter: float = 0.25  # fraction of the delay, added or taken away at random
    max_age_s: float = 3 * 86400.0  # a notice that was not sent by then is given up
    log_lines: int = 50  # of the run's output, in failure mails
    burst: int = 5  # failure mails of a handler in `burst_s` that go by themselves; the rest is digested; 0: all do
    burst_s: float = 900.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Letter:
    """A mail ready to go; a digest stands for further notices, up to that id."""

    notice: Notice
    mail: bytes
    last: int | None = None

    def settle(
        self, tx: Tx, state: NoticeState, *, now_us: int, refused: Sequence[str], error: str | None = None
    ) -> None:
        """Record what became of a digest for the further notices."""
        if self.last is not None:
            mark = _mark(self.notice)
            tx.notices.settle(
                self.notice, mark=mark, last=self.last, state=state, now_us=now_us, error=error, refused=refused
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Crowd:
    """The others that have to wait for the same reason; they are put off at once where there are many."""

    handler_id: int
    outcome: str
    after: int = 0  # only those newer than that id


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    """A notice that has to wait because of its handler's throttle."""

    until_us: int
    reason: str
    crowd: _Crowd | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gate:
    """When a handler may be mailed of again, for mails that do not each go by themselves."""

    opens_us: int
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """How a notice is mailed: by itself, or, where it says why, with all that wait."""

    throttle_s: float | None
    why: str = ""


@dataclass(kw_only=True)
class _Turn:
    """What one batch has come to so far."""

    deadline: float  # on the monotonic clock: no send begins after it
    server_error: str | None = None
    waiting: list[tuple[Notice, _Held]] = field(default_factory=list)


class Notifier:
    """
    Sends notices; `run` blocks until `stop` is called from another thread. Any number may work on one store.

    A notice is leased, its mail rendered at the first try and kept, so that every try sends the same bytes with the
    same Message-ID. Tries are repeated with exponential back-off for the recipients not yet reached, until
    `max_age_s`; a notice that is given up says so in its state and error.

    How often a mail can arrive: once, with one exception that SMTP leaves no way around. Between the server's "250"
    and the transaction that marks the notice as sent, this process can be killed, or lose the database for longer
    than the lease; or the connection can break after the server took the mail and before its answer arrives. Nobody
    can then tell a delivered mail from a lost one, and the notice is sent again when its lease runs out: with the
    same Message-ID, by which most mail systems drop the second copy. Everything else is fenced: only the holder of
    the newest lease sends, no send begins without time left in the lease, and what is marked as sent stays so.

    A handler registered with `throttle` gets at most one mail per outcome in that time; what comes meanwhile waits
    and goes out as one digest. Of failures of a handler without one, the first `burst` in `burst_s` are mailed at once;
    what comes then goes out as one digest each `burst_s`, until there is nothing to tell for so long. The oldest
    waiting notice carries the digest, so that several notifiers agree. A digest is for all that wait when it is
    written: they are marked with its notice, and what became of it is recorded for those that bear the mark; a failure
    that comes later, or whose transaction ended later, is told by the next one.
    """

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        mailer: Mailer,
        renderer: Renderer,
        clock: Clock,
        settings: NotifierSettings | None = None,
    ) -> None:
        self._store = store
        self._bus = bus
        self._mailer = mailer
        self._renderer = renderer
        self._clock = clock
        self._settings = settings or NotifierSettings()
        self._sender = parseaddr(self._settings.sender)[1] or self._settings.sender
        self._store_id: str | None = None
        self._closed: dict[tuple[int, str, float | None], _Gate] = {}
        self._stopping = threading.Event()
        self._done = threading.Event()

    def run(self) -> None:
        """Send notices until `stop` is called."""
        self._done.clear()
        listener = self._bus.listen(TOPIC)
        log.info("notifier started", mailer=self._mailer.describe())
        try:
            while not self._stopping.is_set():
                try:
                    more = self.turn()
                    pause = 0.0 if more else self._idle_s()
                except Exception as error:  # noqa: BLE001  # the store may be away or a row odd: others' mails go on
                    level = log.warning if isinstance(error, EventprocError) else log.exception
                    level("notifier: a turn failed, trying again", error=str(error))
                    self._stopping.wait(STORE_PAUSE_S)
                    continue
                if pause > 0:
                    listener.wait(pause)
        finally:
            listener.close()
            self._done.set()
            log.info("notifier stopped")

    def stop(self, grace_s: float = 30.0) -> None:
        """Begin no further send, and wait so long for the one under way."""
        self._stopping.set()
        self._bus.wake(TOPIC)
        if not self._done.wait(grace_s):
            log.warning("notifier: a send is still under way after the grace time", grace_s=grace_s)

    def turn(self) -> bool:
        """Work off one batch of due notices; return whether there may be more at once."""
        settings = self._settings
        begun = time.monotonic()
        with self._store.begin() as tx:
            notices = tx.notices.claim(
                limit=settings.batch, lease_us=int(settings.lease_s * SECOND_US), now_us=self._clock.now_us()
            )
        turn = _Turn(deadline=begun + settings.lease_s - settings.send_s)
        for notice in notices:
            if self._stopping.is_set() or time.monotonic() > turn.deadline:
                turn.waiting.append((notice, _Held(until_us=self._clock.now_us(), reason="given back unsent")))
            elif turn.server_error is not None and _was_held(notice):
                until_us = self._clock.now_us() + int(settings.backoff_s * SECOND_US)
                turn.waiting.append((notice, _Held(until_us=until_us, reason=notice.error or WAITS)))
            elif turn.server_error is not None:
                self._again(notice, turn.server_error)
            else:
                self._handle(notice, turn)
        full = len(notices) == settings.batch
        self._hold(turn.waiting, crowds=full)
        return full and turn.server_error is None

    def _idle_s(self) -> float:
        with self._store.read() as tx:
            due_us = tx.notices.next_due_us()
        if due_us is None:
            return self._settings.poll_s
        return min(self._settings.poll_s, max(0.05, (due_us - self._clock.now_us()) / SECOND_US))

    # ---------------------------------------------------------------------------------------------- one notice

    def _handle(self, notice: Notice, turn: _Turn) -> None:
        try:
            letter = self._prepare(notice)
        except Unavailable:
            raise
        except Exception as error:  # whatever is odd about this notice must not stop the others
            log.exception("a notice could not be written", notice=notice.id, run=notice.run_id)
            self._again(notice, f"the mail could not be written: {type(error).__name__}: {error}")
            return
        if isinstance(letter, _Held):
            turn.waiting.append((notice, letter))
        elif letter is not None:
            self._send(letter, turn)

    def _prepare(self, notice: Notice) -> _Letter | _Held | None:
        """Return the mail to send; None when the notice is no longer ours."""
        with self._store.read() as tx:
            now = tx.notices.get(notice.id)
            if now is None or now.state is not NoticeState.PENDING or now.token != notice.token:
                return None
            if now.mail is not None:
                return _Letter(notice=now, mail=now.mail, last=_last_covered(now.mail))
            run = tx.runs.get(notice.run_id)
            if run is None:
                raise MailError(f"run {notice.run_id} is no longer stored")
            group = self._group(tx, now, run)
            if isinstance(group, _Held):
                return group
        count = self._gather(now) if group.why else 0
        with self._store.read() as tx:
            facts = self._facts(tx, now, run, group, count)
        rendered = self._renderer.render(replace(facts, store_id=self._own_id()))
        with self._store.begin() as tx:
            kept = tx.notices.keep_mail(
                notice.id,
                notice.token,
                subject=rendered.subject,
                message_id=rendered.message_id,
                mail=rendered.mail,
            )
        if not kept:
            return None
        return _Letter(notice=now, mail=rendered.mail, last=_last_covered(rendered.mail))

    def _gather(self, notice: Notice) -> int:
        until_us = notice.due_us + SECOND_US  # after the lease, should nothing come of it
        with self._store.begin() as tx:
            return tx.notices.gather(notice, mark=_mark(notice), until_us=until_us)

    def _group(self, tx: Tx, notice: Notice, run: Run) -> _Group | _Held:
        """Return what is told in one mail with a notice, or until when it has to wait."""
        handler = tx.handlers.get(run.handler_id)
        throttle_s = handler.current.options.throttle_s if handler is not None else None
        gate = self._gate(tx, notice, run, throttle_s)
        if gate is None:
            return _Group(throttle_s=throttle_s)
        now_us = self._clock.now_us()
        if gate.opens_us > now_us:
            return _Held(
                until_us=gate.opens_us,
                reason=f"{WAITS} at {isoformat(gate.opens_us)}: {gate.why}",
                crowd=_Crowd(handler_id=run.handler_id, outcome=notice.outcome),
            )
        oldest_id, due_us = tx.notices.oldest_pending(run.handler_id, notice.outcome) or (notice.id, notice.due_us)
        if oldest_id != notice.id:
            return _Held(
                until_us=max(due_us, now_us + SECOND_US),
                reason=f"{WAITS} after notice {oldest_id}",
                crowd=_Crowd(handler_id=run.handler_id, outcome=notice.outcome, after=oldest_id),
            )
        return _Group(throttle_s=throttle_s, why=gate.why)

    def _gate(self, tx: Tx, notice: Notice, run: Run, throttle_s: float | None) -> _Gate | None:
        """Return when the handler's next mail of that outcome may go; None for a notice that goes by itself."""
        key = (run.handler_id, notice.outcome, throttle_s)
        known = self._closed.pop(key, None)
        now_us = self._clock.now_us()
        gate = known if known is not None and known.opens_us > now_us else self._look(tx, notice, run, throttle_s)
        if gate is not None and gate.opens_us > now_us:
            self._closed[key] = gate  # nothing opens it sooner, and behind a large digest looking is slow
        return gate

    def _look(self, tx: Tx, notice: Notice, run: Run, throttle_s: float | None) -> _Gate | None:
        settings = self._settings
        if throttle_s is not None:
            last_us = tx.notices.last_sent_us(run.handler_id, notice.outcome)
            opens_us = 0 if last_us is None else last_us + int(throttle_s * SECOND_US)
            return _Gate(opens_us=opens_us, why=f"at most one mail in {throttle_s:g} s was asked for")
        if notice.outcome == "success" or not settings.burst:
            return None
        every_us = int(settings.burst_s * SECOND_US)
        why = f"after {settings.burst} mails in {settings.burst_s:g} s the others come together"
        since_us = self._clock.now_us() - every_us
        mails = tx.notices.mails_since(run.handler_id, notice.outcome, since_us, limit=settings.burst)
        if mails and mails[0].notices > mails[0].mails:  # the last one was a digest already
            return _Gate(opens_us=mails[0].sent_us + every_us, why=why)
        if sum(each.mails for each in mails) >= settings.burst:
            return _Gate(opens_us=mails[-1].sent_us + every_us, why=why)
        held = tx.notices.waits(run.handler_id, notice.outcome, WAITS)
        return _Gate(opens_us=0, why=why) if held else None

    def _facts(self, tx: Tx, notice: Notice, run: Run, group: _Group, count: int) -> NoticeFacts:
        others, last = tx.notices.gathered(notice, mark=_mark(notice), limit=SHOWN) if count else ([], None)
        runs = [tx.runs.get(other.run_id) for other in others]
        return NoticeFacts(
            notice=notice,
            run=run,
            handler=tx.handlers.version(run.handler_id, run.version),
            event=tx.events.get(run.event_id),
            log_tail=_log_tail(tx, run, self._settings.log_lines),
            files=tuple(tx.files.of_run(run.id)),
            sender=self._settings.sender,
            store_id="",
            now_us=self._clock.now_us(),
            digest=tuple(other for other in runs if other is not None),
            digest_ids=(others[0].id, last.id) if others and last is not None else None,
            digest_count=count,
            digest_last=tx.runs.get(last.run_id) if last is not None else None,
            digest_why=group.why,
            throttle_s=group.throttle_s,
        )

    def _send(self, letter: _Letter, turn: _Turn) -> None:
        notice = letter.notice
        try:
            refused = self._mailer.send(letter.mail, self._sender, notice.recipients)
        except MailRefused as error:
            self._refused(letter, error)
        except MailError as error:
            if error.details.get("server"):
                turn.server_error = error.message
            self._again(notice, error.message, error)
        except Exception as error:  # a fault in the mailer: this notice waits, the others go on
            log.exception("the mailer failed", notice=notice.id)
            self._again(notice, f"{type(error).__name__}: {error}")
        else:
            self._sent(letter, tuple(refused), turn)

    # ---------------------------------------------------------------------------------------------- what came of it

    def _sent(self, letter: _Letter, refused: tuple[str, ...], turn: _Turn) -> None:
        """Record it, and keep trying for as long as the lease lasts: not recorded means sent again."""
        notice = letter.notice
        now_us = self._clock.now_us()

        def mark() -> None:
            with self._store.begin() as tx:
                gone = _union(notice.refused, refused)
                if not tx.notices.sent(notice.id, notice.token, now_us=now_us, refused=gone):
                    log.warning("a notice was sent after its lease was lost; it may arrive twice", notice=notice.id)
                letter.settle(tx, NoticeState.SENT, now_us=now_us, refused=refused)

        _insist(mark, until=turn.deadline + self._settings.send_s)
        log.info("notice sent", notice=notice.id, run=notice.run_id, refused=list(refused), digest=letter.last)

    def _refused(self, letter: _Letter, error: MailRefused) -> None:
        notice = letter.notice
        refused = _union(notice.refused, tuple(error.details.get("refused", notice.recipients)))
        now_us = self._clock.now_us()
        with self._store.begin() as tx:
            tx.notices.failed(
                notice.id, notice.token, error=error.message, retry_us=None, now_us=now_us, refused=refused
            )
            letter.settle(tx, NoticeState.FAILED, now_us=now_us, error=error.message, refused=refused)
        log.warning("notice refused for good", notice=notice.id, run=notice.run_id, error=error.message)

    def _again(self, notice: Notice, message: str, error: MailError | None = None) -> None:
        """Record a failed try: the next one comes after the back-off, or none when the notice is too old."""
        settings = self._settings
        now_us = self._clock.now_us()
        delay = min(settings.backoff_s * 2 ** min(max(notice.attempts - 1, 0), 30), settings.backoff_max_s)
        delay *= 1 + settings.jitter * random.uniform(-1, 1)  # noqa: S311  # spreads tries, guards nothing
        retry_us: int | None = now_us + int(delay * SECOND_US)
        details = error.details if error is not None else {}
        refused = tuple(details.get("refused", ()))
        recipients = details.get("recipients")
        if recipients is None and refused:
            recipients = [to for to in notice.recipients if to not in refused]
        with self._store.begin() as tx:
            if retry_us is not None and retry_us > self._last_try_us(tx, notice):
                tries = "1 try" if notice.attempts == 1 else f"{notice.attempts} tries"
                message, retry_us = f"given up after {tries}: {message}", None
            tx.notices.failed(
                notice.id,
                notice.token,
                error=message,
                retry_us=retry_us,
                now_us=now_us,
                recipients=recipients,
                refused=_union(notice.refused, refused),
            )
        event = "notice given up" if retry_us is None else "notice not sent yet"
        log.warning(event, notice=notice.id, run=notice.run_id, attempt=notice.attempts, error=message)

    def _last_try_us(self, tx: Tx, notice: Notice) -> int:
        """Return when the notice is too old; the time it was held back for a digest does not count."""
        run = tx.runs.get(notice.run_id)
        handler = tx.handlers.get(run.handler_id) if run is not None else None
        held_s = (handler.current.options.throttle_s if handler is not None else None) or 0.0
        kept = tx.notices.get(notice.id)
        if kept is not None and kept.mail is not None and _last_covered(kept.mail):
            held_s = max(held_s, self._settings.burst_s)
        return notice.created_us + int((self._settings.max_age_s + held_s) * SECOND_US)

    def _hold(self, waiting: Sequence[tuple[Notice, _Held]], *, crowds: bool) -> None:
        if not waiting:
            return
        now_us = self._clock.now_us()
        others = {held.crowd: held for _, held in waiting if held.crowd is not None} if crowds else {}
        with self._store.begin() as tx:
            for notice, held in waiting:
                reason = (notice.error if _is_carried(notice) else None) or held.reason
                tx.notices.hold(notice.id, notice.token, until_us=held.until_us, reason=reason)
            for crowd, held in others.items():
                tx.notices.put_off(
                    crowd.handler_id,
                    crowd.outcome,
                    after=crowd.after,
                    until_us=held.until_us,
                    reason=held.reason,
                    keep=CARRIED,
                    now_us=now_us,
                )

    def _own_id(self) -> str:
        """Return this installation's id, which is in every Message-ID; the first notifier makes it up."""
        if self._store_id is None:
            with self._store.begin() as tx:
                known = tx.get_meta("store_id")
                if known is None:
                    known = uuid4().hex[:16]
                    tx.set_meta("store_id", known)
            self._store_id = known
        return self._store_id


def _mark(carrier: Notice) -> str:
    """Return what the notices bear for an error that a digest stands for."""
    return f"{CARRIED}{carrier.id}"


def _was_held(notice: Notice) -> bool:
    return (notice.error or "").startswith(WAITS)


def _is_carried(notice: Notice) -> bool:
    return (notice.error or "").startswith(CARRIED)


def _last_covered(mail: bytes) -> int | None:
    """Read from a digest up to which notice it stands for those that bear its mark; None for other mails."""
    headers = message_from_bytes(mail.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", policy=policy.default)
    last = str(headers.get(DIGEST_HEADER, "")).rpartition("-")[2].strip()
    return int(last) if last.isdecimal() else None


def _union(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _log_tail(tx: Tx, run: Run, lines: int) -> tuple[LogChunk, ...]:
    """Return the end of the last attempt's output: at most so many lines, at most LOG_CHARS."""
    chunks: list[LogChunk] = []
    after = 0
    while page := tx.runs.logs(run.id, after=after, limit=PAGE):
        chunks += [chunk for chunk in page if chunk.attempt == run.attempt]
        after = page[-1].id
        if len(page) < PAGE:
            break
    text, used = "", 0
    for chunk in reversed(chunks):
        text, used = chunk.text + text, used + 1
        if len(text) > LOG_CHARS or text.count("\n") > lines:
            break
    if not used:
        return ()
    kept = text[-LOG_CHARS:].splitlines(keepends=True)[-lines:]
    return (replace(chunks[-used], text="".join(kept)),)


def _insist(action: Callable[[], None], *, until: float) -> None:
    """Repeat an action that finds the store unavailable until it is done or the time is up."""
    while True:
        try:
            action()
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(MARK_PAUSE_S)
        else:
            return
