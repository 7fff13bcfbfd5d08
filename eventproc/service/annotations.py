"""Annotations: what people note about times, servers and metrics."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from eventproc.abc import Tx
from eventproc.codec.events import payload_json
from eventproc.errors import InvalidInput, NotFound
from eventproc.model import Role, User
from eventproc.model.annotations import Annotation, AnnotationFilter
from eventproc.service.args import check_text
from eventproc.service.context import ServiceContext
from eventproc.service.monitoring import find_metric
from eventproc.service.rights import require, require_owner

MAX_MESSAGE: Final = 10_000  # characters
MAX_DATA: Final = 65_536  # characters of JSON


class Annotations:
    """Use cases around annotations."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def page(
        self, principal: User, which: AnnotationFilter, *, after: int | None = None, limit: int = 100
    ) -> list[Annotation]:
        """Return annotations, the latest created first; a metric may be given by name."""
        require(principal, Role.VIEWER, "reading annotations")
        with self._context.store.read() as tx:
            if which.metric is not None:
                which = replace(which, metric=find_metric(tx, which.metric).uid)
            return tx.annotations.page(which, after=after, limit=limit)

    def get(self, principal: User, uid: str) -> Annotation:
        require(principal, Role.VIEWER, "reading annotations")
        with self._context.store.read() as tx:
            return _existing(tx, uid)

    def add(
        self,
        principal: User,
        *,
        time_us: int,
        server: str,
        device: str = "",
        user: str | None = None,
        metric: str | None = None,
        message: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> Annotation:
        """Note something; `user` is whoever it is said to be from, else the caller."""
        require(principal, Role.EMITTER, "adding annotations")
        now_us = self._context.clock.now_us()
        with self._context.store.begin() as tx:
            new = Annotation(
                uid=uuid.uuid4().hex,
                time_us=time_us,
                device=device,
                user=user or principal.name,
                server=server,
                metric=None if metric is None else find_metric(tx, metric).uid,
                message=message,
                data=data,
                created_us=now_us,
                updated_us=now_us,
                owner_id=principal.id,
            )
            return tx.annotations.add(_checked(new))

    def change(self, principal: User, uid: str, changes: Mapping[str, Any]) -> Annotation:
        """Change some of an annotation of one's own: what `add` takes, by name."""
        require(principal, Role.EMITTER, "changing annotations")
        with self._context.store.begin() as tx:
            found = _existing(tx, uid)
            _own(tx, principal, found)
            if changes.get("metric") is not None:
                changes = {**changes, "metric": find_metric(tx, changes["metric"]).uid}
            changed = _checked(replace(found, updated_us=self._context.clock.now_us(), **changes))
            tx.annotations.replace(changed)
            return changed

    def delete(self, principal: User, uid: str) -> None:
        require(principal, Role.EMITTER, "deleting annotations")
        with self._context.store.begin() as tx:
            _own(tx, principal, _existing(tx, uid))
            tx.annotations.delete(uid)


def _existing(tx: Tx, uid: str) -> Annotation:
    found = tx.annotations.get(uid)
    if found is None:
        raise NotFound(f"there is no annotation {uid!r}", annotation=uid)
    return found


def _own(tx: Tx, principal: User, found: Annotation) -> None:
    owner = tx.users.get(found.owner_id) if found.owner_id is not None else None
    name = owner.name if owner else "eventproc"
    require_owner(principal, owner_id=found.owner_id, owner=name, thing=f"annotation {found.uid}")


def _checked(given: Annotation) -> Annotation:
    for name in ("server", "user", "device"):
        check_text(getattr(given, name), name, max_length=200)
    if not given.server:
        raise InvalidInput("'server' must be the name of a server (a metric's resource)", field="server")
    if not given.message and given.data is None:
        raise InvalidInput("an annotation needs a 'message' or 'data'", field="message")
    if given.message and len(given.message) > MAX_MESSAGE:
        raise InvalidInput(f"'message' has {len(given.message)} characters, the most is {MAX_MESSAGE}", field="message")
    if given.data is not None and len(payload_json(dict(given.data))) > MAX_DATA:
        raise InvalidInput(f"'data' takes more than {MAX_DATA} characters of JSON", field="data")
    return given
