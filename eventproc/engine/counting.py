"""Counts what became of triggers' pipelines, in the words of winchester's debugger."""

from __future__ import annotations

import json
from collections.abc import Iterable

from eventproc.abc import Tx
from eventproc.engine.outcomes import Conclusion
from eventproc.model import PIPELINE, RunState
from eventproc.registry.catalogue import Catalogue
from eventproc.registry.tally import Counting


def count_pipelines(tx: Tx, catalogue: Catalogue, conclusions: Iterable[Conclusion]) -> None:
    """Count the outcomes of streams' runs for those triggers that are debugged, once the transaction is committed."""
    tally = catalogue.tally
    debugged = {each.record.name: each for each in catalogue.triggers.triggers if each.record.definition.debug_level}
    if tally is None or not debugged:
        return
    counting = Counting()
    for conclusion in conclusions:
        if conclusion.claim.handler.kind != PIPELINE:
            continue
        trigger = debugged.get(json.loads(conclusion.claim.event.payload_json)["trigger"])
        if trigger is not None:
            for name in counters(conclusion):
                counting.count(trigger, name)
    tx.after_commit(lambda: tally.add(counting.counts))


def counters(conclusion: Conclusion) -> list[str]:
    """
    Return the counters that grow by one.

    They are of whole pipelines: winchester counts "Commit" and "Rollback" once for each handler. A pipeline whose
    commits do nothing has committed with its result.
    """
    state, again = conclusion.finish.state, conclusion.claim.callbacks_only
    if state is RunState.COMMITTING:
        return [] if again else ["Pre-commit successful"]
    if state is RunState.SUCCEEDED:
        return ["Commit successful"] if again or conclusion.settled else ["Pre-commit successful", "Commit successful"]
    if state is RunState.COMMIT_FAILED or (again and state is RunState.RETRYING):
        return ["Commit error"]
    if state in (RunState.FAILED, RunState.RETRYING):
        failure = conclusion.finish.failure
        rolled_back = None if failure is None else failure.rolled_back
        rollback = {None: [], True: ["Rollback successful"], False: ["Rollback error"]}[rolled_back]
        return ["Pipeline error", *rollback]
    return []
