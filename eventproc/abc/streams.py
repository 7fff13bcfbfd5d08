"""What the engine needs of a compiled trigger, and what can be done with the rows of triggers and streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from eventproc.model import (
    Distinguishing,
    Event,
    Failure,
    Stream,
    StreamFilter,
    StreamState,
    TraitEvent,
    TriggerDefinition,
    TriggerRecord,
    User,
)


class Checks(Protocol):
    """
    Counts what a trigger's checks came to, and why; each method returns what the check came to.

    The groups of winchester's debugger: "Match" for match criteria, "Fire" for fire criteria.
    """

    def match(self) -> bool:
        """Count a check that held; return True."""

    def mismatch(self, reason: str) -> bool:
        """Count a check that did not hold; return False."""

    def check(self, value: bool, reason: str) -> bool:  # noqa: FBT001 - winchester's signature
        """Count either; return `value`."""


class Matcher(Protocol):
    """
    A trigger, parsed once; immutable and safe to share between threads.

    `eventproc.registry.triggers.compile_trigger(definition)` makes one, and raises InvalidInput for a definition
    that could not work. No method raises for whatever an event may hold: what can not be compared does not match.
    """

    definition: TriggerDefinition
    fire_needs: Sequence[int]
    """Per fire criterion, how many events of the stream must satisfy it."""

    def could_match(self, event_type: str) -> bool:
        """Tell whether any event of this type could match; the engine asks once per type and remembers."""

    def match(self, event: TraitEvent, checks: Checks) -> Mapping[str, Distinguishing] | None:
        """
        Return the values of the distinguishing traits if the event matches, else None.

        The first criteria that match supply `map_distinguished_by`. No distinguishing traits: an empty mapping.
        """

    def counts(self, event: TraitEvent, checks: Checks) -> Sequence[int]:
        """Return the indexes of the fire criteria that the event satisfies (each independently of the others)."""

    def expires_us(self, first_us: int, last_us: int, now_us: int) -> int:
        """Return when a stream with these first and last event times expires; `now_us` is $timestamp."""


class Compile(Protocol):
    """Makes a matcher of a definition. Raises InvalidInput."""

    def __call__(self, definition: TriggerDefinition) -> Matcher: ...


@dataclass(slots=True)
class Joinable:
    """
    A stream while events join it: what is read, changed and written back within one transaction.

    `id` 0 stands for one that is to be added. `key` names trigger and distinguishing traits; None lets nothing join
    any more.
    """

    id: int
    key: str | None
    trigger_id: int
    trigger_version: int
    first_us: int
    last_us: int
    events: int
    matched: list[int]
    hops: int
    fire_us: int | None
    expire_us: int
    name: str = ""  # the name and the traits are only written, when it is added
    traits_json: str = "{}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Handover:
    """What becomes of a due stream: given to a run, or ended at once without one."""

    stream_id: int
    state: StreamState
    expiring: bool
    run_id: int | None = None
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One counter of a trigger: `kind` is Match, Fire or Counter; `name` a reason, empty for the checks themselves."""

    trigger_id: int
    kind: str
    name: str
    checks: int
    passed: int = 0


class TriggerRows(Protocol):
    """Triggers by id, and by name while they are not deleted."""

    def put(self, definition: TriggerDefinition, *, owner: User, now_us: int) -> TriggerRecord:
        """Store the next version of the trigger of that name; one like the current version changes nothing."""

    def get(self, trigger_id: int) -> TriggerRecord | None:
        """Return a trigger, deleted ones too."""

    def find(self, name: str) -> TriggerRecord | None: ...

    def live(self) -> list[TriggerRecord]:
        """Return the triggers that are not deleted, by id."""

    def set_paused(self, trigger_id: int, *, paused: bool, by: str, now_us: int) -> bool: ...

    def delete(self, trigger_id: int, *, by: str, now_us: int) -> bool:
        """Let nothing join any more; streams that are there still fire and expire."""

    def add_checks(self, checks: Sequence[Check]) -> None:
        """Add to the trigger's counters."""

    def checks(self, trigger_id: int) -> list[Check]: ...
    def clear_checks(self, trigger_id: int) -> None: ...


class StreamRows(Protocol):
    """Streams by id."""

    def joinable(self, keys: Sequence[str]) -> dict[str, Joinable]:
        """Return the streams that events with these keys join, locked until the end of the transaction."""

    def add(self, streams: Sequence[Joinable], *, now_us: int) -> set[str]:
        """
        Insert streams and give them their ids; return the keys of those inserted.

        A key that is missing belongs to a stream that somebody else was quicker to make: ask `joinable` again.
        """

    def change(self, streams: Sequence[Joinable], *, now_us: int) -> None:
        """Write back what joining changed."""

    def link(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Add events to streams, as (stream id, event seq)."""

    def events(self, stream_ids: Sequence[int]) -> dict[int, list[Event]]:
        """Return the streams' events by (time, seq)."""

    def of_events(self, seqs: Sequence[int]) -> dict[int, list[int]]:
        """Return, by event, the ids of the streams that it is in."""

    def due(self, *, now_us: int, limit: int, expiring: bool) -> list[Stream]:
        """
        Return streams that are to fire (or expire) by now, those due first, locked; what others work on is left out.

        A stream whose fire time is set does not expire.
        """

    def next_due_us(self) -> int | None:
        """Return when the next stream fires or expires."""

    def hand_over(self, handovers: Sequence[Handover], *, now_us: int) -> None:
        """Change the state of streams that are due; nothing joins them any more."""

    def follow(self, run_ids: Sequence[int], *, now_us: int) -> None:
        """
        Bring the streams that were given to these runs in step with them.

        The run is open: firing or expiring; committing or succeeded: completed; failed or cancelled: error or
        expire_error; commit_failed: commit_error.
        """

    def out_of_step(self, *, limit: int) -> list[int]:
        """Return runs that ended while their streams are still firing or expiring."""

    def reset(self, stream_ids: Sequence[int], *, now_us: int) -> set[int]:
        """Make error retry_fire, due now, and expire_error retry_expire; return the ids of those changed."""

    def delete(self, stream_ids: Sequence[int]) -> set[int]:
        """Delete streams that no run works on; return their ids. Their events stay."""

    def get(self, stream_id: int) -> Stream | None: ...

    def page(
        self, which: StreamFilter, *, after: int | None = None, limit: int = 100, newest_first: bool = True
    ) -> list[Stream]:
        """Return streams by id, starting behind id `after`."""

    def counts(self) -> dict[StreamState, int]:
        """Return the number of streams in each state but completed."""
