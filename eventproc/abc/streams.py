"""What the engine needs of a compiled trigger, and what can be done with the rows of triggers and streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from eventproc.model import Distinguishing, TraitEvent, TriggerDefinition


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
