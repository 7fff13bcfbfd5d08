"""What runs asked for, written in the transaction of their result."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from eventproc.abc import Tx
from eventproc.engine import series as samples
from eventproc.engine.accept import Result
from eventproc.errors import Conflict, EventConflict, EventprocError, NotFound
from eventproc.model import PIPELINE, Accepted, Claim, Effects, FileRecord

log = logging.getLogger(__name__)

NO_EFFECTS = Effects()


def apply_effects(tx: Tx, claim: Claim, effects: Effects, *, now_us: int) -> None:
    """
    Write a run's effects; its events are left to the caller, who has those of other runs too.

    Raises an EventprocError when one of them has become impossible since it was asked for; the caller then writes
    nothing of the run's success.
    """
    for series in effects.series:
        stored = tx.series.put(series)
        if (stored.name, stored.collection) != (series.name, series.collection):
            raise Conflict(f"stream {series.uuid} exists meanwhile under the name {stored.name!r}", uuid=series.uuid)
    for insert in effects.inserts:
        times = np.frombuffer(insert.times_ns, "<i8")
        samples.insert(tx, insert.series, times, np.frombuffer(insert.values, "<f8"))
    for change in effects.annotations:
        if not tx.series.set_annotations(change.series, change.annotations):
            raise NotFound(f"there is no stream {change.series} any more", uuid=change.series)
    if effects.files:
        tx.files.add(
            [
                FileRecord(
                    code=file.code,
                    run_id=claim.run_id,
                    name=file.name,
                    size=file.size,
                    digest=file.digest,
                    created_us=now_us,
                )
                for file in effects.files
            ]
        )
    if effects.outgoing:
        tx.outbox.add(effects.outgoing, now_us=now_us)


def check_emitted(claim: Claim, results: Sequence[Result]) -> bool:
    """
    Tell whether a run's events have queued runs. Raises the EventprocError of the first that was refused.

    The events of a pipeline that is repeated are there already: they stay as they are.
    """
    for result in results:
        if isinstance(result, EventConflict) and claim.handler.kind == PIPELINE:
            log.info("run %d of pipeline %r: %s", claim.run_id, claim.handler_name, result)
        elif isinstance(result, EventprocError):
            raise result
    return any(isinstance(result, Accepted) and result.runs for result in results)
