"""Metrics for people: what there is, its samples, what was refused; and the way in over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eventproc.abc import Tx
from eventproc.errors import InvalidInput, NotFound
from eventproc.metrics.batch import Batch
from eventproc.metrics.intake import Intake, IntakeSettings, Outcome
from eventproc.metrics.lines import parse_lines
from eventproc.metrics.records import parse_json_lines
from eventproc.model import Metric, Reject, Role, Sample, SampleStatistics, SampleWindow, User
from eventproc.service.context import ServiceContext
from eventproc.service.monitoring import find_metric, status_named
from eventproc.service.rights import require

MAX_SAMPLES: Final = 100_000  # in one answer
MAX_WINDOWS: Final = 10_000
DUMP_PAGE: Final = 20_000  # samples that are read at a time
FORMATS: Final = ("lines", "json")


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricView:
    """A metric and what its stored samples say."""

    metric: Metric
    statistics: SampleStatistics | None
    first: Sample | None


class Metrics:
    """Use cases around metrics and their samples."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._intake = Intake(
            store=context.store,
            clock=context.clock,
            cache=context.cache,
            bus=context.bus,
            settings=IntakeSettings(max_ahead_s=context.settings.max_ahead_s),
        )

    # Looking.

    def page(
        self,
        principal: User,
        *,
        glob: str | None = None,
        prefix: str | None = None,
        tags: Mapping[str, str] | None = None,
        resource: str | None = None,
        status: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[Metric]:
        """Return metrics by name."""
        require(principal, Role.VIEWER, "listing metrics")
        with self._context.store.read() as tx:
            return tx.metrics.find(
                glob=glob,
                prefix=prefix,
                tags=tags,
                resource=resource,
                status=None if status is None else status_named(status),
                after=after,
                limit=limit,
            )

    def get(self, principal: User, which: str) -> MetricView:
        """Return one metric, by name or uid."""
        require(principal, Role.VIEWER, "reading metrics")
        with self._context.store.read() as tx:
            metric = find_metric(tx, which)
            first = tx.samples.query(metric.id, limit=1)
            return MetricView(
                metric=metric, statistics=tx.samples.statistics(metric.id), first=first[0] if first else None
            )

    def samples(
        self,
        principal: User,
        which: str,
        *,
        start_us: int | None = None,
        end_us: int | None = None,
        after: int | None = None,
        limit: int = 1000,
        min_score: float | None = None,
        scored: bool = False,
        newest_first: bool = False,
    ) -> list[Sample]:
        """Return a metric's samples with start <= time < end, behind the rowid `after`."""
        require(principal, Role.VIEWER, "reading metrics")
        with self._context.store.read() as tx:
            return tx.samples.query(
                find_metric(tx, which).id,
                start_us=start_us,
                end_us=end_us,
                after_rowid=after,
                limit=min(limit, MAX_SAMPLES),
                min_score=min_score,
                scored=scored,
                newest_first=newest_first,
            )

    def windows(
        self,
        principal: User,
        which: str,
        *,
        start_us: int | None,
        end_us: int | None,
        width_us: int,
    ) -> list[SampleWindow]:
        """Return what stretches of `width_us` hold; None is the metric's own begin or end."""
        require(principal, Role.VIEWER, "reading metrics")
        with self._context.store.read() as tx:
            metric = find_metric(tx, which)
            first = tx.samples.query(metric.id, limit=1)
            if not first or metric.last_time_us is None:
                return []
            start = first[0].time_us if start_us is None else start_us
            end = metric.last_time_us + 1 if end_us is None else end_us
            if width_us < 1 or (end - start) // width_us > MAX_WINDOWS:
                raise InvalidInput(
                    f"a width of {width_us / 1e6:g} s makes too many windows: at most {MAX_WINDOWS} in one answer",
                    limit=MAX_WINDOWS,
                )
            return tx.samples.windows(metric.id, start, end, width_us, limit=MAX_WINDOWS + 1)

    def dump(
        self, principal: User, names: Sequence[str], *, start_us: int | None = None, end_us: int | None = None
    ) -> Iterator[str]:
        """
        Return pieces of text: `name value timestamp` lines, metric by metric in order of time.

        `names` are names, uids or globs; none: all metrics. What is printed can be sent to a Graphite port as it is.
        Raises NotFound at once for a name that is none.
        """
        require(principal, Role.VIEWER, "reading metrics")
        with self._context.store.read() as tx:
            known = [_check_dump(tx, name) for name in names]
        return self._dump(known or ["*"], start_us, end_us)

    def _dump(self, names: Sequence[str], start_us: int | None, end_us: int | None) -> Iterator[str]:
        for name in names:
            after: str | None = None
            while True:
                with self._context.store.read() as tx:
                    glob = _is_glob(name)
                    page = tx.metrics.find(glob=name, after=after, limit=500) if glob else [find_metric(tx, name)]
                for metric in page:
                    yield from self._lines_of(metric, start_us, end_us)
                if not glob or len(page) < 500:
                    break
                after = page[-1].name

    def _lines_of(self, metric: Metric, start_us: int | None, end_us: int | None) -> Iterator[str]:
        after = 0
        while True:
            with self._context.store.read() as tx:
                page = tx.samples.query(metric.id, start_us=start_us, end_us=end_us, after_rowid=after, limit=DUMP_PAGE)
            if page:
                yield "".join([f"{metric.name} {one.value!r} {seconds_text(one.time_us)}\n" for one in page])
            if len(page) < DUMP_PAGE:
                return
            after = page[-1].rowid

    def rejected(
        self,
        principal: User,
        *,
        reason: str | None = None,
        metric: str | None = None,
        source: str | None = None,
        since_us: int | None = None,
        limit: int = 1000,
    ) -> list[Reject]:
        """Return what was refused, the latest first."""
        require(principal, Role.VIEWER, "reading metrics")
        with self._context.store.read() as tx:
            return tx.rejects.page(reason=reason, metric=metric, source=source, since_us=since_us, limit=limit)

    # Writing.

    def push(self, principal: User, body: bytes, *, kind: str) -> tuple[Outcome, Batch]:
        """Store samples: `kind` "lines" as Graphite has them, "json" as objects; bad ones are refused singly."""
        require(principal, Role.EMITTER, "sending samples")
        if kind not in FORMATS:
            raise InvalidInput(f"no format is named {kind!r}; there are {', '.join(FORMATS)}")
        batch = parse_lines(body) if kind == "lines" else parse_json_lines(body)
        return self._take(principal, batch, source="http"), batch

    def push_read(self, principal: User, read: Callable[[], Batch], *, source: str) -> Outcome:
        """Store what `read` finds; it is called once the user may send, and what is refused is counted under both."""
        require(principal, Role.EMITTER, "sending samples")
        return self._take(principal, read(), source=source)

    def _take(self, principal: User, batch: Batch, *, source: str) -> Outcome:
        batch.sources = (f"{source} {principal.name}",)
        return self._intake.store(batch)


def seconds_text(time_us: int) -> str:
    """Write a time as Graphite has it, exactly: whole seconds, or as many decimals as it takes."""
    whole, rest = divmod(time_us, 1_000_000)
    return str(whole) if rest == 0 else f"{whole}.{rest:06d}".rstrip("0")


def _is_glob(name: str) -> bool:
    return any(letter in name for letter in "*?[")


def _check_dump(tx: Tx, name: str) -> str:
    if not _is_glob(name):
        return find_metric(tx, name).name
    if not tx.metrics.find(glob=name, limit=1):
        raise NotFound(f"no metric has a name like {name!r}", metric=name)
    return name
