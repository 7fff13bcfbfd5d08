"""Runs: looking at them, ending them, running them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eventproc.abc import Tx
from eventproc.errors import Conflict, Forbidden, NotFound
from eventproc.model import (
    CLAIMABLE_STATES,
    DEAD_STATES,
    LEASED_STATES,
    FileRecord,
    LogChunk,
    Role,
    Run,
    RunFilter,
    RunState,
    User,
)
from eventproc.service.changing import WHOLE, Changed, Part, check_choice, chunks
from eventproc.service.context import ServiceContext
from eventproc.service.handlers import require_handler_owner
from eventproc.service.rights import require

CANCELLABLE = tuple(sorted(CLAIMABLE_STATES | LEASED_STATES))


class Runs:
    """Use cases around runs."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def page(self, principal: User, which: RunFilter, *, after: int | None = None, limit: int = 100) -> list[Run]:
        require(principal, Role.VIEWER, "listing runs")
        with self._context.store.read() as tx:
            return tx.runs.page(which, after=after, limit=limit)

    def counts(self, principal: User) -> dict[str, int]:
        require(principal, Role.VIEWER, "counting runs")
        with self._context.store.read() as tx:
            return tx.runs.counts()

    def get(self, principal: User, run_id: int) -> Run:
        require(principal, Role.VIEWER, "reading runs")
        with self._context.store.read() as tx:
            return _existing(tx, run_id)

    def logs(self, principal: User, run_id: int, *, after: int = 0, limit: int = 1000) -> tuple[Run, list[LogChunk]]:
        """Return the run as it stands, and its output behind the chunk `after`."""
        require(principal, Role.VIEWER, "reading runs")
        with self._context.store.read() as tx:
            return _existing(tx, run_id), tx.runs.logs(run_id, after=after, limit=limit)

    def files(self, principal: User, run_id: int) -> list[FileRecord]:
        require(principal, Role.VIEWER, "reading runs")
        with self._context.store.read() as tx:
            _existing(tx, run_id)
            return tx.files.of_run(run_id)

    def cancel(self, principal: User, run_id: int) -> Run:
        """Cancel a waiting run; an executing one is asked to end."""
        changed = self._change(principal, [run_id], "run.cancel")
        return self._after(principal, run_id, changed, "cancelled")

    def requeue(self, principal: User, run_id: int, *, current: bool = False) -> Run:
        """Run a failed or cancelled run again, with its own version or (`current`) the handler's present one."""
        changed = self._change(principal, [run_id], "run.requeue", current=current)
        return self._after(principal, run_id, changed, "requeued")

    def cancel_many(
        self,
        principal: User,
        which: RunFilter | Sequence[int],
        *,
        everything: bool = False,
        part: Part = WHOLE,
    ) -> Changed:
        """Cancel the runs of those ids, or all that the filter finds and are not final; with `everything` all those."""
        return self._change_many(principal, which, "run.cancel", CANCELLABLE, everything=everything, part=part)

    def requeue_many(
        self,
        principal: User,
        which: RunFilter | Sequence[int],
        *,
        everything: bool = False,
        current: bool = False,
        part: Part = WHOLE,
    ) -> Changed:
        """Requeue the runs of those ids, or all dead ones that the filter finds; with `everything` all dead ones."""
        dead = tuple(sorted(DEAD_STATES))
        return self._change_many(
            principal, which, "run.requeue", dead, everything=everything, current=current, part=part
        )

    # ------------------------------------------------------------------------------------------ changing

    def _change_many(
        self,
        principal: User,
        which: RunFilter | Sequence[int],
        action: str,
        states: tuple[RunState, ...],
        *,
        everything: bool,
        part: Part,
        current: bool = False,
    ) -> Changed:
        require(principal, Role.DEVELOPER, "changing runs")
        check_choice(
            "runs", "ids, hook, handler, event, state or time", restricted=which != RunFilter(), everything=everything
        )
        total = Changed()
        if not isinstance(which, RunFilter):
            for ids in chunks(which):
                total.merge(self._change(principal, ids, action, current=current))
            return total
        wanted = which if which.states else replace(which, states=states)
        while size := part.chunk():
            with self._context.store.read() as tx:
                ids = tx.runs.find(wanted, after=part.after, limit=size)
            if not ids:
                return total
            total.merge(self._change(principal, ids, action, current=current))
            part = part.behind(ids)
        total.next = part.after
        return total

    def _change(self, principal: User, ids: Sequence[int], action: str, *, current: bool = False) -> Changed:
        require(principal, Role.DEVELOPER, "changing runs")
        result = Changed()
        now_us = self._context.clock.now_us()
        with self._context.store.begin() as tx:
            allowed = self._allowed(tx, principal, ids, result)
            if action == "run.cancel":
                cancelled, asked = tx.runs.cancel(allowed, now_us=now_us, reason=f"cancelled by {principal.name}")
                done = cancelled | asked
                result.asked = len(asked)
                self._context.wake_after(tx, "cancel")
            else:
                done = tx.runs.requeue(allowed, now_us=now_us, current=current)
                self._context.wake_after(tx, "runs")
            tx.streams.follow(sorted(done), now_us=now_us)
            result.add(sorted(done))
            for run_id in allowed:
                if run_id not in done:
                    state = _existing(tx, run_id).state.value
                    result.refuse(run_id, Conflict(f"run {run_id} is {state}", run=run_id, state=state))
            if done:
                detail = {"count": len(done), "ids": sorted(done)[:100], "current": current}
                target = f"run:{min(done)}" if len(done) == 1 else "runs"
                self._context.audit(tx, principal, action, target, **detail)
        return result

    def _allowed(self, tx: Tx, principal: User, ids: Sequence[int], result: Changed) -> list[int]:
        """Return the ids of the runs whose handlers the principal may change; say why the others are not."""
        handlers = tx.runs.handlers_of(ids)
        verdicts = {id_: _verdict(tx, principal, id_, name) for id_, name in set(handlers.values())}
        allowed = []
        for run_id in ids:
            if run_id not in handlers:
                result.refuse(run_id, NotFound(f"there is no run {run_id}", run=run_id))
                continue
            why = verdicts[handlers[run_id][0]]
            if why is None:
                allowed.append(run_id)
            else:
                result.refuse(run_id, why)
        return allowed

    def _after(self, principal: User, run_id: int, changed: Changed, what: str) -> Run:
        """Return the one run that was changed. Raises what it was refused for."""
        if not changed.refused:
            return self.get(principal, run_id)
        why = changed.refused[0][1]
        if isinstance(why, Conflict):
            raise Conflict(f"{why.message} and can not be {what}", **why.details)
        raise why


def _verdict(tx: Tx, principal: User, handler_id: int, name: str) -> Forbidden | None:
    handler = tx.handlers.get(handler_id)
    if handler is None:
        if principal.role is Role.ADMIN:
            return None
        return Forbidden(f"handler {name!r} does not exist any more: only an admin may change its runs")
    try:
        require_handler_owner(tx, principal, handler)
    except Forbidden as error:
        return error
    return None


def _existing(tx: Tx, run_id: int) -> Run:
    run = tx.runs.get(run_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}", run=run_id)
    return run
