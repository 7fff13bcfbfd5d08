"""What was refused of the samples: counted by reason, source and metric, with a few examples of each."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import bindparam, delete, func, select, text

from eventproc.model import NewReject, Reject
from eventproc.store.base import Rows, any_of, tuple_from_json, tuple_to_json
from eventproc.store.schema import metric_rejects

MAX_ROWS: Final = 5000  # from then on, new ones are counted under source and metric "*"
MAX_EXAMPLES: Final = 5
MAX_EXAMPLE: Final = 200  # characters

Key = tuple[str, str, str]

_COUNT = select(func.count()).select_from(metric_rejects)
_OF_METRICS = select(metric_rejects).where(any_of(metric_rejects.c.metric, "metrics"))
_PUT = text(
    "INSERT INTO metric_rejects (reason, source, metric, rejected, first_us, last_us, examples_json)"
    " VALUES (:reason, :source, :metric, :rejected, :now_us, :now_us, :examples_json)"
    " ON CONFLICT (reason, source, metric) DO UPDATE SET rejected = metric_rejects.rejected + excluded.rejected,"
    " last_us = excluded.last_us, examples_json = excluded.examples_json"
)
_TOTALS = select(metric_rejects.c.reason, func.sum(metric_rejects.c.rejected).label("found")).group_by(
    metric_rejects.c.reason
)
_PRUNE = delete(metric_rejects).where(
    metric_rejects.c.last_us
    <= select(func.max(text("last_us")))
    .select_from(
        select(metric_rejects.c.last_us)
        .where(metric_rejects.c.last_us < bindparam("before_us"))
        .order_by(metric_rejects.c.last_us)
        .limit(bindparam("wanted"))
        .subquery()
    )
    .scalar_subquery()
)


def _shown(text_: str) -> str:
    """Make an example that any database can hold."""
    return text_.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()[:MAX_EXAMPLE]


class SqlRejects(Rows):
    """Refused samples."""

    def add(self, new: Sequence[NewReject], *, now_us: int) -> None:
        """Count refused samples, and keep the last few examples of each."""
        if not new:
            return
        known = self._known(new)
        counts: dict[Key, int] = {}
        examples: dict[Key, tuple[str, ...]] = {}
        room = MAX_ROWS - int(self._scalar(_COUNT) or 0)
        for reject in new:
            key = (str(reject.reason), _shown(reject.source), _shown(reject.metric))
            if key not in known and key not in counts:
                if room <= 0:
                    key = (key[0], "*", "*")
                room -= 1
            counts[key] = counts.get(key, 0) + reject.count
            shown = tuple(_shown(example) for example in reject.examples)
            examples[key] = (*examples.get(key, known.get(key, ())), *shown)[-MAX_EXAMPLES:]
        rows = [
            {
                "reason": key[0],
                "source": key[1],
                "metric": key[2],
                "rejected": counts[key],
                "now_us": now_us,
                "examples_json": tuple_to_json(examples[key]),
            }
            for key in sorted(counts)
        ]
        self.work.conn.execute(_PUT, rows)

    def _known(self, new: Sequence[NewReject]) -> dict[Key, tuple[str, ...]]:
        names = sorted({_shown(reject.metric) for reject in new} | {"*"})
        rows = self._all(_OF_METRICS, {"metrics": names})
        return {(row.reason, row.source, row.metric): tuple_from_json(row.examples_json) for row in rows}

    def page(
        self,
        *,
        reason: str | None = None,
        metric: str | None = None,
        source: str | None = None,
        since_us: int | None = None,
        limit: int = 1000,
    ) -> list[Reject]:
        query = select(metric_rejects).order_by(metric_rejects.c.last_us.desc(), metric_rejects.c.source)
        if reason is not None:
            query = query.where(metric_rejects.c.reason == reason)
        if since_us is not None:
            query = query.where(metric_rejects.c.last_us >= since_us)
        found: list[Reject] = []
        for row in self._all(query):
            if metric is not None and not fnmatch.fnmatchcase(row.metric, metric):
                continue
            if source is not None and not fnmatch.fnmatchcase(row.source, source):
                continue
            found.append(_reject(row))
            if len(found) == limit:
                break
        return found

    def totals(self) -> dict[str, int]:
        return {row.reason: int(row.found) for row in self._all(_TOTALS)}

    def prune(self, before_us: int, *, limit: int) -> int:
        return self._changed(_PRUNE, {"before_us": before_us, "wanted": limit})


def _reject(row: Any) -> Reject:
    return Reject(
        reason=row.reason,
        source=row.source,
        metric=row.metric,
        count=row.rejected,
        first_us=row.first_us,
        last_us=row.last_us,
        examples=tuple(json.loads(row.examples_json)),
    )
