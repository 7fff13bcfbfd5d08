"""
The ports: what the engine needs from the world, and nothing about how it is done.

Each port has at least two implementations that pass one contract suite (tests/contract).
Times are microseconds since 1970 UTC (`_us`) unless a name says otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from eventproc.model import (
    ApiKey,
    AuditEntry,
    Chunk,
    Claim,
    Effects,
    Event,
    Failure,
    FileRecord,
    Finish,
    HandlerBundle,
    HandlerRecord,
    HandlerVersion,
    HookSpec,
    Limits,
    LogChunk,
    NewNotice,
    NewRun,
    Notice,
    NoticeFacts,
    Options,
    Rendered,
    Role,
    Run,
    RunFilter,
    Schedule,
    SecretRecord,
    Series,
    User,
)

# --------------------------------------------------------------------------------------------------- Clock


class Clock(ABC):
    """Where every due time, expiry and expression takes "now" from."""

    @abstractmethod
    def now_us(self) -> int:
        """Return the present in microseconds since 1970 UTC."""


# --------------------------------------------------------------------------------------------------- Store


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

    def page(
        self,
        *,
        hook: str | None = None,
        tag: str | None = None,
        key: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        after: int | None = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> list[Event]:
        """Return events by seq, starting behind seq `after` (keyset paging); since/until compare `time_us`."""


class RunRows(Protocol):
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
    ) -> list[Claim]:
        """
        Lease due runs: at most `want_run` of isolation run or cell, at most `want_batch` of isolation batch.

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

    def last_sent_us(self, handler_id: int, outcome: str) -> int | None:
        """Return when the last notice of that handler and outcome was sent (for throttling)."""

    def pending_of(self, handler_id: int, outcome: str) -> list[Notice]:
        """Return the pending notices of that handler and outcome, oldest first (for digests)."""


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

    def chunks(self, uuid: str, start_ns: int, end_ns: int) -> list[Chunk]:
        """Return the chunks that overlap [start_ns, end_ns), in order."""

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
    dedup_s: int  # ids of pruned events are remembered for so long after acceptance


class RetentionRows(Protocol):
    def prune(self, policy: RetentionPolicy, *, now_us: int, limit: int) -> dict[str, int]:
        """
        Delete at most `limit` rows of each kind that are past their time; return how many of each.

        Events with runs or notices that are not final stay; failed runs stay for `failed_runs_s`.
        """

    def expired_files(self, *, now_us: int, policy: RetentionPolicy, limit: int) -> list[str]:
        """Delete the rows of expired files and return their codes, so that the bytes can go after the commit."""


class Tx(ABC):
    """One transaction on the store; everything done through it happens together or not at all."""

    hooks: HookRows
    handlers: HandlerRows
    events: EventRows
    runs: RunRows
    notices: NoticeRows
    files: FileRows
    series: SeriesRows
    users: UserRows
    secrets: SecretRows
    audit: AuditRows
    schedules: ScheduleRows
    retention: RetentionRows

    @abstractmethod
    def after_commit(self, action: Callable[[], None]) -> None:
        """Call `action` once the transaction is committed (wake-ups go out here); never after a rollback."""

    @abstractmethod
    def get_meta(self, name: str) -> str | None: ...

    @abstractmethod
    def set_meta(self, name: str, value: str) -> None: ...


class Store(ABC):
    """The database."""

    @abstractmethod
    def begin(self) -> AbstractContextManager[Tx]:
        """Open a transaction for writing; it commits at the end of the block and rolls back on an exception."""

    @abstractmethod
    def read(self) -> AbstractContextManager[Tx]:
        """Open a transaction for reading; it takes no write lock, and writing in it is an error."""

    @abstractmethod
    def join(self, session: Any) -> Tx:
        """
        Wrap a caller's own SQLAlchemy session or connection on the platform's database.

        The caller commits or rolls back; `after_commit` actions follow its commit.
        Raises ConfigError for a session on another database.
        """

    @abstractmethod
    def upgrade(self) -> None:
        """Create the tables or bring them to this version's schema."""

    @abstractmethod
    def revision(self) -> tuple[str | None, str]:
        """Return the schema revision of the database (None: empty) and the one this version needs."""

    @abstractmethod
    def close(self) -> None: ...


# --------------------------------------------------------------------------------------------------- Bus


class Listener(ABC):
    """One ear on some topics."""

    @abstractmethod
    def wait(self, timeout_s: float) -> set[str]:
        """Return the topics that were woken since the last call; empty after the time-out."""

    @abstractmethod
    def close(self) -> None: ...


class Bus(ABC):
    """Wake-ups between processes. They may be lost or doubled: the database is the truth, everybody also polls."""

    @abstractmethod
    def wake(self, *topics: str) -> None:
        """Wake everybody who listens on the topics (runs, notices, cancel, schedules); never blocks or raises."""

    @abstractmethod
    def listen(self, *topics: str) -> Listener: ...

    @abstractmethod
    def close(self) -> None: ...


# --------------------------------------------------------------------------------------------------- Sandbox


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What a child loads: a blob and what is known of it. Only the child ever unpickles it."""

    blob: bytes
    digest: str
    python: str
    kind: str
    name: str  # of the handler, for messages
    source: str | None = None  # so that tracebacks show the handler's lines
    filename: str | None = None
    isolation: str = "run"  # "cell": each call in a fork of the loaded process, one at a time; settle before the next


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One execution: the event as the handler will see it."""

    run_id: int
    attempt: int
    event_json: bytes  # message_id, event_type, timestamp (µs), tags, key, attempt
    payload_json: bytes
    hook: str
    callbacks_only: bool = False
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)  # those that the handler declared


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """
    What one execution came to; status and figures are the monitor's word, the value is the handler's claim.

    `started` is False for a call that never began (an earlier one in its batch took the child down).
    `callbacks` says that on_commit functions (or commit() of a class) wait for `settle`, `rollbacks` the same of
    on_rollback functions: they run should the result turn out impossible to store.
    `alive` says that the child can still be asked to settle.
    """

    run_id: int
    started: bool
    failure: Failure | None
    result_json: str | None
    callbacks: bool
    alive: bool
    cpu_us: int | None = None
    memory_bytes: int | None = None
    rollbacks: bool = False


class RunSession(ABC):
    """The platform's side of one execution: answers the child's requests, collects effects and output."""

    @abstractmethod
    def call(self, op: str, args: Mapping[str, Any], body: bytes) -> tuple[Any, Sequence[bytes]]:
        """
        Answer one request of `db` or `ep` with the rights of the handler's owner.

        Returns a JSON-able value and raw arrays (little-endian int64 or float64). Raises EventprocError, which
        becomes an exception in the handler; anything else is a fault of the platform and ends the run.
        """

    @abstractmethod
    def log(self, stream: str, text: str) -> None:
        """Take a piece of output (stdout, stderr, log)."""

    @abstractmethod
    def effects(self) -> Effects:
        """Return what was asked for so far, validated when it was asked for."""

    @abstractmethod
    def discard(self) -> None:
        """Forget the effects and remove their files' bytes."""

    def secrets(self) -> Mapping[str, str]:
        """Return the declared ones by name. Raises MissingSecret for one that is gone, ConfigError for a wrong key."""
        return {}

    def redact(self, text: str) -> str:
        """Return the text with the values of the run's secrets replaced by their names."""
        return text

    def redact_json(self, text: str) -> str:
        """Return JSON text with the same done to its strings, keys and numbers."""
        return text

    def take_logs(self) -> Sequence[LogChunk]:
        """
        Hand over the output that is not stored yet, so that the worker can write it in the run's own transaction.

        Output that nobody takes is stored by the session itself a moment later.
        """
        return ()


class Services(ABC):
    """Opens the sessions through which handlers reach the platform."""

    @abstractmethod
    def open(self, claim: Claim) -> RunSession: ...


class Child(ABC):
    """A sandboxed process that has loaded one handler version."""

    @abstractmethod
    def execute(self, calls: Sequence[tuple[Call, RunSession]]) -> Iterator[Outcome]:
        """
        Execute calls one after another and yield each outcome as it comes, in order.

        Each call has the whole of the limits. When a call takes the child down, its outcome says how, and the
        calls behind it come back with `started` False.
        """

    @property
    def alive(self) -> bool:
        """Whether it can take calls, as far as is known; asked before a child that was idle gets another one."""
        return True

    @abstractmethod
    def settle(self, run_id: int, action: str) -> Failure | None:
        """Run the waiting "commit" or "rollback" callbacks of an executed call; failed ones can be repeated."""

    def rest(self) -> None:  # noqa: B027 - most have nothing to end
        """End what calls left running, as far as its kind of isolation lets nothing outlive a call."""

    @abstractmethod
    def kill(self) -> None:
        """End the whole tree of processes at once; may be called from any thread, any number of times."""

    @abstractmethod
    def close(self) -> None:
        """End the child in good order; idempotent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxReport:
    """What is really enforced."""

    level: str
    layers: tuple[str, ...]
    missing: Mapping[str, str]  # layer → what its absence means
    pythons: tuple[str, ...]


class Sandbox(ABC):
    """Starts children."""

    @abstractmethod
    def spawn(self, program: Program, limits: Limits) -> Child:
        """
        Start a fresh child for one handler version.

        A blob that can not be loaded shows as the failure (kind "load") of the first execution.
        Raises SandboxError when no child can be had at all.
        """

    @abstractmethod
    def check(self, program: Program, limits: Limits) -> Failure | None:
        """Load the blob in a child without calling it (dry load at registration)."""

    @abstractmethod
    def report(self) -> SandboxReport: ...

    @abstractmethod
    def close(self) -> None: ...


# --------------------------------------------------------------------------------------------------- Mailer, Blobs


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


class Blobs(ABC):
    """Bytes of uploaded files, by code (32 hex digits)."""

    @abstractmethod
    def put(self, code: str, chunks: Iterable[bytes], *, max_bytes: int) -> tuple[int, str]:
        """Store the bytes whole or not at all; return (size, sha256 hex). Raises TooLarge."""

    @abstractmethod
    def open(self, code: str) -> BinaryIO:
        """Open for reading. Raises NotFound."""

    @abstractmethod
    def delete(self, code: str) -> bool: ...

    @abstractmethod
    def codes(self, *, older_than_us: int) -> Iterator[str]:
        """Return the codes stored before that time, to find bytes whose row was never written."""


__all__ = [
    "Blobs",
    "Bus",
    "Call",
    "Child",
    "Clock",
    "Listener",
    "Mailer",
    "Outcome",
    "Program",
    "Registration",
    "Renderer",
    "RetentionPolicy",
    "RunSession",
    "Sandbox",
    "SandboxReport",
    "Services",
    "Store",
    "Tx",
]
