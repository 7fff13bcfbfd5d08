"""Series for people: what there is, and its values."""

from __future__ import annotations

from typing import Any

from eventproc.engine import series as samples
from eventproc.errors import TooLarge
from eventproc.model import Role, Series, User
from eventproc.service import args as take
from eventproc.service.context import ServiceContext
from eventproc.service.reads import existing
from eventproc.service.rights import require

MAX_SAMPLES = 1_000_000  # in one answer of JSON


class SeriesReader:
    """Use cases around series."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def find(
        self,
        principal: User,
        *,
        name: str | None = None,
        collection: str | None = None,
        prefix: bool = False,
        limit: int = 1000,
    ) -> list[Series]:
        require(principal, Role.VIEWER, "listing series")
        with self._context.store.read() as tx:
            return tx.series.find(name=name, collection=collection, prefix=prefix, limit=limit)

    def get(self, principal: User, uuid: str) -> Series:
        require(principal, Role.VIEWER, "reading series")
        with self._context.store.read() as tx:
            return existing(tx, take.uuid_text(uuid))

    def values(self, principal: User, uuid: str, *, start_ns: int | None, end_ns: int | None) -> tuple[Any, Any]:
        """Return (times, values) of [start_ns, end_ns) as arrays; None is the series' own begin or end."""
        require(principal, Role.VIEWER, "reading series")
        with self._context.store.read() as tx:
            series = existing(tx, take.uuid_text(uuid))
            start = start_ns if start_ns is not None else series.earliest_ns or 0
            end = end_ns if end_ns is not None else (series.latest_ns or 0) + 1
            count = samples.count(tx, series.uuid, start, end)
            if count > MAX_SAMPLES:
                raise TooLarge(
                    f"{count:,} values in that range, more than the {MAX_SAMPLES:,} of one answer; ask for shorter "
                    "ranges",
                    count=count,
                    limit=MAX_SAMPLES,
                )
            return samples.values(tx, series.uuid, start, end)
