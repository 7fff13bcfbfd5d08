"""Runs: looking at them, ending them, running them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from eventproc.abc import Tx
from eventproc.errors import Conflict, Forbidden, InvalidInput, NotFound
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
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require, require_owner

CHUNK = 500  # runs changed in one transaction
MAX_IDS = 1000  # in one answer
CANCELLABLE = tuple(sorted(CLAIMABLE_STATES | LEASED_STATES))
REQUEUEABLE = (*sorted(DEAD_STATES), RunState.CANCELLED)


@dataclass(kw_only=True, slots=True)
class Changed:
    """What a bulk change came to; `ids` and `refused` hold at most the first thousand."""

    count: int = 0
    asked: int = 0  # of `count`: runs that were executing, and were asked to end
    ids: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)

    def add(self, ids: Sequence[int]) -> None:
        self.count += len(ids)
        self.ids += list(ids)[: MAX_IDS - len(self.ids)]

    def refuse(self, run_id: int, reason: str) -> None:
        if len(self.refused) < MAX_IDS:
            self.refused.append((run_id, reason))


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

    def cancel_many(self, principal: User, which: RunFilter | Sequence[int]) -> Changed:
        """Cancel the runs of those ids, or all that the filter finds and are not final."""
        return self._change_many(principal, which, "run.cancel", CANCELLABLE)

    def requeue_many(self, principal: User, which: RunFilter | Sequence[int], *, current: bool = False) -> Changed:
        """Requeue the runs of those ids, or all dead ones that the filter finds."""
        return self._change_many(principal, which, "run.requeue", tuple(sorted(DEAD_STATES)), current=current)

    # ------------------------------------------------------------------------------------------ changing

    def _change_many(
        self,
        principal: User,
        which: RunFilter | Sequence[int],
        action: str,
        states: tuple[RunState, ...],
        *,
        current: bool = False,
    ) -> Changed:
        require(principal, Role.DEVELOPER, "changing runs")
        total = Changed()
        for ids in self._chunks(which, states):
            changed = self._change(principal, ids, action, current=current)
            total.add(changed.ids)
            total.asked += changed.asked
            for run_id, reason in changed.refused:
                total.refuse(run_id, reason)
        return total

    def _chunks(self, which: RunFilter | Sequence[int], states: tuple[RunState, ...]) -> Iterator[list[int]]:
        if not isinstance(which, RunFilter):
            ids = list(dict.fromkeys(which))
            for start in range(0, len(ids), CHUNK):
                yield ids[start : start + CHUNK]
            return
        if which == RunFilter():
            raise InvalidInput("say which runs: by ids, hook, handler, event, state or time")
        if not which.states:
            which = replace(which, states=states)
        after = None
        while True:
            with self._context.store.read() as tx:
                found = tx.runs.page(which, after=after, limit=CHUNK)
            if not found:
                return
            yield [run.id for run in found]
            after = found[-1].id

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
                    run = _existing(tx, run_id)
                    result.refuse(run_id, f"run {run_id} is {run.state.value}")
            if done:
                detail = {"count": len(done), "ids": sorted(done)[:100], "current": current}
                target = f"run:{min(done)}" if len(done) == 1 else "runs"
                self._context.audit(tx, principal, action, target, **detail)
        return result

    def _allowed(self, tx: Tx, principal: User, ids: Sequence[int], result: Changed) -> list[int]:
        """Return the ids of the runs whose handlers the principal may change; say why the others are not."""
        verdicts: dict[int, str | None] = {}  # by handler
        allowed = []
        for run_id in ids:
            run = tx.runs.get(run_id)
            if run is None:
                result.refuse(run_id, f"there is no run {run_id}")
                continue
            if run.handler_id not in verdicts:
                verdicts[run.handler_id] = _verdict(tx, principal, run)
            reason = verdicts[run.handler_id]
            if reason is None:
                allowed.append(run_id)
            else:
                result.refuse(run_id, reason)
        return allowed

    def _after(self, principal: User, run_id: int, changed: Changed, what: str) -> Run:
        run = self.get(principal, run_id)
        if changed.refused:
            reason = changed.refused[0][1]
            if "belongs to" in reason:
                raise Forbidden(reason, run=run_id)
            raise Conflict(f"{reason} and can not be {what}", run=run_id, state=run.state.value)
        return run


def _verdict(tx: Tx, principal: User, run: Run) -> str | None:
    handler = tx.handlers.get(run.handler_id)
    if handler is None:
        return None if principal.role is Role.ADMIN else "its handler does not exist any more"
    owner = tx.users.get(handler.owner_id)
    name = owner.name if owner else handler.created_by
    try:
        require_owner(
            principal, owner_id=handler.owner_id, owner=name, thing=f"handler {handler.name!r} of run {run.id}"
        )
    except Forbidden as error:
        return error.message
    return None


def _existing(tx: Tx, run_id: int) -> Run:
    run = tx.runs.get(run_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}", run=run_id)
    return run
