"""Hook specs: the bundled ones come from files, users add their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from eventproc.abc import Tx
from eventproc.codec.events import payload_json
from eventproc.errors import Conflict, Forbidden, UnknownHook
from eventproc.model import HookSpec, Role, User
from eventproc.registry.specs import spec_from_mapping
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require, require_owner

USERS = "user"


def sync_bundled_hooks(tx: Tx, specs: Iterable[HookSpec], *, now_us: int) -> list[str]:
    """
    Bring the store's bundled hooks in line with the files; return the names that changed.

    A user's hook of the same name is left alone. Bundled hooks that no file states any more go, unless they are used.
    """
    stored = {spec.name: spec for spec in tx.hooks.all()}
    wanted = {spec.name: spec for spec in specs}
    changed = []
    for name, spec in wanted.items():
        old = stored.get(name)
        if old is not None and (old.source == USERS or replace(old, paused=False) == replace(spec, paused=False)):
            continue
        tx.hooks.put(spec, now_us=now_us, by="eventproc")
        changed.append(name)
    for name, old in stored.items():
        if old.source != USERS and name not in wanted and not tx.handlers.live(name):
            tx.hooks.delete(name)
            changed.append(name)
    return changed


class Hooks:
    """Use cases around hook specs."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def all(self, principal: User) -> list[HookSpec]:
        require(principal, Role.VIEWER, "listing hooks")
        with self._context.store.read() as tx:
            return sorted(tx.hooks.all(), key=lambda spec: spec.name)

    def get(self, principal: User, name: str) -> HookSpec:
        """Return the spec of exactly that name, else the most specific glob's. Raises UnknownHook."""
        require(principal, Role.VIEWER, "reading hooks")
        with self._context.store.read() as tx:
            return tx.hooks.get(name) or self._context.catalogue(tx).spec_for(name)

    def put(self, principal: User, name: str, definition: Mapping[str, Any]) -> HookSpec:
        """
        Add or replace a hook of one's own, as a spec file would define it: summary, schema, sample, keep, keep_idle.

        Names of bundled hooks are taken, and other users' hooks are theirs and the admins' to change.
        """
        require(principal, Role.DEVELOPER, "adding hooks")
        payload_json(definition)  # refuses what JSON can not hold
        spec = spec_from_mapping({**definition, "name": name}, source=USERS)
        with self._context.store.begin() as tx:
            self._require_own(tx, principal, name)
            spec = replace(spec, owner_id=principal.id)
            tx.hooks.put(spec, now_us=self._context.clock.now_us(), by=principal.name)
            self._context.audit(tx, principal, "hook.put", f"hook:{name}", summary=spec.summary)
            return tx.hooks.get(name) or spec

    def delete(self, principal: User, name: str, *, force: bool = False) -> None:
        """Delete a user's hook; one that handlers use only with `force`, which deregisters them."""
        require(principal, Role.ADMIN if force else Role.DEVELOPER, "deleting hooks that handlers use")
        with self._context.store.begin() as tx:
            spec = self._existing(tx, name)
            self._require_own(tx, principal, name)
            users = self._context.catalogue(tx).handlers_of_spec(spec)
            if users and not force:
                raise Conflict(
                    f"hook {name!r} is in use by {len(users)} handler(s): "
                    f"{', '.join(handler.name for handler in users[:10])}; deregister them first, or, as an admin, "
                    "force it",
                    hook=name,
                    handlers=[handler.id for handler in users],
                )
            now_us = self._context.clock.now_us()
            for handler in users:
                tx.handlers.deregister(handler.id, by=principal.name, now_us=now_us)
            self._context.wake_after(tx, "cancel")
            tx.hooks.delete(name)
            detail = {"deregistered": [handler.id for handler in users]}
            self._context.audit(tx, principal, "hook.delete", f"hook:{name}", **detail)

    def set_paused(self, principal: User, name: str, *, paused: bool) -> HookSpec:
        """Pause or resume a hook: its events are accepted and their runs wait."""
        with self._context.store.begin() as tx:
            shared = self._existing(tx, name).source != USERS
            require(principal, Role.ADMIN if shared else Role.DEVELOPER, f"pausing hook {name!r}")
            if not shared:
                self._require_own(tx, principal, name)
            tx.hooks.set_paused(name, paused=paused)
            self._context.audit(tx, principal, "hook.pause" if paused else "hook.resume", f"hook:{name}")
            self._context.wake_after(tx, "runs")
            return self._existing(tx, name)

    def _existing(self, tx: Tx, name: str) -> HookSpec:
        spec = tx.hooks.get(name)
        if spec is None:
            raise UnknownHook.named(name, (known.name for known in tx.hooks.all()))
        return spec

    def _require_own(self, tx: Tx, principal: User, name: str) -> None:
        """Raise Forbidden where the name is the platform's or another user's; a name that is free is one's own."""
        spec = tx.hooks.get(name)
        if spec is None:
            return
        if spec.source == USERS:
            owner = spec.owner or "eventproc"
            require_owner(principal, owner_id=spec.owner_id, owner=owner, thing=f"hook {name!r}")
        else:
            raise Forbidden(f"hook {name!r} is part of the platform ({spec.source}); choose another name", hook=name)
