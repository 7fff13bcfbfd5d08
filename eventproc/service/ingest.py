"""Importing archives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO

from eventproc.errors import TooLarge
from eventproc.ingress import HOOK, Imported, Progress, import_archive
from eventproc.model import Role, User
from eventproc.registry.checks import check_event_id, check_tags, check_text
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require

MAX_FILE_NAME = 255  # characters


class Ingest:
    """Use cases around archives."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def check(self, principal: User, *, name: str, tags: Sequence[str], request_id: str | None = None) -> None:
        """Refuse at once what could only fail after a long upload."""
        require(principal, Role.DEVELOPER, "importing archives")
        check_text(name, "name", max_length=MAX_FILE_NAME)
        check_tags(tags)
        if request_id is not None:
            check_event_id(request_id)
        self._context.cache.latest().spec_for_event(HOOK)

    def check_size(self, size: int) -> None:
        """Raise TooLarge for an archive over the limit."""
        limit = self._context.settings.max_archive_bytes
        if size > limit:
            raise TooLarge(f"the archive has {size:,} bytes or more, and {limit:,} are allowed; split it", limit=limit)

    def comtrade(
        self,
        principal: User,
        source: BinaryIO,
        *,
        name: str,
        tags: Sequence[str] = (),
        request_id: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Imported:
        """Import the COMTRADE records of an archive and emit one event about them."""
        self.check(principal, name=name, tags=tags, request_id=request_id)
        context = self._context
        imported = import_archive(
            source,
            name=name,
            store=context.store,
            clock=context.clock,
            cache=context.cache,
            tags=tags,
            user_id=principal.id,
            bus=context.bus,
            request_id=request_id,
            progress=progress,
        )
        with context.store.begin() as tx:
            detail = {"name": name, "tags": list(tags), "records": len(imported.payload["DataSets"])}
            context.audit(tx, principal, "ingest.comtrade", f"event:{imported.accepted.id}", **detail)
        return imported
