"""The one way in for samples: names become metrics, samples become rows, what can not be stored is counted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from eventproc.abc import Bus, Clock, Store, Tx
from eventproc.abc.metrics import ACCEPTED, DUPLICATE, LATE, NO_METRIC, NOT_FINITE
from eventproc.engine.accept import accept_events
from eventproc.errors import EventprocError, InvalidInput, StoreUnavailable
from eventproc.metrics.batch import Batch, microseconds
from eventproc.metrics.names import parse_name
from eventproc.model import SECOND_US, Metric, NewEvent, NewMetric, NewReject, RejectReason, StoredRange
from eventproc.model.quiet import SAMPLE_REJECTED, SAMPLES_STORED
from eventproc.registry import CatalogueCache
from eventproc.registry.catalogue import Catalogue

log = structlog.get_logger(__name__)

HOOK: Final = "metric.created"
TOPIC: Final = "samples"
MAX_NAMES: Final = 500_000  # remembered with their ids
CREATE_AT_ONCE: Final = 1000  # metrics in one transaction: others want to write, too

_UNKNOWN, _BAD_NAME, _NO_KEY = 0, -1, -2  # instead of a metric's id
# What a sample can come to, in the order of its checks; the first five are the store's verdicts.
_REASONS: Final = {
    DUPLICATE: RejectReason.DUPLICATE,
    LATE: RejectReason.LATE,
    NOT_FINITE: RejectReason.BAD_VALUE,
    5: RejectReason.BAD_TIME,
    6: RejectReason.BAD_NAME,
    7: RejectReason.UNAUTHORIZED,
}
_BAD_TIME_VERDICT, _BAD_NAME_VERDICT, _NO_KEY_VERDICT = 5, 6, 7


@dataclass(frozen=True, kw_only=True, slots=True)
class IntakeSettings:
    """`key`: every name must begin with it and a dot. `max_ahead_s`: how far ahead of the clock a time may lie."""

    key: str | None = None
    max_ahead_s: float | None = 366 * 86_400.0


@dataclass(slots=True)
class Outcome:
    """How many samples of a batch were stored, and how many not, by reason."""

    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    created: int = 0


@dataclass(frozen=True, slots=True)
class _Checked:
    """A batch with the ids of its metrics, its times in microseconds, and what became of each sample so far."""

    batch: Batch
    ids: NDArray[np.int64]
    times: NDArray[np.int64]
    verdicts: NDArray[np.int8]


class Intake:
    """
    Stores batches of samples; threads may share it.

    A batch is one transaction: its samples, new metrics with their `metric.created`, and the counts of what was
    refused. Only when very many metrics are new are they created before, in transactions of their own.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        cache: CatalogueCache,
        bus: Bus,
        settings: IntakeSettings | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._cache = cache
        self._bus = bus
        self._settings = settings or IntakeSettings()
        self._prefix = b"" if self._settings.key is None else self._settings.key.encode() + b"."
        self._ids: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def store(self, batch: Batch) -> Outcome:
        """Store what can be stored; nothing of the batch is stored or counted if this raises."""
        now_us = self._clock.now_us()
        times, verdicts = self._check(batch, now_us)
        ids = self._lookup(batch.names)
        usable = verdicts == ACCEPTED
        fresh = self._new_names(batch, ids, usable)
        outcome = Outcome()
        while len(fresh) > CREATE_AT_ONCE:
            part, fresh = fresh[:CREATE_AT_ONCE], fresh[CREATE_AT_ONCE:]
            with self._store.begin() as tx:
                created = self._create(tx, part, batch, now_us)
            self._remember(created, outcome)
            ids = self._lookup(batch.names)
        with self._store.begin() as tx:
            created = self._create(tx, fresh, batch, now_us)
            for index in np.flatnonzero(ids == _UNKNOWN).tolist():
                ids[index] = _id_of(created.get(batch.names[index], _UNKNOWN))
            verdicts[usable & (ids == _BAD_NAME)] = _BAD_NAME_VERDICT
            verdicts[usable & (ids == _NO_KEY)] = _NO_KEY_VERDICT
            stored = self._add(tx, _Checked(batch, ids, times, verdicts), now_us)
            rejects = _rejects(batch, ids, verdicts, hide=self._prefix)
            tx.rejects.add(rejects, now_us=now_us)
            self._tell_listeners(tx, stored, rejects, now_us)
            tx.after_commit(lambda: self._bus.wake(TOPIC))
        self._remember(created, outcome)
        outcome.accepted = int((verdicts == ACCEPTED).sum())
        for reject in rejects:
            outcome.rejected[reject.reason.value] += reject.count
        return outcome

    # ------------------------------------------------------------------------------------------- checks

    def _check(self, batch: Batch, now_us: int) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        times, bad = microseconds(batch.seconds, now_us)
        if self._settings.max_ahead_s is not None:
            bad |= times > now_us + round(self._settings.max_ahead_s * SECOND_US)
        verdicts = np.zeros(len(times), dtype=np.int8)
        verdicts[bad] = _BAD_TIME_VERDICT
        verdicts[~np.isfinite(batch.values)] = NOT_FINITE
        return times, verdicts

    # ------------------------------------------------------------------------------------------- names

    def _lookup(self, names: Sequence[bytes]) -> NDArray[np.int64]:
        return np.fromiter(map(self._ids.get, names, repeat(_UNKNOWN)), dtype=np.int64, count=len(names))

    def _new_names(self, batch: Batch, ids: NDArray[np.int64], usable: NDArray[np.bool_]) -> list[tuple[bytes, int]]:
        """Return names that no metric is known of, each with the place of its first sample."""
        found: dict[bytes, int] = {}
        for index in np.flatnonzero((ids == _UNKNOWN) & usable).tolist():
            found.setdefault(batch.names[index], index)
        return list(found.items())

    def _create(self, tx: Tx, fresh: Sequence[tuple[bytes, int]], batch: Batch, now_us: int) -> dict[bytes, Any]:
        """Return the metric of each name, and whether it is new; or the number that says why there is none."""
        found: dict[bytes, Any] = {}
        wanted: dict[bytes, NewMetric] = {}
        for raw, _ in fresh:
            parsed = self._parse(raw)
            if isinstance(parsed, int):
                found[raw] = parsed
            else:
                wanted[raw] = parsed
        if not wanted:
            return found
        created = dict(zip(wanted, tx.metrics.create(list(wanted.values()), now_us=now_us), strict=True))
        places = dict(fresh)
        new = [(metric, batch.source_of(places[raw])) for raw, (metric, is_new) in created.items() if is_new]
        self._tell(tx, new, now_us)
        return found | created

    def _parse(self, raw: bytes) -> NewMetric | int:
        if not raw.startswith(self._prefix):
            return _NO_KEY
        try:
            return parse_name(raw[len(self._prefix) :].decode("ascii"))
        except (InvalidInput, UnicodeDecodeError):
            return _BAD_NAME

    def _tell(self, tx: Tx, new: Sequence[tuple[Metric, str]], now_us: int) -> None:
        if not new:
            return
        events = [
            NewEvent(hook=HOOK, payload={"metric": _described(metric), "source": source}) for metric, source in new
        ]
        self._emit(tx, self._cache.current(tx), events, now_us)

    def _emit(self, tx: Tx, catalogue: Catalogue, events: Sequence[NewEvent], now_us: int) -> None:
        for event, result in zip(
            events,
            accept_events(tx, catalogue, events, user_id=None, now_us=now_us, source="metrics", bus=self._bus),
            strict=True,
        ):
            if isinstance(result, EventprocError):
                log.warning("an event was not emitted", hook=event.hook, error=str(result))

    def _tell_listeners(self, tx: Tx, stored: Sequence[StoredRange], rejects: Sequence[NewReject], now_us: int) -> None:
        """Tell of every sample, but only where a handler or trigger asks for it: there may be 100,000 a second."""
        catalogue = self._cache.current(tx)
        events: list[NewEvent] = []
        if stored and catalogue.wanted(SAMPLES_STORED):
            metrics = tx.metrics.many([part.metric_id for part in stored])
            events += [_stored_event(metrics[part.metric_id], part) for part in stored if part.metric_id in metrics]
        if rejects and catalogue.wanted(SAMPLE_REJECTED):
            events += [_refused_event(reject) for reject in rejects]
        if events:
            self._emit(tx, catalogue, events, now_us)

    def _remember(self, created: dict[bytes, Any], outcome: Outcome) -> None:
        """Keep ids for the next batches, now that the metrics are committed."""
        with self._lock:
            if len(self._ids) + len(created) > MAX_NAMES:
                self._ids = {}
            for raw, value in created.items():
                self._ids[raw] = _id_of(value)
        outcome.created += sum(1 for value in created.values() if not isinstance(value, int) and value[1])

    # ------------------------------------------------------------------------------------------- samples

    def _add(self, tx: Tx, checked: _Checked, now_us: int) -> list[StoredRange]:
        """Write the samples that are still to be had; ids and verdicts are brought up to date. Returns the rows."""
        verdicts, ids = checked.verdicts, checked.ids
        places = np.flatnonzero(verdicts == ACCEPTED)
        stored: list[StoredRange] = []
        for _ in range(3):
            if not len(places):
                return stored
            result = tx.samples.add_batch(ids[places], checked.times[places], checked.batch.values[places])
            stored += result.stored
            verdicts[places] = result.verdicts
            places = places[result.verdicts == NO_METRIC]
            if not len(places):
                return stored
            self._create_again(tx, checked.batch, ids, places, now_us)
        raise StoreUnavailable("a metric is deleted as fast as its samples create it again: try later")

    def _create_again(
        self, tx: Tx, batch: Batch, ids: NDArray[np.int64], places: NDArray[np.int64], now_us: int
    ) -> None:
        """Metrics that were deleted since we learned their ids come into being once more."""
        names = {batch.names[index]: index for index in reversed(places.tolist())}
        with self._lock:
            for raw in names:
                self._ids.pop(raw, None)
        again = self._create(tx, list(names.items()), batch, now_us)
        for index in places.tolist():
            ids[index] = again[batch.names[index]][0].id


def _described(metric: Metric) -> dict[str, Any]:
    return {"uid": metric.uid, "name": metric.name, "resource": metric.resource, "tags": dict(metric.tags)}


def _stored_event(metric: Metric, part: StoredRange) -> NewEvent:
    return NewEvent(
        hook=SAMPLES_STORED,
        key=metric.uid,
        payload={"metric": _described(metric), "rowids": [part.first_rowid, part.last_rowid]},
    )


def _refused_event(reject: NewReject) -> NewEvent:
    return NewEvent(
        hook=SAMPLE_REJECTED,
        payload={
            "reason": reject.reason.value,
            "metric": reject.metric or None,
            "source": reject.source,
            "count": reject.count,
            "examples": list(reject.examples),
        },
    )


def _rejects(batch: Batch, ids: NDArray[np.int64], verdicts: NDArray[np.int8], *, hide: bytes) -> list[NewReject]:
    counted: dict[tuple[RejectReason, str, str], tuple[int, list[str]]] = {}

    def count(reason: RejectReason, source: str, metric: str, text: str, times: int) -> None:
        total, texts = counted.get((reason, source, metric), (0, []))
        counted[(reason, source, metric)] = (total + times, [*texts[-4:], text])

    for refusal in batch.refusals:
        metric, text = refusal.metric, refusal.text
        if hide:
            metric, text = _without_key(metric, hide.decode()), _without_key(text, hide.decode())
        count(refusal.reason, batch.source_at(refusal.line), metric, text, refusal.count)
    for index, times in _groups(batch, ids, verdicts):
        reason = _REASONS[int(verdicts[index])]
        name = batch.names[index].decode("ascii", "backslashreplace")
        text = batch.text_of(index)
        if hide:
            name, text = _without_key(name, hide.decode()), _without_key(text, hide.decode())
        if reason is RejectReason.BAD_NAME:
            name = ""
        count(reason, batch.source_of(index), name, text, times)
    return [
        NewReject(reason=reason, source=source, metric=metric, count=total, examples=tuple(texts))
        for (reason, source, metric), (total, texts) in counted.items()
    ]


def _without_key(text: str, key: str) -> str:
    """Take the key away; what is nearly the key must not be on show either."""
    return text.removeprefix(key) if text.startswith(key) else ""


def _id_of(found: Any) -> int:
    """Return a metric's id, or the number that says why there is none."""
    return found if isinstance(found, int) else int(found[0].id)


def _groups(batch: Batch, ids: NDArray[np.int64], verdicts: NDArray[np.int8]) -> list[tuple[int, int]]:
    """Return, of refused samples that have reason, metric and source in common, the last one's place and how many."""
    places = np.flatnonzero(verdicts != ACCEPTED)
    if not len(places):
        return []
    lines = places if batch.lines is None else batch.lines[places]
    ends = np.empty(0, dtype=np.int64) if batch.ends is None else batch.ends
    sources = np.searchsorted(ends, lines, side="right")
    keys = np.stack([_told_apart(batch, ids, places), sources, verdicts[places].astype(np.int64)], axis=1)[::-1]
    _, first, counts = np.unique(keys, axis=0, return_index=True, return_counts=True)
    last = places[len(places) - 1 - first]
    return sorted(zip(last.tolist(), counts.tolist(), strict=True))


def _told_apart(batch: Batch, ids: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the metrics' ids, and for names that are no metric's numbers of their own."""
    found = ids[places]
    numbers: dict[bytes, int] = {}
    for at in np.flatnonzero(found == _UNKNOWN).tolist():
        name = batch.names[places[at]]
        found[at] = _NO_KEY - 1 - numbers.setdefault(name, len(numbers))
    return found


__all__ = ["Intake", "IntakeSettings", "Outcome"]
