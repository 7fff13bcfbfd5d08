"""What becomes of a run: the transition, its notice, and the event that tells of failures."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

from eventproc.engine.effects import NO_EFFECTS
from eventproc.model import (
    MAX_HOPS,
    SECOND_US,
    Claim,
    Effects,
    Event,
    Failure,
    Finish,
    HandlerVersion,
    LogChunk,
    NewEvent,
    NewNotice,
    Retries,
    RunState,
    isoformat,
)
from eventproc.registry.checks import mail_addresses

RUN_FAILED = "run.failed"
SANDBOX_TRIES = 3  # a platform that could not set up a process is given so many more chances
MAX_TRACEBACK = 20_000  # characters of it in an event

# What trying again can not change.
_FINAL_KINDS = frozenset({"load", "cancelled"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusion:
    """All that is written about one execution, in one transaction."""

    claim: Claim
    finish: Finish
    effects: Effects = NO_EFFECTS
    logs: tuple[LogChunk, ...] = ()
    settled: bool = False  # the callbacks after a success that was written before
    notify: bool = True  # False: no mail of a success, which the handler said is not worth one

    @property
    def run_id(self) -> int:
        return self.finish.run_id


def retry_delay_us(retries: Retries, failures: int, *, chance: float) -> int:
    """Return the pause before the next try after so many failures; `chance` from 0 to 1 places it in the jitter."""
    # The exponent is capped before the power is taken: 2.0**2000 is no float.
    base = min(retries.backoff_s * 2.0 ** min(failures - 1, 60), retries.backoff_max_s)
    return round(base * (1 + retries.jitter * (2 * chance - 1)) * SECOND_US)


def failures_so_far(claim: Claim) -> int:
    """Return how many executions failed, this one included; lost leases are no failures of the handler."""
    return max(1, claim.attempt - claim.interruptions)


def failed(
    claim: Claim, failure: Failure, *, now_us: int, figures: dict[str, Any], chance: float | None = None
) -> Finish:
    """Return the transition of a failed execution: retrying if it has tries left, else failed for good."""
    retries = claim.handler.options.retries
    allowed = max(retries.max, SANDBOX_TRIES) if failure.kind == "sandbox" else retries.max
    failures = failures_so_far(claim)
    if failures <= allowed and failure.kind not in _FINAL_KINDS:
        chance = random.random() if chance is None else chance  # noqa: S311 - spreads load, guards nothing
        due_us = now_us + retry_delay_us(retries, failures, chance=chance)
        state = RunState.RETRYING
    else:
        # The effects of a run that is here for its callbacks only are recorded: to fail it altogether would deny them.
        due_us, state = None, RunState.COMMIT_FAILED if claim.callbacks_only else RunState.FAILED
    return Finish(run_id=claim.run_id, token=claim.token, state=state, failure=failure, due_us=due_us, **figures)


def cancelled(claim: Claim, *, figures: dict[str, Any]) -> Finish:
    failure = Failure(kind="cancelled", message="cancelled while it was running", rolled_back=False)
    return Finish(run_id=claim.run_id, token=claim.token, state=RunState.CANCELLED, failure=failure, **figures)


def given_back(claim: Claim) -> Finish:
    """Return the transition of a run that goes back into the queue as if it had never been taken."""
    return Finish(run_id=claim.run_id, token=claim.token, state=RunState.QUEUED, count_attempt=False)


def notice_of(version: HandlerVersion, state: RunState, *, run_id: int, serial: int, now_us: int) -> NewNotice | None:
    """Return the notice that a final state calls for, None where nobody asked for one."""
    if state is RunState.SUCCEEDED:
        outcome, addresses = "success", version.notify_on_success
    elif state in (RunState.FAILED, RunState.COMMIT_FAILED):
        outcome, addresses = "failure", version.notify_on_failure
    else:
        return None
    recipients = mail_addresses(addresses)
    if not recipients:
        return None
    return NewNotice(run_id=run_id, outcome=outcome, recipients=recipients, due_us=now_us, serial=serial)


def failure_event(
    event: Event,
    version: HandlerVersion,
    handler_name: str,
    *,
    run_id: int,
    attempt: int,
    state: RunState,
    failure: Failure | None,
) -> NewEvent | None:
    """Return the event `run.failed`; None for runs that such an event caused, and at the end of the longest chain."""
    if event.hook == RUN_FAILED or event.hops >= MAX_HOPS:
        return None
    facts = asdict(failure) if failure else {"kind": "lost", "message": "no reason was recorded"}
    if facts.get("traceback"):
        facts["traceback"] = facts["traceback"][-MAX_TRACEBACK:]
    return NewEvent(
        hook=RUN_FAILED,
        payload={
            "run": run_id,
            "state": state.value,
            "attempt": attempt,
            "handler": {"id": version.handler_id, "name": handler_name, "version": version.version},
            "event": {
                "id": event.id,
                "hook": event.hook,
                "time": isoformat(event.time_us),
                "tags": list(event.tags),
                "key": event.key,
            },
            "failure": facts,
        },
        source="engine",
        tags=event.tags,
        trace_parent=event.trace_parent,
        hops=event.hops + 1,
        caused_by_run=run_id,
    )


def failure_event_of(claim: Claim, finish: Finish) -> NewEvent | None:
    if finish.state not in (RunState.FAILED, RunState.COMMIT_FAILED):
        return None
    return failure_event(
        claim.event,
        claim.handler,
        claim.handler_name,
        run_id=claim.run_id,
        attempt=claim.attempt,
        state=finish.state,
        failure=finish.failure,
    )


def unblocks_others(claim: Claim) -> bool:
    """Tell whether runs may wait for this one to end, by order or by a limit."""
    options = claim.handler.options
    if options.concurrency is not None:
        return True
    return claim.event.key is not None if options.order_by == "key" else options.order_by is not None
