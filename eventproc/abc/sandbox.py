"""The ports to the processes that execute handlers, and to what handlers may ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eventproc.model import (
    Claim,
    Effects,
    Environment,
    Failure,
    Limits,
    LogChunk,
)


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
    environment: Environment | None = None  # the packages that it was registered with
    interpreter: str = ""  # for a blob of unknown origin: the version to try it with; "" for our own
    isolation: str = "run"  # "cell": each call in a fork of the loaded process, one at a time; settle before the next
    allow_subprocess: bool = False
    network: tuple[str, ...] = ()  # as in Options


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
    quiet: bool = False  # the handler wants no mail of its success
    grouped: bool = False  # the kernel bounded all its processes together, in a control group


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

    def idle_cpu_us(self) -> int:
        """Return the processor time that it has used since it rested: by threads that a call left behind."""
        return 0

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
    groups: str = ""  # whether control groups bound handlers that may start processes


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
    def pythons(self, *, wait: bool = False) -> tuple[str, ...]:
        """
        Return the versions of Python that blobs may be made by, our own first.

        The others are looked for in the background; with `wait` the answer comes when all were.
        """

    def unused(self) -> Mapping[str, str]:
        """Return the interpreters that are there and not used, with the reason."""
        return {}

    @abstractmethod
    def resolve(self, python: str, requirements: Sequence[str]) -> Environment:
        """
        Lock packages for that version of Python.

        Raises RequirementsError with the installer's words, UnsupportedOption where there are no packages to be had.
        """

    @abstractmethod
    def close(self) -> None: ...
