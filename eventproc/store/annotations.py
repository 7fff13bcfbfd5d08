"""Annotations of metrics and servers."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from eventproc.model.annotations import Annotation, AnnotationFilter
from eventproc.store.base import Rows, to_json
from eventproc.store.schema import notes

_GET = select(notes).where(notes.c.uid == bindparam("uid"))
_DELETE = delete(notes).where(notes.c.uid == bindparam("uid"))
_ADD = insert(notes)
_REPLACE = update(notes).where(notes.c.uid == bindparam("_uid"))


def _annotation(row: Any) -> Annotation:
    return Annotation(
        id=row.id,
        uid=row.uid,
        time_us=row.time_us,
        device=row.device,
        user=row.user_name,
        server=row.server,
        metric=row.metric_uid,
        message=row.message,
        data=None if row.data_json is None else json.loads(row.data_json),
        created_us=row.created_us,
        updated_us=row.updated_us,
        owner_id=row.owner_id,
    )


def _values(given: Annotation) -> dict[str, Any]:
    return {
        "time_us": given.time_us,
        "device": given.device,
        "user_name": given.user,
        "server": given.server,
        "metric_uid": given.metric,
        "message": given.message,
        "data_json": None if given.data is None else to_json(dict(given.data)),
        "updated_us": given.updated_us,
    }


class SqlAnnotations(Rows):
    """Annotations by uid."""

    def add(self, new: Annotation) -> Annotation:
        values = {"uid": new.uid, "created_us": new.created_us, "owner_id": new.owner_id, **_values(new)}
        self.work.conn.execute(_ADD, values)
        stored = self.get(new.uid)
        assert stored is not None
        return stored

    def get(self, uid: str) -> Annotation | None:
        row = self._first(_GET, {"uid": uid})
        return _annotation(row) if row else None

    def replace(self, changed: Annotation) -> bool:
        return self._changed(_REPLACE.values(**_values(changed)), {"_uid": changed.uid}) > 0

    def delete(self, uid: str) -> bool:
        return self._changed(_DELETE, {"uid": uid}) > 0

    def page(self, which: AnnotationFilter, *, after: int | None = None, limit: int = 100) -> list[Annotation]:
        c = notes.c
        query = select(notes).order_by(c.id.desc()).limit(limit)
        same = (
            (c.device, which.device),
            (c.user_name, which.user),
            (c.server, which.server),
            (c.metric_uid, which.metric),
        )
        for column, wanted in same:
            if wanted is not None:
                query = query.where(column == wanted)
        if which.start_us is not None:
            query = query.where(c.time_us >= which.start_us)
        if which.end_us is not None:
            query = query.where(c.time_us < which.end_us)
        if after is not None:
            query = query.where(c.id < after)
        return [_annotation(row) for row in self._all(query)]
