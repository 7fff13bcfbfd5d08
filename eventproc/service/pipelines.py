"""Registering pipelines: ordered handlers that work on whole streams. They are handlers with a hook of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eventproc.abc import Program, Registration, Tx
from eventproc.codec.pipelines import MAX_HANDLERS, PipelinePart, check_import, describe_pipeline, pack_pipeline
from eventproc.engine.preparing import Prepared
from eventproc.errors import HandlerTooLarge, InvalidInput, NotFound
from eventproc.model import (
    DETECTOR_HOOK,
    PIPELINE,
    PIPELINE_HOOK,
    HandlerBundle,
    HandlerRecord,
    HandlerVersion,
    Options,
    Role,
    User,
)
from eventproc.registry.checks import check_mails, check_name
from eventproc.registry.documents import hint
from eventproc.registry.options import parse_options
from eventproc.service.context import ServiceContext
from eventproc.service.handlers import check_limits, require_handler_owner
from eventproc.service.preparing import check_python, prepare_for
from eventproc.service.rights import require
from eventproc.service.secrets import check_declared

# What a run of one stream has no use for.
_UNFIT = ("filter", "order_by")


@dataclass(frozen=True, kw_only=True, slots=True)
class NewPart:
    """One handler of a pipeline to be registered: pickled, imported by the child, or registered already by name."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    bundle: HandlerBundle | None = None
    import_name: str | None = None
    registered: str | None = None  # "name" or "hook/name"


class Pipelines:
    """Use cases around pipelines."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def register(
        self,
        principal: User,
        *,
        name: str,
        handlers: Sequence[NewPart],
        notify_on_success: str | None = None,
        notify_on_failure: str | None = None,
        options: Mapping[str, Any] | None = None,
        naive: bool = False,
        setup: Sequence[str] = (),
    ) -> HandlerRecord:
        """
        Load all handlers in a sandbox child, then store the pipeline as the next version of that name.

        Registered handlers are taken as they are now: a later version of them needs the pipeline to be registered
        again. One that says what its current version says changes nothing. Raises InvalidInput, InvalidHandler,
        VersionMismatch, NotFound or Forbidden.
        """
        require(principal, Role.DEVELOPER, "registering pipelines")
        if not 1 <= len(handlers) <= MAX_HANDLERS:
            raise InvalidInput(f"a pipeline has 1 to {MAX_HANDLERS} handlers, not {len(handlers)}")
        parsed = self._options(options)
        with self._context.store.read() as tx:
            parts = [_resolved(tx, part) for part in handlers]
        bundle = pack_pipeline(
            parts,
            python=self._context.sandbox.pythons()[0],
            naive=naive,
            setup=[check_import(each) for each in setup],
        )
        registration = Registration(
            hook=PIPELINE_HOOK,
            name=check_name(name),
            bundle=bundle,
            tags=(),
            notify_on_success=check_mails(notify_on_success, "notify_on_success"),
            notify_on_failure=check_mails(notify_on_failure, "notify_on_failure"),
            options=parsed,
        )
        self._check(registration)
        with self._context.store.read() as tx:
            known = self._place(tx, principal, registration)
        if known is not None and _same(known.current, registration):
            return known
        with self._context.trials.turn(principal):
            prepared = self._prepare(registration)
        registration = replace(
            registration, environment=prepared.environment.digest if prepared.environment is not None else None
        )
        with self._context.store.begin() as tx:
            self._place(tx, principal, registration)
            now_us = self._context.clock.now_us()
            if prepared.environment is not None:
                tx.environments.put(prepared.environment, now_us=now_us)
            record = tx.handlers.put(registration, owner=principal, now_us=now_us)
            detail = {"name": record.name, "version": record.current.version, "digest": bundle.digest}
            self._context.audit(tx, principal, "pipeline.register", f"handler:{record.id}", **detail)
        return record

    def _options(self, options: Mapping[str, Any] | None) -> Options:
        unfit = [name for name in _UNFIT if (options or {}).get(name) is not None]
        if unfit:
            raise InvalidInput(f"a pipeline takes no option {unfit[0]!r}: its trigger says what it works on, and when")
        settings = self._context.settings
        return parse_options(options, maxima=settings.max_limits, policy=settings.policy)

    def _check(self, registration: Registration) -> None:
        bundle, most = registration.bundle, self._context.settings.max_blob_bytes
        if len(bundle.blob) > most:
            raise HandlerTooLarge(
                f"the pipeline's handlers have {len(bundle.blob):,} bytes together, more than the {most:,} allowed",
                size=len(bundle.blob),
                limit=most,
            )
        check_python(self._context, bundle.python)

    def _place(self, tx: Tx, principal: User, registration: Registration) -> HandlerRecord | None:
        known = tx.handlers.find(PIPELINE_HOOK, registration.name)
        if known is not None:
            require_handler_owner(tx, principal, known)
        check_declared(tx, principal, registration.options.secrets)
        return known

    def _prepare(self, registration: Registration) -> Prepared:
        """Have all handlers loaded in a child, with their packages; nothing is called."""
        bundle, options = registration.bundle, registration.options
        program = Program(
            blob=bundle.blob,
            digest=bundle.digest,
            python=bundle.python,
            kind=PIPELINE,
            name=registration.name,
            allow_subprocess=options.allow_subprocess,
            network=options.network,
        )
        limits = check_limits(options.limits, self._context.settings.check_timeout_s)
        return prepare_for(self._context, program, limits, options.requirements)

    # ------------------------------------------------------------------------------------------ looking, changing

    def all(self, principal: User) -> list[HandlerRecord]:
        require(principal, Role.VIEWER, "listing pipelines")
        with self._context.store.read() as tx:
            return tx.handlers.live(PIPELINE_HOOK)

    def get(self, principal: User, name: str) -> tuple[HandlerRecord, list[dict[str, Any]]]:
        """Return a pipeline, and what is known of its handlers."""
        require(principal, Role.VIEWER, "reading pipelines")
        with self._context.store.read() as tx:
            record = existing_pipeline(tx, name)
            blob = tx.handlers.blob(record.id, record.current.version)
        return record, describe_pipeline(blob) if blob else []

    def set_paused(self, principal: User, name: str, *, paused: bool) -> HandlerRecord:
        """Pause or resume a pipeline: streams go on firing, their runs wait."""
        require(principal, Role.DEVELOPER, "changing pipelines")
        with self._context.store.begin() as tx:
            record = existing_pipeline(tx, name)
            require_handler_owner(tx, principal, record)
            now_us = self._context.clock.now_us()
            tx.handlers.set_paused(record.id, paused=paused, by=principal.name, now_us=now_us)
            action = "pipeline.pause" if paused else "pipeline.resume"
            self._context.audit(tx, principal, action, f"handler:{record.id}", name=name)
            self._context.wake_after(tx, "runs")
            return existing_pipeline(tx, name)

    def deregister(self, principal: User, name: str) -> HandlerRecord:
        """Retire a pipeline: streams that wait for it, and those that come, end in error until they are reset."""
        require(principal, Role.DEVELOPER, "deregistering pipelines")
        with self._context.store.begin() as tx:
            record = existing_pipeline(tx, name)
            require_handler_owner(tx, principal, record)
            tx.handlers.deregister(record.id, by=principal.name, now_us=self._context.clock.now_us())
            self._context.audit(tx, principal, "pipeline.deregister", f"handler:{record.id}", name=name)
            self._context.wake_after(tx, "cancel")
        return record


def existing_pipeline(tx: Tx, name: str) -> HandlerRecord:
    record = tx.handlers.find(PIPELINE_HOOK, name)
    if record is None:
        names = [each.name for each in tx.handlers.live(PIPELINE_HOOK)]
        raise NotFound(f"there is no pipeline {name!r}; {hint(name, names)}", pipeline=name)
    return record


def _resolved(tx: Tx, part: NewPart) -> PipelinePart:
    given = [way for way in (part.bundle, part.import_name, part.registered) if way is not None]
    if len(given) != 1:
        raise InvalidInput(
            f"handler {part.name!r} of the pipeline needs one of: the code itself, a name to import, "
            "the name of a registered handler"
        )
    name = check_name(part.name)
    if part.registered is None:
        import_name = None if part.import_name is None else check_import(part.import_name)
        return PipelinePart(name=name, params=part.params, bundle=part.bundle, import_name=import_name)
    record = _registered(tx, part.registered)
    blob = tx.handlers.blob(record.id, record.current.version)
    if blob is None:
        raise NotFound(f"the code of handler {record.name!r} is not in the store", handler=record.id)
    version = record.current
    bundle = HandlerBundle(
        blob=blob,
        digest=version.digest,
        python=version.python,
        dill=version.dill,
        source=version.source,
        filename=version.filename,
        qualname=version.qualname,
        kind=version.kind,
        globals=version.globals,
    )
    return PipelinePart(name=name, params=part.params, bundle=bundle)


def _registered(tx: Tx, wanted: str) -> HandlerRecord:
    live = [record for record in tx.handlers.live() if record.hook not in (PIPELINE_HOOK, DETECTOR_HOOK)]
    found = [record for record in live if wanted in (record.name, f"{record.hook}/{record.name}")]
    if len(found) > 1:
        listed = ", ".join(f"{record.hook}/{record.name}" for record in found)
        raise InvalidInput(f"several handlers are called {wanted!r}: say which of {listed}", handler=wanted)
    if not found:
        tip = hint(wanted, [record.name for record in live])
        raise NotFound(f"no handler is registered as {wanted!r}; {tip}", handler=wanted)
    return found[0]


def _same(version: HandlerVersion, registration: Registration) -> bool:
    return (version.digest, version.notify_on_success, version.notify_on_failure, version.options) == (
        registration.bundle.digest,
        registration.notify_on_success,
        registration.notify_on_failure,
        registration.options,
    )


def part_from_json(data: Any, bundle: HandlerBundle | None) -> NewPart:
    """Read one handler of a request: name, params, and import, handler or bundle. Raises InvalidInput."""
    if not isinstance(data, Mapping):
        raise InvalidInput(f"a handler of a pipeline is an object, not {json.dumps(data)[:100]}")
    unknown = sorted(set(data) - {"name", "params", "import", "handler", "bundle"})
    if unknown:
        raise InvalidInput(f"unknown member {unknown[0]!r} of a pipeline's handler")
    params = data.get("params") or {}
    if not isinstance(params, Mapping):
        raise InvalidInput("the params of a pipeline's handler are an object")
    name = data.get("name") or data.get("handler") or data.get("import")
    if not isinstance(name, str):
        raise InvalidInput("a pipeline's handler needs a name")
    return NewPart(
        name=name.rpartition("/")[2] if data.get("name") is None else name,
        params=params,
        bundle=bundle,
        import_name=data.get("import"),
        registered=data.get("handler"),
    )
