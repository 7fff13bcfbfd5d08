"""What can be done with annotations, aggregates and the ranking, inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from eventproc.model.annotations import Aggregate, Annotation, AnnotationFilter, Ranked


class AnnotationRows(Protocol):
    def add(self, new: Annotation) -> Annotation: ...
    def get(self, uid: str) -> Annotation | None: ...

    def replace(self, changed: Annotation) -> bool:
        """Write all but uid, creation and owner anew; False if there is none of that uid."""

    def delete(self, uid: str) -> bool: ...

    def page(self, which: AnnotationFilter, *, after: int | None = None, limit: int = 100) -> list[Annotation]:
        """Return annotations, the latest created first, behind id `after`; start_us <= time < end_us."""


class AggregateRows(Protocol):
    def add(self, new: Aggregate) -> Aggregate | None:
        """Insert; None if the name is taken."""

    def get(self, name: str) -> Aggregate | None: ...
    def all(self) -> list[Aggregate]: ...
    def pause(self, name: str, *, paused: bool) -> bool: ...
    def delete(self, name: str) -> bool: ...

    def lock(self, aggregate_id: int) -> Aggregate | None:
        """Return it as it stands, and keep others from moving it until the end of the transaction."""

    def move(self, moved: Aggregate) -> None:
        """Write where it stands: next, newest, seen, members, periods, message."""


class RankingRows(Protocol):
    def newest_us(self) -> int | None:
        """Return the time of the newest sample of any metric that is monitored."""

    def rank(self, *, start_us: int, end_us: int, bar_us: int, limit: int) -> Sequence[Ranked]:
        """
        Return the metrics that were most unusual in start_us < time <= end_us, the most unusual first.

        The stretch is divided into bars; a metric's score is the sum of each bar's highest display value. Only samples
        with an anomaly likelihood of 0.9 or more count, which an index has at hand.
        """
