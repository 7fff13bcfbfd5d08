"""What can be done with each kind of row inside a transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eventproc.abc.traits import Horizon, TraitBlock
from eventproc.model import (
    ApiKey,
    AuditEntry,
    Chunk,
    Claim,
    Event,
    FileRecord,
    Finish,
    HandlerBundle,
    HandlerRecord,
    HandlerVersion,
    HookSpec,
    LogChunk,
    Mailed,
    NewNotice,
    NewRun,
    Notice,
    NoticeState,
    Occupied,
    Options,
    Role,
    Run,
    RunFilter,
    Schedule,
    SecretRecord,
    Series,
    User,
)


class HookRows(Protocol):
    def put(self, spec: HookSpec, *, now_us: int, by: str) -> None:
        """Insert or replace the spec of that name; `paused` is left as it was."""

    def get(self, name: str) -> HookSpec | None: ...
    def all(self) -> list[HookSpec]: ...
    def delete(self, name: str) -> bool: ...
    def set_paused(self, name: str, *, paused: bool) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """What `HandlerRows.put` stores as the next version."""

    hook: str
    name: str
    bundle: HandlerBundle
    tags: tuple[str, ...]
    notify_on_success: str | None
    notify_on_failure: str | None
    options: Options
    environment: str | None = None  # digest of its packages' lock


class HandlerRows(Protocol):
    def put(self, registration: Registration, *, owner: User, now_us: int) -> HandlerRecord:
        """
        Store the next version of (hook, name) and make it current; the first is version 0.

        Atomic under concurrent callers: each gets its own version, one handler row lives.
        """

    def get(self, handler_id: int) -> HandlerRecord | None:
        """Return a handler, deregistered ones too."""

    def find(self, hook: str, name: str) -> HandlerRecord | None: ...

    def live(self, hook: str | None = None) -> list[HandlerRecord]:
        """Return the registered handlers, by id; `hook` is compared as it is."""

    def versions(self, handler_id: int) -> list[HandlerVersion]: ...
    def version(self, handler_id: int, version: int) -> HandlerVersion | None: ...
    def blob(self, handler_id: int, version: int) -> bytes | None: ...

    def set_current(self, handler_id: int, version: int, *, by: str, now_us: int) -> HandlerRecord: ...
    def set_paused(self, handler_id: int, *, paused: bool, by: str, now_us: int) -> bool: ...

    def deregister(self, handler_id: int, *, by: str, now_us: int) -> bool:
        """Retire the handler and cancel its queued and retrying runs; a later registration is a new handler."""

    def revision(self) -> int:
        """Return a number that changes whenever hooks, handlers or users' states do: caches compare it."""


class EventRows(Protocol):
    def add(self, events: Sequence[Event]) -> list[tuple[Event, bool]]:
        """
        Insert events (their `seq` is ignored), each once by id; a batch costs a constant number of statements.

        Return, in order, the stored event and whether it is new. The caller compares digests of those that are not.
        Ids of pruned events are still known for the deduplication window: then an event with that digest and seq 0.
        """

    def get(self, event_id: str) -> Event | None: ...
    def by_seq(self, seqs: Sequence[int]) -> dict[int, Event]: ...
    def hooks(self) -> list[str]:
        """Return the hooks that there are events of."""

    def page(
        self,
        *,
        hook: str | Sequence[str] | None = None,
        tag: str | None = None,
        key: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        after: int | None = None,
        limit: int = 100,
        newest_first: bool = True,
        traits: Mapping[str, Any] | None = None,
    ) -> list[Event]:
        """
        Return events by seq, starting behind seq `after` (keyset paging); since/until compare `time_us`.

        Several hooks mean events of any of them. `traits` are top-level members of the payload, with values of the
        same type.
        """

    def horizon(self) -> Horizon | None:
        """Return the present one, None while there are no events."""

    def passed(self, past: Horizon) -> bool:
        """Tell whether all transactions have ended that were under way then: no further event comes before its seq."""

    def next_block(self, up_to: int) -> TraitBlock | None:
        """Sum up the oldest events that are not yet, if there are enough before that seq; nothing is written."""

    def keep_block(self, block: TraitBlock) -> None:
        """Keep a summary for searches, and forget those whose events are gone."""


class RunRows(Protocol):
    held_back: bool  # whether the last claim left runs, or may have, because their owner has as many slots as one gets

    def add(self, event_seq: int, runs: Sequence[NewRun], *, now_us: int) -> list[int]:
        """Queue runs of one event; a (event, handler, round) that exists is left alone and not returned."""

    def add_many(self, runs: Sequence[tuple[int, NewRun]], *, now_us: int) -> list[tuple[int, int]]:
        """Queue (event_seq, run) pairs in few statements; return (event_seq, run id) of the new ones."""

    def claim(
        self,
        *,
        worker: str,
        pythons: Sequence[str],
        want_run: int,
        want_batch: int,
        lease_us: int,
        now_us: int,
        run_slots: Occupied | None = None,
        batch_slots: Occupied | None = None,
    ) -> list[Claim]:
        """
        Lease due runs: at most `want_run` of isolation run or cell, at most `want_batch` of isolation batch.

        No owner gets more of the slots of a kind than `most`: a run of isolation run or cell takes a slot, and so do
        all of a handler's of isolation batch together, which are counted where several owners have such handlers.

        Only handlers whose Python is in `pythons` (empty: any). Order, concurrency and rate limits are kept, paused
        hooks and handlers and disabled owners are left out, handlers take turns so that none starves another.
        """

    def renew(self, leases: Sequence[tuple[int, int]], *, lease_us: int, now_us: int) -> set[int]:
        """Prolong (run id, token) leases; return the ids still held and not asked to be cancelled."""

    def cancel_requests(self, run_ids: Sequence[int]) -> set[int]:
        """Return those of the leased runs that somebody asked to cancel."""

    def finish(self, finishes: Sequence[Finish], *, now_us: int) -> set[int]:
        """
        Write transitions of leased runs in few statements; return the ids that were still ours (token matches).

        The others are stale: nothing about them was written, and nothing else of theirs may be.
        """

    def expire_leases(self, *, now_us: int, max_interruptions: int, limit: int = 1000) -> list[Run]:
        """
        Take back leases that ran out. Return the runs as they now stand.

        running → queued, or failed ("lost") after `max_interruptions`; committing → commit_failed ("interrupted").
        """

    def next_due_us(self, *, after_us: int | None = None) -> int | None:
        """
        Return when the next queued or retrying run is due that is not paused; for an exhausted rate, when it resumes.

        That can lie in the past: such a run waits behind its order key or a limit. With `after_us` only later times
        count: a worker that has just claimed asks for what comes next.
        """

    def get(self, run_id: int) -> Run | None: ...

    def page(self, which: RunFilter, *, after: int | None = None, limit: int = 100) -> list[Run]:
        """Return runs newest first, starting behind id `after`."""

    def find(self, which: RunFilter, *, after: int | None = None, limit: int = 100) -> list[int]:
        """Return the ids of what `page` returns."""

    def handlers_of(self, run_ids: Collection[int]) -> dict[int, tuple[int, str]]:
        """Return id and name of the handlers of those runs that are there, by run."""

    def counts(self) -> dict[str, int]:
        """Return the number of runs in each state that is not final, and of the dead ones."""

    def cancel(self, run_ids: Sequence[int], *, now_us: int, reason: str) -> tuple[set[int], set[int]]:
        """Cancel waiting runs, ask for the end of leased ones; return the ids (cancelled, asked)."""

    def requeue(self, run_ids: Sequence[int], *, now_us: int, current: bool) -> set[int]:
        """
        Queue failed, commit_failed and cancelled runs again, with their own version or the current one.

        A commit_failed run keeps its recorded effects and result and only runs its callbacks.
        """

    def next_round(self, event_seq: int, handler_id: int) -> int: ...

    def add_logs(self, chunks: Sequence[LogChunk]) -> None: ...
    def logs(self, run_id: int, *, after: int = 0, limit: int = 1000) -> list[LogChunk]: ...

    def backlog(self, handler_id: int) -> int:
        """Return how many runs of the handler wait."""


class NoticeRows(Protocol):
    def add(self, notices: Sequence[NewNotice], *, now_us: int) -> None:
        """Insert notices, each once by (run_id, outcome, serial)."""

    def claim(self, *, limit: int, lease_us: int, now_us: int) -> list[Notice]:
        """Lease pending notices that are due; their `attempts` grows by one."""

    def keep_mail(self, notice_id: int, token: int, *, subject: str, message_id: str, mail: bytes) -> bool: ...

    def sent(self, notice_id: int, token: int, *, now_us: int, refused: Sequence[str] = ()) -> bool: ...

    def failed(
        self,
        notice_id: int,
        token: int,
        *,
        error: str,
        retry_us: int | None,
        now_us: int,
        recipients: Sequence[str] | None = None,
        refused: Sequence[str] = (),
    ) -> bool:
        """Record a failed try; `retry_us` None gives up. `recipients` are those still to be reached, if fewer."""

    def get(self, notice_id: int) -> Notice | None: ...
    def page(self, *, run_id: int | None = None, after: int | None = None, limit: int = 100) -> list[Notice]: ...
    def next_due_us(self) -> int | None: ...

    def mails_since(self, handler_id: int, outcome: str, since_us: int, *, limit: int) -> list[Mailed]:
        """Return at most so many times at which mails of that handler and outcome were sent, newest first."""

    def last_sent_us(self, handler_id: int, outcome: str) -> int | None:
        """Return when the last notice of that handler and outcome was sent (for throttling)."""

    def oldest_pending(self, handler_id: int, outcome: str) -> tuple[int, int] | None:
        """Return the id of the oldest pending notice of that handler and outcome, and when it is due."""

    def waits(self, handler_id: int, outcome: str, begins: str) -> bool:
        """Return whether a pending notice of that handler and outcome has an error that begins so."""

    def hold(self, notice_id: int, token: int, *, until_us: int, reason: str) -> bool:
        """Give back a leased notice for later; it has not been tried. False for a lost lease."""

    def put_off(
        self, handler_id: int, outcome: str, *, after: int, until_us: int, reason: str, keep: str, now_us: int
    ) -> int:
        """
        Let all that are due, have no mail yet and are newer than id `after` wait; return how many they are.

        `reason` becomes their error, but of those whose error begins with `keep`.
        """

    def gather(self, carrier: Notice, *, mark: str, until_us: int) -> int:
        """
        Let a notice that is leased stand for all newer ones of its handler, outcome and recipients without a mail.

        Their error becomes `mark`, and whoever had leased one of them loses it. Return how many they are.
        """

    def gathered(self, carrier: Notice, *, mark: str, limit: int) -> tuple[list[Notice], Notice | None]:
        """Return the first ones that a notice stands for, oldest first, and the last of all."""

    def settle(
        self,
        carrier: Notice,
        *,
        mark: str,
        last: int,
        state: NoticeState,
        now_us: int,
        error: str | None = None,
        refused: Sequence[str] = (),
    ) -> int:
        """Record what became of the digest for those that a notice stands for, up to id `last`."""


class FileRows(Protocol):
    def add(self, files: Sequence[FileRecord]) -> None: ...
    def get(self, code: str) -> FileRecord | None: ...
    def of_run(self, run_id: int) -> list[FileRecord]: ...
    def exists(self, codes: Sequence[str]) -> set[str]: ...


class SeriesRows(Protocol):
    def put(self, series: Series) -> Series:
        """Insert the registry row, or return the existing one of that uuid unchanged."""

    def get(self, uuid: str) -> Series | None: ...

    def find(
        self,
        *,
        name: str | None = None,
        collection: str | None = None,
        prefix: bool = False,
        tags: Mapping[str, str] | None = None,
        limit: int = 1000,
    ) -> list[Series]:
        """Return series by name and collection; `prefix` compares the collection's beginning."""

    def collections(self, prefix: str = "") -> list[str]: ...
    def set_annotations(self, uuid: str, annotations: Mapping[str, str]) -> bool: ...

    def chunks(self, uuid: str, start_ns: int, end_ns: int, *, limit: int | None = None) -> list[Chunk]:
        """Return the chunks that overlap [start_ns, end_ns), in order; with `limit` the first ones."""

    def replace_chunks(self, uuid: str, old: Sequence[int], new: Sequence[Chunk]) -> None:
        """Delete the chunks that start at `old`, insert `new`, and bring count, earliest and latest up to date."""

    def lock(self, uuid: str) -> None:
        """Keep other writers of this series out until the end of the transaction."""


class UserRows(Protocol):
    def add(self, name: str, role: Role, *, now_us: int) -> User: ...
    def get(self, user_id: int) -> User | None: ...
    def find(self, name: str) -> User | None: ...
    def all(self) -> list[User]: ...
    def update(self, user_id: int, *, role: Role | None = None, disabled: bool | None = None) -> User: ...

    def add_key(self, user_id: int, *, prefix: str, digest: str, label: str, now_us: int) -> ApiKey: ...
    def keys(self, user_id: int | None = None) -> list[ApiKey]: ...
    def revoke_key(self, prefix: str, *, now_us: int) -> bool: ...

    def by_key_prefix(self, prefix: str) -> tuple[User, ApiKey, str] | None:
        """Return the owner, the key and its stored digest (revoked keys too)."""

    def touch_key(self, key_id: int, *, now_us: int) -> None: ...


class SecretRows(Protocol):
    """Values come and go encrypted."""

    def put(self, user_id: int, name: str, value_encrypted: bytes, *, now_us: int) -> SecretRecord: ...

    def of_user(self, user_id: int) -> list[SecretRecord]:
        """Return names and times, by name."""

    def values(self, user_id: int, names: Sequence[str]) -> Mapping[str, bytes]:
        """Return the encrypted values of those of the names that there are."""

    def all_values(self) -> list[tuple[int, str, bytes]]:
        """Return (user id, name, encrypted value) of everybody, for a change of keys."""

    def replace_value(self, user_id: int, name: str, value_encrypted: bytes) -> None:
        """Store the same secret under another key; its times stay."""

    def delete(self, user_id: int, name: str) -> bool: ...


class AuditRows(Protocol):
    def add(self, *, user: str, action: str, object: str, detail: Mapping[str, Any], now_us: int) -> None: ...
    def page(self, *, after: int | None = None, limit: int = 100) -> list[AuditEntry]: ...


class ScheduleRows(Protocol):
    def put(self, schedule: Schedule) -> Schedule:
        """Insert or replace by name; `id` is ignored."""

    def all(self) -> list[Schedule]: ...
    def get(self, name: str) -> Schedule | None: ...
    def delete(self, name: str) -> bool: ...

    def due(self, *, now_us: int, limit: int = 100) -> list[Schedule]:
        """Return due schedules, locked until the end of the transaction."""

    def advance(self, schedule_id: int, next_us: int) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionPolicy:
    """How long things stay, in seconds; None keeps them for ever. Hooks' own `keep_s` comes before `events_s`."""

    events_s: int | None
    runs_s: int | None
    failed_runs_s: int | None
    logs_s: int | None
    files_s: int | None
    notices_s: int | None
    audit_s: int | None
    samples_s: int | None = None
    rejects_s: int | None = None
    outbox_s: int | None = None
    dedup_s: int  # ids of pruned events are remembered for so long after acceptance
    streams_s: int | None = 7 * 86_400  # completed ones; all others stay until somebody deletes them


class RetentionRows(Protocol):
    def prune(self, policy: RetentionPolicy, *, now_us: int, limit: int) -> dict[str, int]:
        """
        Delete at most `limit` rows of each kind that are past their time; return how many of each.

        Events with runs or notices that are not final stay; failed runs stay for `failed_runs_s`. Events in streams
        that are not completed stay whatever the hook says; those in completed ones leave them.
        """

    def expired_files(self, *, now_us: int, policy: RetentionPolicy, limit: int) -> list[str]:
        """Delete the rows of expired files and return their codes, so that the bytes can go after the commit."""
