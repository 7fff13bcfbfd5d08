"""Registering detectors: classes that score metrics. They are kept, with their versions, as handlers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eventproc.abc import Registration, Tx
from eventproc.errors import InvalidHandler, InvalidInput, NotFound
from eventproc.model import DETECTOR, DETECTOR_HOOK, HandlerBundle, HandlerRecord, Isolation, Options, Role, User
from eventproc.registry.checks import check_name
from eventproc.registry.documents import hint
from eventproc.registry.options import parse_options
from eventproc.service.context import ServiceContext
from eventproc.service.handlers import Handlers, require_handler_owner
from eventproc.service.rights import require

FIT = ("timeout", "cpu", "memory", "requirements", "processes", "scratch", "output")  # options that mean something here
DEFAULT_TIMEOUT = "30s"  # for one call: at most some thousand samples of one metric


class Detectors:
    """Use cases around detectors of users."""

    def __init__(self, context: ServiceContext, handlers: Handlers) -> None:
        self._context = context
        self._handlers = handlers

    def register(
        self, principal: User, *, name: str, bundle: HandlerBundle, options: Mapping[str, Any] | None = None
    ) -> HandlerRecord:
        """
        Load the class in a sandbox child, then store it as the next version of that name.

        Models go on with the version they began with; `models retry --fresh` takes the current one. A version that says
        what the current one says changes nothing. Raises InvalidInput, InvalidHandler, VersionMismatch or Forbidden.
        """
        require(principal, Role.DEVELOPER, "registering detectors")
        if bundle.kind != DETECTOR:
            raise InvalidHandler(f"a detector is a class with score_one and learn_one, not a {bundle.kind}")
        registration = Registration(
            hook=DETECTOR_HOOK,
            name=check_name(name),
            bundle=bundle,
            tags=(),
            notify_on_success=None,
            notify_on_failure=None,
            options=self._options(options),
        )
        with self._context.store.read() as tx:
            known = self._place(tx, principal, registration.name)
        if known is not None and _same(known, registration):
            return known
        with self._context.trials.turn(principal):
            prepared = self._handlers.prepare(registration)
        registration = replace(
            registration,
            bundle=replace(bundle, python=prepared.python),
            environment=None if prepared.environment is None else prepared.environment.digest,
        )
        with self._context.store.begin() as tx:
            self._place(tx, principal, registration.name)
            now_us = self._context.clock.now_us()
            if prepared.environment is not None:
                tx.environments.put(prepared.environment, now_us=now_us)
            record = tx.handlers.put(registration, owner=principal, now_us=now_us)
            detail = {"name": record.name, "version": record.current.version, "digest": bundle.digest}
            self._context.audit(tx, principal, "detector.register", f"handler:{record.id}", **detail)
        return record

    def _options(self, given: Mapping[str, Any] | None) -> Options:
        unfit = [name for name, value in (given or {}).items() if value is not None and name not in FIT]
        if unfit:
            raise InvalidInput(f"a detector takes no option {unfit[0]!r}; it takes {', '.join(FIT)}", path="options")
        settings = self._context.settings
        options = {"timeout": DEFAULT_TIMEOUT, **(given or {})}
        parsed = parse_options(options, maxima=settings.max_limits, policy=settings.policy)
        return replace(parsed, isolation=Isolation.CELL)

    @staticmethod
    def _place(tx: Tx, principal: User, name: str) -> HandlerRecord | None:
        known = tx.handlers.find(DETECTOR_HOOK, name)
        if known is not None:
            require_handler_owner(tx, principal, known)
        return known

    def all(self, principal: User) -> list[HandlerRecord]:
        require(principal, Role.VIEWER, "listing detectors")
        with self._context.store.read() as tx:
            return tx.handlers.live(DETECTOR_HOOK)

    def get(self, principal: User, name: str) -> HandlerRecord:
        """Return a detector. Raises NotFound, with a near name."""
        require(principal, Role.VIEWER, "reading detectors")
        with self._context.store.read() as tx:
            return existing_detector(tx, name)

    def deregister(self, principal: User, name: str) -> HandlerRecord:
        """Retire a detector: no new model can have it; those that have it go on."""
        require(principal, Role.DEVELOPER, "deregistering detectors")
        with self._context.store.read() as tx:
            record = existing_detector(tx, name)
        return self._handlers.deregister(principal, record.id)


def existing_detector(tx: Tx, name: str) -> HandlerRecord:
    record = tx.handlers.find(DETECTOR_HOOK, name)
    if record is None:
        names = [each.name for each in tx.handlers.live(DETECTOR_HOOK)]
        raise NotFound(f"there is no detector {name!r}; {hint(name, names)}", detector=name)
    return record


def _same(record: HandlerRecord, registration: Registration) -> bool:
    version = record.current
    return (version.digest, version.options) == (registration.bundle.digest, registration.options)
