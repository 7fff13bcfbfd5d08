"""Registering handlers and looking after them."""

from __future__ import annotations

import difflib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eventproc.abc import Program, Registration, Tx
from eventproc.codec.bundle import digest_of
from eventproc.engine.preparing import Prepared
from eventproc.engine.programs import environment_of
from eventproc.errors import (
    Forbidden,
    HandlerTooLarge,
    InvalidHandler,
    NotFound,
    UnknownHandler,
)
from eventproc.model import (
    DETECTOR_HOOK,
    PIPELINE_HOOK,
    Environment,
    HandlerBundle,
    HandlerRecord,
    HandlerVersion,
    Limits,
    Role,
    User,
)
from eventproc.registry.checks import check_hook_name, check_mails, check_name, check_tags, storable
from eventproc.registry.options import parse_options
from eventproc.service.context import ServiceContext
from eventproc.service.preparing import check_python, prepare_for
from eventproc.service.rights import require, require_owner
from eventproc.service.secrets import check_declared

KINDS = ("function", "class")
_NO_HOOKS = (PIPELINE_HOOK, DETECTOR_HOOK)  # what is registered there is no handler
MAX_SOURCE = 1 << 20  # characters
MAX_GLOBALS = 1000
MAX_NAME = 500  # characters of what is only shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """What a registration came to."""

    handler: HandlerRecord
    warnings: tuple[str, ...]


class Handlers:
    """Use cases around handlers."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    # ------------------------------------------------------------------------------------------ registering

    def register(
        self,
        principal: User,
        *,
        hook: str,
        name: str,
        bundle: HandlerBundle,
        tags: Sequence[str] = (),
        notify_on_success: str | None = None,
        notify_on_failure: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Registered:
        """
        Check everything, load the blob in a sandbox child, then store it as the next version of (hook, name).

        A bundle that does not state its Python (`""`) is taken if its code is found to be for one that is served.
        Raises InvalidInput, UnknownHook, InvalidHandler, Forbidden, or Unavailable while too many are being loaded.
        """
        require(principal, Role.DEVELOPER, "registering handlers")
        bundle = _storable(bundle)
        registration = Registration(
            hook=check_hook_name(hook, glob=True),
            name=check_name(name),
            bundle=bundle,
            tags=check_tags(tags),
            notify_on_success=check_mails(notify_on_success, "notify_on_success"),
            notify_on_failure=check_mails(notify_on_failure, "notify_on_failure"),
            options=parse_options(
                options, maxima=self._context.settings.max_limits, policy=self._context.settings.policy
            ),
        )
        if bundle.kind not in KINDS:
            raise InvalidHandler(
                f"a {bundle.kind!r} is no handler; a handler is a function or a class", path="$.bundle.kind"
            )
        with self._context.store.read() as tx:
            self._check_place(tx, principal, registration)
        with self._context.trials.turn(principal):
            prepared = self.prepare(registration)
        registration = replace(
            registration,
            bundle=replace(bundle, python=prepared.python),  # whose code it was found to be, if nobody had said
            environment=prepared.environment.digest if prepared.environment else None,
        )
        with self._context.store.begin() as tx:
            # Once more: while the blob was loading, somebody else may have taken the name.
            self._check_place(tx, principal, registration)
            now_us = self._context.clock.now_us()
            if prepared.environment is not None:
                tx.environments.put(prepared.environment, now_us=now_us)
            handler = tx.handlers.put(registration, owner=principal, now_us=now_us)
            self._context.audit(
                tx,
                principal,
                "handler.register",
                f"handler:{handler.id}",
                hook=hook,
                name=name,
                version=handler.current.version,
                digest=bundle.digest,
            )
        return Registered(handler=handler, warnings=tuple(self._warnings(registration)))

    def _check_bundle(self, bundle: HandlerBundle) -> None:
        limit = self._context.settings.max_blob_bytes
        if len(bundle.blob) > limit:
            raise HandlerTooLarge(
                f"the pickled handler has {len(bundle.blob):,} bytes, more than the {limit:,} allowed; load large data "
                "inside the handler instead of letting it travel along",
                size=len(bundle.blob),
                limit=limit,
            )
        if not hmac.compare_digest(digest_of(bundle.blob), bundle.digest.lower()):
            raise InvalidHandler(
                "the blob does not match its digest: it was damaged on the way; register again", path="$.bundle.digest"
            )
        if len(bundle.source or "") > MAX_SOURCE:
            raise HandlerTooLarge(f"the source text is over {MAX_SOURCE:,} characters", path="$.bundle.source")
        check_python(self._context, bundle.python)

    def _check_place(self, tx: Tx, principal: User, registration: Registration) -> None:
        self._context.catalogue(tx).check_registrable(registration.hook)
        existing = tx.handlers.find(registration.hook, registration.name)
        if existing is not None:
            require_handler_owner(tx, principal, existing)
        names = registration.options.secrets
        if names and existing is not None and existing.owner_id != principal.id:
            # An admin may change everybody's handlers, and would be given their secrets by that.
            raise Forbidden(f"handler {existing.name!r} is another user's: only its owner may declare secrets for it")
        check_declared(tx, principal, names)

    def prepare(self, registration: Registration) -> Prepared:
        """Check the bundle and have it loaded in a child, with its packages; nothing is called."""
        bundle = registration.bundle
        self._check_bundle(bundle)
        program = Program(
            blob=bundle.blob,
            digest=bundle.digest,
            python=bundle.python,
            kind=bundle.kind,
            name=registration.name,
            source=bundle.source,
            filename=bundle.filename,
            allow_subprocess=registration.options.allow_subprocess,
            network=registration.options.network,
        )
        limits = check_limits(registration.options.limits, self._context.settings.check_timeout_s)
        return prepare_for(self._context, program, limits, registration.options.requirements)

    def _warnings(self, registration: Registration) -> list[str]:
        bundle = registration.bundle
        found = []
        if len(bundle.blob) > self._context.settings.warn_blob_bytes:
            found.append(f"the pickled handler is large ({len(bundle.blob):,} bytes): each worker loads all of it")
        if bundle.source is None:
            found.append("no source text came along: versions can not be compared")
        return found

    # ------------------------------------------------------------------------------------------ looking

    def all(self, principal: User, *, hook: str | None = None) -> list[HandlerRecord]:
        """Return the registered handlers, of one hook or of all."""
        require(principal, Role.VIEWER, "listing handlers")
        with self._context.store.read() as tx:
            if hook:
                self._context.catalogue(tx).check_registrable(hook)
            return [record for record in tx.handlers.live(hook or None) if hook or record.hook not in _NO_HOOKS]

    def get(self, principal: User, handler_id: int) -> HandlerRecord:
        require(principal, Role.VIEWER, "reading handlers")
        with self._context.store.read() as tx:
            return existing_handler(tx, handler_id)

    def versions(self, principal: User, handler_id: int) -> list[HandlerVersion]:
        require(principal, Role.VIEWER, "reading handlers")
        with self._context.store.read() as tx:
            existing_handler(tx, handler_id)
            return tx.handlers.versions(handler_id)

    def version(self, principal: User, handler_id: int, version: int) -> HandlerVersion:
        require(principal, Role.VIEWER, "reading handlers")
        with self._context.store.read() as tx:
            existing_handler(tx, handler_id)
            return _version(tx, handler_id, version)

    def environment(self, principal: User, version: HandlerVersion) -> Environment | None:
        """Return the packages that a version was registered with."""
        require(principal, Role.VIEWER, "reading handlers")
        with self._context.store.read() as tx:
            return environment_of(tx, version)

    def diff(self, principal: User, handler_id: int, old: int, new: int) -> str:
        """Return the unified diff of two versions' sources."""
        require(principal, Role.VIEWER, "reading handlers")
        with self._context.store.read() as tx:
            handler = existing_handler(tx, handler_id)
            pair = [_version(tx, handler_id, number) for number in (old, new)]
        for found in pair:
            if found.source is None:
                raise NotFound(f"version {found.version} of {handler.name!r} came without source text")
        before, after = ((found.source or "").splitlines() for found in pair)
        title = f"{handler.hook}/{handler.name} version"
        return "\n".join(difflib.unified_diff(before, after, f"{title} {old}", f"{title} {new}", lineterm=""))

    # ------------------------------------------------------------------------------------------ changing

    def set_current(self, principal: User, handler_id: int, version: int) -> HandlerRecord:
        """Make an older (or newer) version the one that runs from now on."""
        require(principal, Role.DEVELOPER, "changing handlers")
        with self._context.store.begin() as tx:
            handler = _changeable(tx, principal, handler_id)
            _version(tx, handler_id, version)
            changed = tx.handlers.set_current(
                handler_id, version, by=principal.name, now_us=self._context.clock.now_us()
            )
            detail = {"from": handler.current.version, "to": version}
            self._context.audit(tx, principal, "handler.current", f"handler:{handler_id}", **detail)
        return changed

    def set_paused(self, principal: User, handler_id: int, *, paused: bool) -> HandlerRecord:
        """Pause or resume a handler: its runs are queued and wait."""
        require(principal, Role.DEVELOPER, "changing handlers")
        with self._context.store.begin() as tx:
            _changeable(tx, principal, handler_id)
            tx.handlers.set_paused(handler_id, paused=paused, by=principal.name, now_us=self._context.clock.now_us())
            action = "handler.pause" if paused else "handler.resume"
            self._context.audit(tx, principal, action, f"handler:{handler_id}")
            self._context.wake_after(tx, "runs")
            return existing_handler(tx, handler_id)

    def deregister(self, principal: User, handler_id: int) -> HandlerRecord:
        """Retire a handler; its waiting runs are cancelled, its versions and history stay."""
        require(principal, Role.DEVELOPER, "deregistering handlers")
        with self._context.store.begin() as tx:
            handler = _changeable(tx, principal, handler_id)
            tx.handlers.deregister(handler_id, by=principal.name, now_us=self._context.clock.now_us())
            detail = {"hook": handler.hook, "name": handler.name}
            self._context.audit(tx, principal, "handler.deregister", f"handler:{handler_id}", **detail)
            self._context.wake_after(tx, "cancel")
        return handler


def _storable(bundle: HandlerBundle) -> HandlerBundle:
    """Replace what a database can not hold in the texts that are only shown."""
    return replace(
        bundle,
        source=None if bundle.source is None else storable(bundle.source),
        filename=None if bundle.filename is None else storable(bundle.filename)[-MAX_NAME:],
        qualname=storable(bundle.qualname)[:MAX_NAME],
        dill=storable(bundle.dill)[:MAX_NAME],
        globals=tuple(storable(name)[:MAX_NAME] for name in bundle.globals[:MAX_GLOBALS]),
    )


def check_limits(limits: Limits, timeout_s: float) -> Limits:
    """Return the limits for loading a handler at registration."""
    return replace(limits, timeout_s=timeout_s, cpu_s=timeout_s)  # a handler's own may be too short for its imports


def existing_handler(tx: Tx, handler_id: int) -> HandlerRecord:
    handler = tx.handlers.get(handler_id)
    if handler is None:
        raise UnknownHandler(f"there is no handler {handler_id}", handler=handler_id)
    return handler


def _changeable(tx: Tx, principal: User, handler_id: int) -> HandlerRecord:
    handler = existing_handler(tx, handler_id)
    if handler.deregistered_us is not None:
        raise UnknownHandler(f"handler {handler_id} ({handler.name!r}) was deregistered", handler=handler_id)
    require_handler_owner(tx, principal, handler)
    return handler


def require_handler_owner(tx: Tx, principal: User, handler: HandlerRecord) -> None:
    owner = tx.users.get(handler.owner_id)
    require_owner(
        principal,
        owner_id=handler.owner_id,
        owner=owner.name if owner else handler.created_by,
        thing=f"handler {handler.name!r} on hook {handler.hook!r}",
    )


def _version(tx: Tx, handler_id: int, version: int) -> HandlerVersion:
    found = tx.handlers.version(handler_id, version)
    if found is None:
        raise NotFound(f"handler {handler_id} has no version {version}", handler=handler_id, version=version)
    return found
