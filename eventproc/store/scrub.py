"""Which samples of a batch may be stored: those newer than everything before them, metric by metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eventproc.abc.metrics import ACCEPTED, DUPLICATE, LATE, NO_METRIC, NOT_FINITE

OLDEST = np.iinfo(np.int64).min  # the newest time of a metric without samples

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tails:
    """The newest row of each metric of a batch; `ids` ascends, a metric that does not exist is missing."""

    ids: Ints
    rowids: Ints
    times_us: Ints


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """
    What is to be stored, ordered by metric, and what became of each given sample.

    `order` are the places of the stored samples in the batch, `ids` and `rowids` their keys; `tails` are the places in
    `Tails` of the metrics that got samples, `firsts` and `lasts` the rowids they got, `newest_us` their newest times.
    `rejected` counts duplicates and late ones by place in `Tails`.
    """

    verdicts: NDArray[np.int8]
    order: Ints
    ids: Ints
    rowids: Ints
    tails: Ints
    firsts: Ints
    lasts: Ints
    newest_us: Ints
    rejected: Ints


def scrub(ids: Ints, times_us: Ints, values: NDArray[np.float64], known: Tails) -> Scrubbed:
    """Decide for each sample. Order within a metric is the order of the arrays."""
    verdicts = np.zeros(len(ids), dtype=np.int8)
    place = np.searchsorted(known.ids, ids)
    missing = place == len(known.ids)
    if len(known.ids):
        missing |= known.ids[np.minimum(place, len(known.ids) - 1)] != ids
    verdicts[missing] = NO_METRIC
    verdicts[~missing & ~np.isfinite(values)] = NOT_FINITE
    candidates = np.flatnonzero(verdicts == ACCEPTED)
    order = candidates[np.argsort(place[candidates], kind="stable")]
    newest = _newest_before(place[order], times_us[order], known.times_us)
    times = times_us[order]
    fresh = times > newest
    rejected = np.zeros(len(known.ids), dtype=np.int64)
    if not fresh.all():
        refused = order[~fresh]
        verdicts[refused] = np.where(times[~fresh] == newest[~fresh], DUPLICATE, LATE)
        rejected += np.bincount(place[refused], minlength=len(known.ids))
        order = order[fresh]
    groups = place[order]
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    tails = groups[starts]
    sizes = np.diff(np.append(starts, len(groups)))
    firsts = known.rowids[tails] + 1
    return Scrubbed(
        verdicts=verdicts,
        order=order,
        ids=known.ids[groups],
        rowids=np.arange(len(groups), dtype=np.int64) - np.repeat(starts - firsts, sizes),
        tails=tails,
        firsts=firsts,
        lasts=firsts + sizes - 1,
        newest_us=times_us[order[starts + sizes - 1]],
        rejected=rejected,
    )


def _newest_before(groups: Ints, times: Ints, tails: Ints) -> Ints:
    """Return for each sample the newest time of its metric before it; `groups` ascends."""
    newest = np.empty(len(groups), dtype=np.int64)
    if not len(groups):
        return newest
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    newest[1:] = times[:-1]
    newest[starts] = tails[groups[starts]]
    if (times > newest).all():
        return newest
    # Somewhere time stands still or goes back: there the newest is not the one right before.
    steps = times <= newest
    for group in np.unique(groups[steps]):
        start, end = np.searchsorted(groups, [group, group + 1])
        before = np.concatenate(([tails[group]], times[start : end - 1]))
        newest[start:end] = np.maximum.accumulate(before)
    return newest
