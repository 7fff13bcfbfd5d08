"""Schedules: cron expressions that emit events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eventproc.abc import Tx
from eventproc.codec.events import payload_json
from eventproc.engine.schedules import TICK_HOOK, next_due_us
from eventproc.errors import NotFound
from eventproc.model import Role, Schedule, User, isoformat
from eventproc.registry.catalogue import Catalogue
from eventproc.registry.checks import check_name, check_tags
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require, require_owner


class Schedules:
    """Use cases around schedules."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def all(self, principal: User) -> list[Schedule]:
        require(principal, Role.VIEWER, "listing schedules")
        with self._context.store.read() as tx:
            return tx.schedules.all()

    def get(self, principal: User, name: str) -> Schedule:
        require(principal, Role.VIEWER, "reading schedules")
        with self._context.store.read() as tx:
            return _existing(tx, name)

    def put(
        self,
        principal: User,
        name: str,
        *,
        cron: str,
        timezone: str = "UTC",
        hook: str = TICK_HOOK,
        tags: Sequence[str] = (),
        payload: Mapping[str, Any] | None = None,
        paused: bool = False,
    ) -> Schedule:
        """Add or replace a schedule of one's own."""
        require(principal, Role.DEVELOPER, "adding schedules")
        check_name(name)
        wanted = Schedule(
            id=0,
            name=name,
            cron=cron,
            timezone=timezone,
            hook=hook,
            tags=check_tags(tags),
            payload=dict(payload or {}),
            next_us=next_due_us(cron, timezone, self._context.clock.now_us()),
            paused=paused,
            user_id=principal.id,
        )
        with self._context.store.begin() as tx:
            existing = tx.schedules.get(name)
            if existing is not None:
                _require_owner(tx, principal, existing)
                wanted = replace(wanted, user_id=existing.user_id)
            _check_payload(self._context.catalogue(tx), wanted)
            stored = tx.schedules.put(wanted)
            self._context.audit(tx, principal, "schedule.put", f"schedule:{name}", cron=cron, hook=hook)
            self._context.wake_after(tx, "schedules")
        return stored

    def delete(self, principal: User, name: str) -> None:
        require(principal, Role.DEVELOPER, "deleting schedules")
        with self._context.store.begin() as tx:
            _require_owner(tx, principal, _existing(tx, name))
            tx.schedules.delete(name)
            self._context.audit(tx, principal, "schedule.delete", f"schedule:{name}")
            self._context.wake_after(tx, "schedules")


def _existing(tx: Tx, name: str) -> Schedule:
    schedule = tx.schedules.get(name)
    if schedule is None:
        raise NotFound(f"there is no schedule {name!r}", schedule=name)
    return schedule


def _require_owner(tx: Tx, principal: User, schedule: Schedule) -> None:
    owner = tx.users.get(schedule.user_id) if schedule.user_id is not None else None
    name = owner.name if owner else "eventproc"
    require_owner(principal, owner_id=schedule.user_id, owner=name, thing=f"schedule {schedule.name!r}")


def _check_payload(catalogue: Catalogue, schedule: Schedule) -> None:
    """Refuse now what each tick would be refused for."""
    payload = dict(schedule.payload)
    if schedule.hook == TICK_HOOK:
        payload |= {"schedule": schedule.name, "due": isoformat(schedule.next_us), "missed": 0}
    catalogue.spec_for_event(schedule.hook)
    payload_json(payload)
    catalogue.validate(schedule.hook, payload)
