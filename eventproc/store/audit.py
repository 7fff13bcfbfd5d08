"""The audit log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import bindparam, insert, select

from eventproc.model import AuditEntry
from eventproc.store.base import Rows, to_json
from eventproc.store.schema import audit

_ADD = insert(audit)
_PAGE = select(audit).order_by(audit.c.id.desc()).limit(bindparam("wanted"))
_PAGE_AFTER = _PAGE.where(audit.c.id < bindparam("after"))


class SqlAudit(Rows):
    """Who changed what."""

    def add(self, *, user: str, action: str, object: str, detail: Mapping[str, Any], now_us: int) -> None:
        values = {"at_us": now_us, "user_name": user, "action": action, "object": object}
        self.work.conn.execute(_ADD, [values | {"detail_json": to_json(dict(detail))}])

    def page(self, *, after: int | None = None, limit: int = 100) -> list[AuditEntry]:
        """Return entries newest first, starting behind id `after`."""
        if after is None:
            rows = self._all(_PAGE, {"wanted": limit})
        else:
            rows = self._all(_PAGE_AFTER, {"wanted": limit, "after": after})
        return [
            AuditEntry(
                id=row.id,
                at_us=row.at_us,
                user=row.user_name,
                action=row.action,
                object=row.object,
                detail=json.loads(row.detail_json),
            )
            for row in rows
        ]
