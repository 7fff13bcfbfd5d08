"""Notices: what was, or is to be, sent about runs."""

from __future__ import annotations

from eventproc.errors import NotFound
from eventproc.model import Notice, Role, User
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require


class Notices:
    """Use cases around notices."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def page(
        self, principal: User, *, run_id: int | None = None, after: int | None = None, limit: int = 100
    ) -> list[Notice]:
        require(principal, Role.VIEWER, "listing notices")
        with self._context.store.read() as tx:
            return tx.notices.page(run_id=run_id, after=after, limit=limit)

    def get(self, principal: User, notice_id: int) -> Notice:
        require(principal, Role.VIEWER, "reading notices")
        with self._context.store.read() as tx:
            notice = tx.notices.get(notice_id)
        if notice is None:
            raise NotFound(f"there is no notice {notice_id}", notice=notice_id)
        return notice
