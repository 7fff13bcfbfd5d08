"""Triggers: storing what files say, and telling why one did or did not collect an event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eventproc.abc import Check, Tx
from eventproc.errors import NotFound
from eventproc.model import PIPELINE_HOOK, Role, TriggerDefinition, TriggerRecord, User
from eventproc.registry.documents import hint
from eventproc.registry.tally import FIRE, MATCH, CountedChecks, Counts
from eventproc.registry.traits import trait_event
from eventproc.registry.triggers import compile_trigger, parse_triggers, read_trigger
from eventproc.registry.triggerset import traits_json
from eventproc.service.context import ServiceContext
from eventproc.service.events import existing_event
from eventproc.service.rights import require, require_owner


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What storing triggers came to."""

    triggers: tuple[TriggerRecord, ...]
    changed: tuple[str, ...]  # names of those that are new or have a new version
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Why a trigger did or did not collect an event."""

    matches: bool
    distinguished_by: dict[str, Any] | None
    reasons: tuple[str, ...]  # of the match criteria that did not hold
    fire_criteria: tuple[dict[str, Any], ...]  # need, whether the event counts, and what its stream has
    streams: tuple[int, ...]  # of this trigger, that the event is in


class Triggers:
    """Use cases around triggers."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def push(self, principal: User, text: str, *, name: str = "triggers.yaml", lenient: bool = False) -> Pushed:
        """
        Store the triggers of a file's text, all or none; those that are unchanged stay as they are.

        Raises InvalidInput, naming file, line and the near key. Pipelines have to be registered before.
        """
        require(principal, Role.DEVELOPER, "storing triggers")
        with self._context.store.read() as tx:
            pipelines = [record.name for record in tx.handlers.live(PIPELINE_HOOK)]
        compiled, warnings = parse_triggers(text, name=name, pipelines=pipelines, lenient=lenient)
        return self.put(principal, [each.definition for each in compiled], warnings=warnings)

    def put(self, principal: User, definitions: Sequence[TriggerDefinition], *, warnings: Sequence[str] = ()) -> Pushed:
        """Store definitions that were read before."""
        require(principal, Role.DEVELOPER, "storing triggers")
        stored, changed = [], []
        with self._context.store.begin() as tx:
            for definition in definitions:
                known = tx.triggers.find(definition.name)
                if known is not None:
                    require_trigger_owner(tx, principal, known)
                record = tx.triggers.put(definition, owner=principal, now_us=self._context.clock.now_us())
                stored.append(record)
                if known is None or known.version != record.version:
                    changed.append(record.name)
                    detail = {"name": record.name, "version": record.version}
                    self._context.audit(tx, principal, "trigger.put", f"trigger:{record.id}", **detail)
        return Pushed(triggers=tuple(stored), changed=tuple(changed), warnings=tuple(warnings))

    def put_one(self, principal: User, definition: Any) -> Pushed:
        """Store one trigger, given as JSON with the keys of a triggers.yaml."""
        with self._context.store.read() as tx:
            pipelines = [record.name for record in tx.handlers.live(PIPELINE_HOOK)]
        return self.put(principal, [read_trigger(definition, pipelines=pipelines).definition])

    def all(self, principal: User) -> list[TriggerRecord]:
        require(principal, Role.VIEWER, "listing triggers")
        with self._context.store.read() as tx:
            return tx.triggers.live()

    def get(self, principal: User, name: str) -> tuple[TriggerRecord, list[Check]]:
        """Return a trigger and what its checks came to."""
        require(principal, Role.VIEWER, "reading triggers")
        self._context.cache.tally.flush()
        with self._context.store.read() as tx:
            record = existing_trigger(tx, name)
            return record, tx.triggers.checks(record.id)

    def clear_checks(self, principal: User, name: str) -> None:
        """Let the counters begin anew."""
        require(principal, Role.DEVELOPER, "clearing counters")
        self._context.cache.tally.flush()
        with self._context.store.begin() as tx:
            tx.triggers.clear_checks(existing_trigger(tx, name).id)

    def set_paused(self, principal: User, name: str, *, paused: bool) -> TriggerRecord:
        """Pause or resume a trigger: a paused one collects nothing; its streams still fire and expire."""
        require(principal, Role.DEVELOPER, "changing triggers")
        with self._context.store.begin() as tx:
            record = self._changeable(tx, principal, name)
            now_us = self._context.clock.now_us()
            tx.triggers.set_paused(record.id, paused=paused, by=principal.name, now_us=now_us)
            action = "trigger.pause" if paused else "trigger.resume"
            self._context.audit(tx, principal, action, f"trigger:{record.id}", name=name)
            return existing_trigger(tx, name)

    def delete(self, principal: User, name: str) -> TriggerRecord:
        """Delete a trigger; its streams still fire and expire."""
        require(principal, Role.DEVELOPER, "deleting triggers")
        with self._context.store.begin() as tx:
            record = self._changeable(tx, principal, name)
            tx.triggers.delete(record.id, by=principal.name, now_us=self._context.clock.now_us())
            self._context.audit(tx, principal, "trigger.delete", f"trigger:{record.id}", name=name)
        return record

    def _changeable(self, tx: Tx, principal: User, name: str) -> TriggerRecord:
        record = existing_trigger(tx, name)
        require_trigger_owner(tx, principal, record)
        return record

    def explain(self, principal: User, name: str, event_id: str) -> Verdict:
        """Say why a trigger does or does not collect an event, and what its stream lacks to fire."""
        require(principal, Role.VIEWER, "reading triggers")
        with self._context.store.read() as tx:
            record = existing_trigger(tx, name)
            event = existing_event(tx, event_id)
            ids = tx.streams.of_events([event.seq]).get(event.seq, [])
            streams = [stream for stream in map(tx.streams.get, ids) if stream and stream.trigger_id == record.id]
        matcher = compile_trigger(record.definition)
        seen = trait_event(event.hook, event.time_us, json.loads(event.payload_json))
        counts: Counts = {}
        traits = matcher.match(seen, CountedChecks(counts, 0, MATCH, reasons=True))
        satisfied = set(matcher.counts(seen, CountedChecks({}, 0, FIRE, reasons=True)))
        have = streams[-1].matched if streams else ()
        return Verdict(
            matches=traits is not None,
            distinguished_by=None if traits is None else json.loads(traits_json(traits)),
            reasons=tuple(reason for _, _, reason in counts if reason),
            fire_criteria=tuple(
                {
                    "criteria": dict(record.definition.fire_criteria[index]),
                    "need": need,
                    "have": have[index] if index < len(have) else 0,
                    "this_event_counts": index in satisfied,
                }
                for index, need in enumerate(matcher.fire_needs)
            ),
            streams=tuple(stream.id for stream in streams),
        )


def existing_trigger(tx: Tx, name: str) -> TriggerRecord:
    record = tx.triggers.find(name)
    if record is None:
        tip = hint(name, [each.name for each in tx.triggers.live()])
        raise NotFound(f"there is no trigger {name!r}; {tip}", trigger=name)
    return record


def require_trigger_owner(tx: Tx, principal: User, record: TriggerRecord) -> None:
    owner = tx.users.get(record.owner_id)
    require_owner(
        principal,
        owner_id=record.owner_id,
        owner=owner.name if owner else record.created_by,
        thing=f"trigger {record.name!r}",
    )


__all__ = ["Pushed", "Triggers", "Verdict", "existing_trigger", "require_trigger_owner"]
