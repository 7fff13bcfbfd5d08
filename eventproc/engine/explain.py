"""Why an event did or did not run a handler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eventproc.abc import Tx
from eventproc.model import Event, HandlerRecord, Run, RunFilter, RunState, isoformat
from eventproc.registry.catalogue import Catalogue, Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """The answer in one sentence, each check on the way, and the runs there are."""

    verdict: str
    reasons: tuple[Reason, ...]
    runs: tuple[Run, ...]


def why(tx: Tx, catalogue: Catalogue, event: Event, handler: HandlerRecord, *, now_us: int) -> Explanation:
    """Explain what became, or would become, of the event at that handler, as both are now."""
    runs = tuple(tx.runs.page(RunFilter(event_id=event.id, handler_id=handler.id)))
    matching = [*_life(event, handler, has_run=bool(runs)), *catalogue.explain(event, handler)]
    holding = _holds(tx, catalogue, event, handler)
    reasons = [*matching, *holding, *(_run_reason(run, now_us=now_us) for run in reversed(runs))]
    if runs:
        waits = runs[0].state in (RunState.QUEUED, RunState.RETRYING)
        held = next((reason for reason in holding if not reason.ok), None) if waits else None
        verdict = held.text if held else reasons[-1].text
    else:
        blocking = next((reason for reason in matching if not reason.ok), None)
        verdict = blocking.text if blocking else _NO_RUN
    return Explanation(verdict=verdict, reasons=tuple(reasons), runs=runs)


_NO_RUN = (
    "it would match now but has no run: the handler's tags or filter were others when the event came, "
    "or the run was deleted by retention; replay the event to run it"
)


def _life(event: Event, handler: HandlerRecord, *, has_run: bool) -> Sequence[Reason]:
    reasons = []
    registered = handler.created_us <= event.accepted_us
    when = f"the handler was registered at {isoformat(handler.created_us)}"
    accepted = f"the event was accepted at {isoformat(event.accepted_us)}"
    if registered or has_run:
        reasons.append(Reason(check="registered", ok=True, text=f"{when}, {accepted}"))
    else:
        text = f"{when}, after {accepted}; replay the event to run it"
        reasons.append(Reason(check="registered", ok=False, text=text))
    if handler.current.created_us > event.accepted_us and registered:
        text = f"version {handler.current.version} is newer than the event; the checks below are about this version"
        reasons.append(Reason(check="version", ok=True, text=text))
    if handler.deregistered_us is not None:
        before = handler.deregistered_us <= event.accepted_us
        text = f"the handler was deregistered at {isoformat(handler.deregistered_us)}"
        reasons.append(Reason(check="deregistered", ok=not before, text=text))
    return reasons


def _holds(tx: Tx, catalogue: Catalogue, event: Event, handler: HandlerRecord) -> list[Reason]:
    """Say what keeps a queued run from starting."""
    reasons = []
    spec = catalogue.spec_for(event.hook)
    if spec.paused:
        text = f"the hook {spec.name!r} is paused: its runs wait until it is resumed"
        reasons.append(Reason(check="paused", ok=False, text=text))
    if handler.paused:
        text = "the handler is paused: its runs wait until it is resumed"
        reasons.append(Reason(check="paused", ok=False, text=text))
    owner = tx.users.get(handler.owner_id)
    if owner is not None and owner.disabled:
        text = f"the handler's owner {owner.name!r} is disabled: its runs wait"
        reasons.append(Reason(check="owner", ok=False, text=text))
    return reasons


def _run_reason(run: Run, *, now_us: int) -> Reason:
    again = f" (round {run.round})" if run.round else ""
    return Reason(check="run", ok=True, text=f"run {run.id}{again} {_state_text(run, now_us=now_us)}")


def _failure_text(run: Run) -> str:
    assert run.failure is not None
    # The state says already that a run was cancelled.
    return run.failure.message if run.failure.kind == run.state else f"{run.failure.kind}: {run.failure.message}"


def _state_text(run: Run, *, now_us: int) -> str:
    failure = f": {_failure_text(run)}" if run.failure else ""
    at = isoformat(run.finished_us or now_us)
    order = f"; it keeps the order of {run.order_key!r} behind earlier runs" if run.order_key else ""
    texts = {
        RunState.QUEUED: f"is queued since {isoformat(run.created_us)} and waits for a worker or a limit{order}",
        RunState.RETRYING: f"failed in attempt {run.attempt}{failure}; the next try is due at {isoformat(run.due_us)}",
        RunState.RUNNING: f"is running since {isoformat(run.started_us or now_us)} in {run.worker}",
        RunState.COMMITTING: "has written its result and runs its commit callbacks",
        RunState.SUCCEEDED: f"succeeded at {at} in attempt {run.attempt}",
        RunState.FAILED: f"failed at {at} in attempt {run.attempt}{failure}",
        RunState.COMMIT_FAILED: f"wrote its result, but its commit callbacks failed{failure}",
        RunState.CANCELLED: f"was cancelled at {at}{failure}",
    }
    if run.state is RunState.QUEUED and run.due_us > now_us:
        return f"is queued until {isoformat(run.due_us)}"
    return texts[run.state]
