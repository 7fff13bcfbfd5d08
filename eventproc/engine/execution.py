"""Executes claimed runs in sandbox children and says what came of them: law 2, from the slot's side."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from eventproc.abc import Call, Child, Clock, Outcome, RunSession, Services
from eventproc.engine import outcomes
from eventproc.engine.children import Children, Key, Warm, key_of
from eventproc.engine.effects import NO_EFFECTS
from eventproc.engine.finishing import Finisher, Written
from eventproc.engine.firing import MAX_CALL_BYTES, call_payload, stream_of
from eventproc.engine.leases import Ending, Leases
from eventproc.engine.outcomes import Conclusion
from eventproc.engine.redaction import redacted, redacted_failure
from eventproc.errors import ConfigError, DamagedData, EventprocError, MissingSecret, SandboxError, Unavailable
from eventproc.model import (
    FULL_NETWORK,
    PIPELINE,
    Claim,
    Effects,
    Event,
    Failure,
    Finish,
    Isolation,
    LogChunk,
    Options,
    RunState,
)

log = logging.getLogger(__name__)

_encode = msgspec.json.encode
NO_SECRETS: Mapping[str, str] = {}
_DEAD_KINDS = frozenset({"interrupted", "exit", "signal", "sandbox", "cancelled", "lost"})
MAX_DEFERRED = 32  # runs whose callbacks wait for one transaction
_SMOOTHING = 0.3  # weight of the newest measurement of a handler's duration


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionSettings:
    sandbox_label: str
    batch_max: int  # calls handed to a child at once
    batch_target_s: float  # and about so much work
    batch_hold_s: float  # what a slot has not started by then goes back into the queue
    commit_tries: int
    commit_pause_s: float


class Durations:
    """How long calls of each handler version take, as measured lately."""

    def __init__(self, *, first_guess_s: float = 0.005) -> None:
        self._by_key: dict[Key, float] = {}
        self.mean_s = first_guess_s  # over all versions, for the size of claims

    def of(self, key: Key) -> float | None:
        return self._by_key.get(key)

    def note(self, key: Key, seconds: float) -> None:
        before = self._by_key.get(key, seconds)
        if len(self._by_key) > 10_000:
            self._by_key.clear()
        self._by_key[key] = before + _SMOOTHING * (seconds - before)
        self.mean_s += _SMOOTHING * (seconds - self.mean_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Success:
    """A run that ended well and waits for its transaction, before its callbacks run."""

    claim: Claim
    session: RunSession
    figures: dict[str, Any]
    callbacks: bool
    notify: bool
    logs: tuple[LogChunk, ...]
    answer: queue.SimpleQueue[Written | Exception] = field(default_factory=queue.SimpleQueue)


class Executor:
    """Takes lists of claims of one handler version and sees each of them to its end."""

    def __init__(
        self,
        *,
        children: Children,
        services: Services,
        leases: Leases,
        finisher: Finisher,
        clock: Clock,
        settings: ExecutionSettings,
        stream_events: Callable[[Sequence[int]], Mapping[int, Sequence[Event]]] | None = None,
    ) -> None:
        self._stream_events = stream_events
        self._children = children
        self._services = services
        self._leases = leases
        self._finisher = finisher
        self._clock = clock
        self._settings = settings
        self._stopping = threading.Event()
        self.durations = Durations()

    def stop(self) -> None:
        """Start nothing more: what was not started is given back."""
        self._stopping.set()

    def run(self, claims: Sequence[Claim]) -> None:
        """Execute claims of one version; returns when each has been concluded or given back."""
        waiting = deque(claims)
        began = time.monotonic()
        fruitless = 0
        while waiting:
            if self._stopping.is_set() or (len(claims) > 1 and time.monotonic() - began > self._settings.batch_hold_s):
                self._give_back(waiting)
                return
            chunk = self._next_chunk(waiting)
            if not chunk:
                continue
            left = self._execute_chunk(chunk)
            fruitless = fruitless + 1 if len(left) == len(chunk) else 0
            if fruitless > 1:
                self._fault(left.pop(0), SandboxError("its process ended twice before the handler began"))
            waiting.extendleft(reversed(left))

    # ---------------------------------------------------------------------------------------- chunks

    def _next_chunk(self, waiting: deque[Claim]) -> list[Claim]:
        """Take about `batch_target_s` of work, leaving out what must not run any more."""
        took_s = self.durations.of(key_of(waiting[0].handler))
        size = 1 if took_s is None else round(self._settings.batch_target_s / max(took_s, 1e-6))
        chunk = []
        if _may_defer(waiting[0]):
            size = min(size, MAX_DEFERRED)
        for _ in range(min(max(1, size), self._settings.batch_max, len(waiting))):
            claim = waiting.popleft()
            ending = self._leases.ending(claim)
            if ending is None:
                chunk.append(claim)
            else:
                self._end_unstarted(claim, ending)
        return chunk

    def _end_unstarted(self, claim: Claim, ending: Ending) -> None:
        if ending is Ending.CANCELLED:
            self._submit(Conclusion(claim=claim, finish=outcomes.cancelled(claim, figures={})))
        elif ending is Ending.STOPPING:
            self._give_back([claim])
        else:
            self._leases.release(claim)

    def _give_back(self, claims: Sequence[Claim] | deque[Claim]) -> None:
        for claim in claims:
            self._submit(Conclusion(claim=claim, finish=outcomes.given_back(claim)))

    def _execute_chunk(self, chunk: list[Claim]) -> list[Claim]:
        """Execute a chunk in one child; return the claims that never began."""
        keep = chunk[0].handler.options.isolation is not Isolation.RUN
        warm: Warm | None = None
        done: set[int] = set()
        healthy = False
        try:
            warm = (
                self._children.take(chunk[0])
                if keep
                else Warm(self._children.spawn(chunk[0]), key_of(chunk[0].handler))
            )
            left, healthy = self._drive(warm, chunk, done)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever goes wrong is the outcome of these runs
            left = [claim for claim in chunk if claim.run_id not in done]
            return self._after_fault(left, error)
        else:
            return left
        finally:
            if warm is not None:
                if keep and healthy:
                    self._children.give(warm)
                else:
                    warm.child.close()

    def _after_fault(self, left: list[Claim], error: Exception) -> list[Claim]:
        if isinstance(error, Unavailable) and not isinstance(error, SandboxError):
            # The store or another part is away: that is no fault of these runs.
            log.warning("%d runs are given back: %s", len(left), error)
            self._give_back(left)
            return []
        if not isinstance(error, EventprocError):
            log.error("a fault of the platform while it executed runs", exc_info=error)
        if left:
            self._fault(left[0], error)
        return left[1:]

    def _fault(self, claim: Claim, error: Exception) -> None:
        text = error.message if isinstance(error, EventprocError) else f"internal error of eventproc: {error!r}"
        # Another try would read the same damaged bytes; a sandbox that could not be set up may do better then.
        kind = "load" if isinstance(error, DamagedData) else "sandbox"
        self._conclude_failure(claim, Failure(kind=kind, message=text), figures={}, logs=())

    def _drive(self, warm: Warm, chunk: list[Claim], done: set[int]) -> tuple[list[Claim], bool]:
        child = warm.child
        calls, chunk = self._open(chunk, done)
        if not chunk:
            return [], True
        sessions = [session for _, session in calls]
        left: list[Claim] = []
        healthy = True
        key = key_of(chunk[0].handler)
        deferred: list[_Success] | None = [] if _may_defer(chunk[0]) else None
        before = time.monotonic()
        results = child.execute(calls)
        try:
            for claim, session, outcome in _in_turn(chunk, sessions, results, child, self._leases):
                if claim.handler.options.secrets:
                    outcome = redacted(outcome, session)  # noqa: PLW2901 - nobody shall see the other one
                # A killed child's other runs had no part in it: they begin again elsewhere.
                if not outcome.started or self._hit_by_mistake(claim, outcome):
                    session.discard()
                    left.append(claim)
                    healthy = False
                    continue
                self.durations.note(key, time.monotonic() - before)
                warm.calls += 1
                done.add(claim.run_id)
                self._conclude(child, claim, session, outcome, deferred)
                healthy = healthy and outcome.alive
                before = time.monotonic()
        finally:
            for each in deferred or ():
                self._settle_written(child, each)
        return left, healthy

    def _open(self, chunk: list[Claim], done: set[int]) -> tuple[list[tuple[Call, RunSession]], list[Claim]]:
        """Open the runs' sessions; a run whose secrets can not be had ends here."""
        calls, claims = [], []
        payloads = self._payloads(chunk)
        for claim in chunk:
            payload = payloads.get(claim.run_id)
            if isinstance(payload, Failure):
                done.add(claim.run_id)
                self._conclude_failure(claim, payload, figures={}, logs=())
                continue
            session = self._services.open(claim)
            try:
                call = call_of(claim, session.secrets(), payload=payload)
            except (MissingSecret, ConfigError) as error:
                session.discard()
                done.add(claim.run_id)
                self._conclude_failure(claim, Failure(kind="secrets", message=error.message), figures={}, logs=())
            else:
                calls.append((call, session))
                claims.append(claim)
        return calls, claims

    def _payloads(self, chunk: Sequence[Claim]) -> Mapping[int, bytes | Failure]:
        """Return, by run, what pipelines are given in place of their event's payload: all events of the stream."""
        streams = {claim.run_id: stream_of(claim) for claim in chunk if claim.handler.kind == PIPELINE}
        if not streams or self._stream_events is None:
            return {}
        events = self._stream_events(sorted(set(streams.values())))
        found: dict[int, bytes | Failure] = {}
        for claim in chunk:
            stream_id = streams.get(claim.run_id)
            if stream_id is None:
                continue
            given = events.get(stream_id)
            if not given:
                found[claim.run_id] = Failure(kind="stream", message=f"stream {stream_id} or its events are gone")
                continue
            payload = call_payload(claim, given)
            found[claim.run_id] = payload if len(payload) <= MAX_CALL_BYTES else _too_large(stream_id, len(payload))
        return found

    def _hit_by_mistake(self, claim: Claim, outcome: Outcome) -> bool:
        killed = outcome.failure is not None and outcome.failure.kind == "cancelled"
        return killed and self._leases.ending(claim) is None

    # ---------------------------------------------------------------------------------------- conclusions

    def _conclude(
        self,
        child: Child,
        claim: Claim,
        session: RunSession,
        outcome: Outcome,
        deferred: list[_Success] | None = None,
    ) -> None:
        figures = self._figures(outcome, claim)
        ending = self._leases.ending(claim)
        if ending is Ending.LOST:
            session.discard()
            self._leases.release(claim)
            return
        if outcome.failure is not None:
            self._conclude_ended(claim, session, outcome.failure, ending, figures)
        elif outcome.callbacks and not outcome.alive:
            failure = Failure(
                kind="exit", message="its process ended before the commit callbacks could run", rolled_back=False
            )
            self._conclude_ended(claim, session, failure, ending, figures)
        else:
            self._conclude_success(child, claim, session, outcome, figures=figures, deferred=deferred)

    def _conclude_ended(
        self, claim: Claim, session: RunSession, failure: Failure, ending: Ending | None, figures: dict[str, Any]
    ) -> None:
        logs = tuple(session.take_logs())
        session.discard()
        if ending is Ending.CANCELLED:
            self._submit(Conclusion(claim=claim, finish=outcomes.cancelled(claim, figures=figures), logs=logs))
        elif ending is Ending.STOPPING and failure.kind == "cancelled":
            self._submit(Conclusion(claim=claim, finish=outcomes.given_back(claim), logs=logs))
        else:
            self._conclude_failure(claim, failure, figures=figures, logs=logs)

    def _conclude_failure(
        self, claim: Claim, failure: Failure, *, figures: dict[str, Any], logs: tuple[Any, ...]
    ) -> None:
        finish = outcomes.failed(claim, failure, now_us=self._clock.now_us(), figures=figures)
        self._submit(Conclusion(claim=claim, finish=finish, logs=logs))

    def _conclude_success(
        self,
        child: Child,
        claim: Claim,
        session: RunSession,
        outcome: Outcome,
        *,
        figures: dict[str, Any],
        deferred: list[_Success] | None,
    ) -> None:
        ended = _Success(
            claim=claim,
            session=session,
            figures=figures,
            callbacks=outcome.callbacks,
            notify=not outcome.quiet,
            logs=tuple(session.take_logs()),
        )
        try:
            effects = NO_EFFECTS if claim.callbacks_only else _effects_of(session)
        except EventprocError as error:
            self._refused(child, ended, error)
            return
        if claim.callbacks_only:
            session.discard()
        state = RunState.COMMITTING if outcome.callbacks else RunState.SUCCEEDED
        result = None if claim.callbacks_only else outcome.result_json
        finish = Finish(run_id=claim.run_id, token=claim.token, state=state, result_json=result, **figures)
        conclusion = Conclusion(claim=claim, finish=finish, effects=effects, logs=ended.logs, notify=ended.notify)
        if not (outcome.callbacks or outcome.rollbacks):
            self._finisher.submit(conclusion, lambda answer: self._written(answer, None, ended))
            return
        # The child stays until this transaction has decided what happens next.
        if outcome.callbacks:
            self._leases.committing(claim)
        self._finisher.submit(conclusion, ended.answer.put)
        if deferred is None:
            self._settle_written(child, ended)
        else:
            deferred.append(ended)

    def _settle_written(self, child: Child, ended: _Success) -> None:
        """Wait for the transaction of a success, and run the callbacks that follow."""
        answer = ended.answer.get()
        if answer is Written.YES and ended.callbacks:
            self._settle(child, ended.claim, ended.session, notify=ended.notify)
        else:
            self._written(answer, child, ended)

    def _written(self, answer: Written | Exception, child: Child | None, ended: _Success) -> None:
        """Deal with the answer to the transaction of a success."""
        if answer is Written.YES:
            self._leases.release(ended.claim)
        elif answer is Written.STALE:
            if child is not None:
                child.settle(ended.claim.run_id, "rollback")
            ended.session.discard()
            self._leases.release(ended.claim)
        else:
            self._refused(child, ended, answer)

    def _refused(self, child: Child | None, ended: _Success, error: Exception) -> None:
        """The run was fine, what it asked for can not be written: then nothing of it is."""
        claim, session = ended.claim, ended.session
        rolled_back = None
        if child is not None:
            rolled_back = child.settle(claim.run_id, "rollback") is None
        session.discard()
        if isinstance(error, Unavailable):
            self._leases.release(claim)  # the worker gave up on the store; the lease runs out by itself
            return
        text = error.message if isinstance(error, EventprocError) else repr(error)
        failure = Failure(
            kind="result",
            type=type(error).__name__,
            message=session.redact(f"what the run asked for can not be written: {text}"),
            rolled_back=rolled_back,
        )
        # What it printed was to be written together with what can not be.
        self._conclude_failure(claim, failure, figures=ended.figures, logs=(*ended.logs, *session.take_logs()))

    def _settle(self, child: Child, claim: Claim, session: RunSession, *, notify: bool) -> None:
        """Run the commit callbacks; those that failed are repeated in this child, then it is for good."""
        failure = None
        for attempt in range(self._settings.commit_tries):
            if attempt:
                time.sleep(self._settings.commit_pause_s * 2 ** (attempt - 1))
            failure = redacted_failure(child.settle(claim.run_id, "commit"), session)
            if failure is None or failure.kind in _DEAD_KINDS or self._leases.ending(claim) is Ending.LOST:
                break
        if failure is not None and failure.kind in _DEAD_KINDS:
            # The effects stand; a requeue runs the callbacks alone.
            message = f"its commit callbacks were interrupted: {failure.message}"
            failure = replace(failure, kind="interrupted", message=message)
        logs = tuple(session.take_logs())
        if self._leases.ending(claim) is Ending.LOST:
            self._leases.release(claim)
            return
        state = RunState.SUCCEEDED if failure is None else RunState.COMMIT_FAILED
        finish = Finish(run_id=claim.run_id, token=claim.token, state=state, failure=failure)
        self._submit(Conclusion(claim=claim, finish=finish, logs=logs, notify=notify, settled=True))

    def _submit(self, conclusion: Conclusion) -> None:
        self._finisher.submit(conclusion, lambda _: self._leases.release(conclusion.claim))

    def _figures(self, outcome: Outcome, claim: Claim) -> dict[str, Any]:
        return {
            "sandbox": self._settings.sandbox_label + _granted(claim.handler.options, outcome),
            "cpu_us": outcome.cpu_us,
            "memory_bytes": outcome.memory_bytes,
        }


def _granted(options: Options, outcome: Outcome) -> str:
    """Say what was let through the layers, as the registration asked for."""
    granted = []
    if options.allow_subprocess:
        granted.append("processes in a control group" if outcome.grouped else "processes")
    if options.network:
        granted.append("network" if options.network == FULL_NETWORK else f"{len(options.network)} places by TCP")
    return f", granted: {', '.join(granted)}" if granted else ""


def _in_turn(
    chunk: Sequence[Claim],
    sessions: Sequence[RunSession],
    results: Iterator[Outcome],
    child: Child,
    leases: Leases,
) -> Iterator[tuple[Claim, RunSession, Outcome]]:
    """Yield each claim with its outcome; while one is executed its lease knows the child."""
    for claim, session in zip(chunk, sessions, strict=True):
        leases.enter(claim, child)
        try:
            outcome = next(results)
        finally:
            leases.leave(claim)
        if outcome.run_id != claim.run_id:
            raise SandboxError(f"the sandbox reported run {outcome.run_id} in place of {claim.run_id}")
        yield claim, session, outcome


def _effects_of(session: RunSession) -> Effects:
    effects = session.effects()
    return NO_EFFECTS if effects == NO_EFFECTS else effects


def _may_defer(claim: Claim) -> bool:
    """
    Tell whether runs may share a transaction before their callbacks run, one after the other.

    Most pipelines have some: to wait for each by itself would cost more than the work.
    """
    return claim.handler.kind == PIPELINE and claim.handler.options.isolation is Isolation.BATCH


def _too_large(stream_id: int, size: int) -> Failure:
    text = (
        f"the events of stream {stream_id} are {size:,} bytes, more than the {MAX_CALL_BYTES:,} that a child is given"
    )
    return Failure(kind="stream", message=f"{text}; distinguish its trigger by more traits, or let it expire sooner")


def call_of(claim: Claim, secrets: Mapping[str, str] = NO_SECRETS, *, payload: bytes | None = None) -> Call:
    """Return the execution as the child is told of it; `payload` stands in for the event's own."""
    event = claim.event
    return Call(
        run_id=claim.run_id,
        attempt=claim.attempt,
        event_json=_encode(
            {
                "message_id": event.id,
                "event_type": event.hook,
                "timestamp": event.time_us,
                "tags": event.tags,
                "key": event.key,
                "attempt": claim.attempt,
            }
        ),
        payload_json=event.payload_json.encode() if payload is None else payload,
        hook=event.hook,
        callbacks_only=claim.callbacks_only,
        secrets=secrets,
    )
