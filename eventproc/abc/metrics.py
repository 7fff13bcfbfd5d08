"""What can be done with metrics, their samples and what was refused, inside a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from eventproc.model.metrics import (
    Metric,
    MetricBacklog,
    NewMetric,
    NewReject,
    Reject,
    Sample,
    SampleScores,
    SampleStatistics,
    SampleWindow,
    StoredRange,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

ACCEPTED, DUPLICATE, LATE, NO_METRIC, NOT_FINITE = range(5)  # of BatchResult.verdicts


class MetricRows(Protocol):
    def create(self, new: Sequence[NewMetric], *, now_us: int) -> list[tuple[Metric, bool]]:
        """
        Create metrics, each once by name; return, in order, the metric and whether it is new.

        Atomic under concurrent callers. A metric that exists is left as it is. Ids are never used again.
        """

    def get(self, metric_id: int) -> Metric | None: ...
    def by_uid(self, uid: str) -> Metric | None: ...
    def by_name(self, name: str) -> Metric | None: ...

    def many(self, metric_ids: Sequence[int]) -> dict[int, Metric]:
        """Return those of the metrics that exist, by id."""

    def ids(self, names: Sequence[str]) -> dict[str, int]:
        """Return the ids of those names that exist."""

    def find(
        self,
        *,
        name: str | None = None,
        prefix: str | None = None,
        glob: str | None = None,
        tags: Mapping[str, str] | None = None,
        resource: str | None = None,
        status: int | None = None,
        after: str | None = None,
        limit: int = 1000,
    ) -> list[Metric]:
        """
        Return metrics by name, those behind the name `after`; what is given must all hold.

        `glob` compares the whole name: `*`, `?` and `[abc]`, dots are letters like others. A tag's value may be a glob.
        """

    def lock(self, metric_id: int) -> Metric | None:
        """Return the metric, and keep other writers of its state out until the end of the transaction."""

    def update(
        self,
        metric_id: int,
        *,
        resource: str | None = None,
        description: str | None = None,
        unit: str | None = None,
    ) -> bool:
        """Change what is given; False for a metric that does not exist."""

    def set_status(self, metric_id: int, status: int, *, expected: Sequence[int] | None = None) -> bool:
        """Change the status, if it is one of `expected`; False if it is not, or there is no such metric."""

    def set_scored(self, rows: Sequence[tuple[int, int]]) -> None:
        """Set (metric id, scored_rowid); 0 has all of it scored again."""

    def behind(self, status: int, *, after: int = 0, limit: int = 1000) -> list[MetricBacklog]:
        """Return metrics of that status that have rows behind `scored_rowid`, by id, those behind id `after`."""

    def enough(self, *, after: int = 0, limit: int = 1000) -> list[MetricBacklog]:
        """Return metrics in PENDING_DATA that have the 288 samples they waited for, by id, those behind id `after`."""

    def backlogs(self, metric_ids: Sequence[int]) -> dict[int, MetricBacklog]:
        """Return how the metrics stand, by id, also those with nothing waiting."""

    def counts(self) -> dict[int, int]:
        """Return the number of metrics in each status."""

    def delete(self, metric_id: int) -> bool:
        """
        Delete a metric; it and its samples are gone for every reader at once, and its name is free.

        The rows of its samples are deleted by `SampleRows.purge_deleted`, in chunks.
        """


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a batch: `verdicts` has ACCEPTED, DUPLICATE, LATE, NO_METRIC or NOT_FINITE for each sample."""

    verdicts: NDArray[np.int8]
    stored: Sequence[StoredRange]

    @property
    def accepted(self) -> int:
        return sum(part.last_rowid - part.first_rowid + 1 for part in self.stored)


class SampleRows(Protocol):
    def add_batch(self, metric_ids: ArrayLike, times_us: ArrayLike, values: ArrayLike) -> BatchResult:
        """
        Store samples of many metrics in a few statements: three equally long arrays, int64, int64, float64.

        Within a metric the samples come in the order in which they arrived; only those newer than everything before
        them are stored and numbered. The others change nothing but the metric's count of `rejected`.
        """

    def after(self, metric_id: int, rowid: int, *, limit: int = 1000) -> list[Sample]:
        """Return the samples behind `rowid`, in order."""

    def after_many(self, places: Sequence[tuple[int, int]], *, limit: int = 100) -> dict[int, list[Sample]]:
        """Return, for (metric id, rowid) pairs, at most `limit` samples each behind that rowid; one statement."""

    def query(
        self,
        metric_id: int,
        *,
        start_us: int | None = None,
        end_us: int | None = None,
        after_rowid: int | None = None,
        limit: int | None = None,
        min_score: float | None = None,
        scored: bool = False,
        newest_first: bool = False,
    ) -> list[Sample]:
        """
        Return samples with start_us <= time < end_us, behind `after_rowid` in the chosen direction.

        `min_score`: only those with at least that anomaly score. `scored`: only those that have one.
        """

    def columns(
        self, metric_id: int, start_us: int | None = None, end_us: int | None = None, *, limit: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return times and values with start_us <= time < end_us; with `limit` the first ones."""

    def place(self, metric_id: int, time_us: int) -> int:
        """Return the rowid of the first stored sample at or after that time; one behind the last if there is none."""

    def windows(
        self, metric_id: int, start_us: int, end_us: int, width_us: int, *, limit: int = 10_000
    ) -> list[SampleWindow]:
        """Return the windows of that width from `start_us` on that hold samples, as of times before `end_us`."""

    def statistics(self, metric_id: int) -> SampleStatistics | None:
        """Return the extremes over all stored samples of the metric; None where there are none."""

    def set_scores(self, rows: Sequence[SampleScores]) -> None:
        """Write scores to stored samples; a row that is gone is passed over."""

    def clear_scores(self, metric_id: int) -> None:
        """Take the scores of all samples of the metric away."""

    def prune(self, before_us: int, *, limit: int) -> int:
        """
        Delete at most `limit` samples from before that time; return how many.

        A call looks at some of the metrics only, the next one goes on from there; 0 tells the end of a round.
        """

    def purge_deleted(self, *, limit: int) -> int:
        """Delete at most `limit` rows of samples whose metric is gone; return how many."""


class RejectRows(Protocol):
    def add(self, new: Sequence[NewReject], *, now_us: int) -> None:
        """
        Count refused samples by (reason, source, metric), and keep the last few examples of each.

        The number of rows is bounded: once there are very many, new ones are counted under source and metric "*".
        """

    def page(
        self,
        *,
        reason: str | None = None,
        metric: str | None = None,
        source: str | None = None,
        since_us: int | None = None,
        limit: int = 1000,
    ) -> list[Reject]:
        """Return what was refused, the latest first; `metric` and `source` may be globs."""

    def totals(self) -> dict[str, int]:
        """Return the number of refused samples by reason."""

    def prune(self, before_us: int, *, limit: int) -> int:
        """Forget what was last refused before that time."""
