"""Dry runs: a handler version is executed on an event, and everything it asked for is reported and thrown away."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eventproc.abc import RunSession, Sandbox, Services
from eventproc.engine.execution import call_of
from eventproc.engine.firing import MAX_CALL_BYTES, call_payload
from eventproc.engine.programs import program_of
from eventproc.engine.redaction import RedactedStreams, Redactor, redacted
from eventproc.errors import InvalidInput
from eventproc.model import Claim, Effects, Environment, Event, Failure, HandlerRecord, HandlerVersion, isoformat

DRY_RUN_ID = 0  # no run has it


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """What an execution came to, and what would have been written."""

    result_json: str | None
    failure: Failure | None
    logs: tuple[tuple[str, str], ...]  # stream, text
    effects: Mapping[str, Any]
    callbacks: bool  # commit callbacks wait, and were not run

    def to_json(self) -> dict[str, Any]:
        return {
            "result": None if self.result_json is None else json.loads(self.result_json),
            "failure": None if self.failure is None else asdict(self.failure),
            "logs": [{"stream": stream, "text": text} for stream, text in self.logs],
            "effects": dict(self.effects),
            "callbacks": self.callbacks,
        }


class _Session(RunSession):
    """Passes requests on and keeps the output to itself: there is no run that it could be stored for."""

    def __init__(self, inner: RunSession) -> None:
        self._inner = inner
        self._streams = RedactedStreams(Redactor({}))
        self.output: list[tuple[str, str]] = []

    def call(self, op: str, args: Mapping[str, Any], body: bytes) -> tuple[Any, Sequence[bytes]]:
        return self._inner.call(op, args, body)

    def secrets(self) -> Mapping[str, str]:
        values = self._inner.secrets()
        self._streams = RedactedStreams(Redactor(values))
        return values

    def redact(self, text: str) -> str:
        return self._inner.redact(text)

    def redact_json(self, text: str) -> str:
        return self._inner.redact_json(text)

    def finish_output(self) -> None:
        for stream, text in self._streams.rest():
            self._keep(stream, text)

    def log(self, stream: str, text: str) -> None:
        self._keep(stream, self._streams.feed(stream, text))

    def _keep(self, stream: str, text: str) -> None:
        if not text:
            return
        if self.output and self.output[-1][0] == stream:
            self.output[-1] = (stream, self.output[-1][1] + text)
        else:
            self.output.append((stream, text))

    def effects(self) -> Effects:
        return self._inner.effects()

    def discard(self) -> None:
        self._inner.discard()


def dry_run(
    sandbox: Sandbox,
    services: Services,
    *,
    handler: HandlerRecord,
    version: HandlerVersion,
    blob: bytes,
    event: Event,
    environment: Environment | None = None,
    held: Sequence[Event] | None = None,
) -> DryRun:
    """
    Execute the version on the event in a fresh child, with the rights of the handler's owner.

    `held` are the events of the stream that a pipeline works on. Reads see the platform's data. Nothing is written;
    commit callbacks do not run, rollback callbacks do. Raises InvalidInput for events that a child is not given.
    """
    claim = Claim(
        run_id=DRY_RUN_ID,
        token=0,
        attempt=1,
        interruptions=0,
        lease_until_us=0,
        owner_id=handler.owner_id,
        handler_name=handler.name,
        handler=version,
        event=event,
    )
    payload = None if held is None else call_payload(claim, held)
    if payload is not None and len(payload) > MAX_CALL_BYTES:
        raise InvalidInput(
            f"the events are {len(payload):,} bytes, more than the {MAX_CALL_BYTES:,} that a child is given"
        )
    session = _Session(services.open(claim))
    child = sandbox.spawn(program_of(version, blob, name=handler.name, environment=environment), version.options.limits)
    try:
        (outcome,) = child.execute([(call_of(claim, session.secrets(), payload=payload), session)])
        outcome = redacted(outcome, session)
        effects = _describe(session.effects()) if outcome.failure is None else {}
        if outcome.failure is None and outcome.alive:
            child.settle(DRY_RUN_ID, "rollback")
        session.finish_output()
        return DryRun(
            result_json=outcome.result_json,
            failure=outcome.failure,
            logs=tuple(session.output),
            effects=effects,
            callbacks=outcome.callbacks,
        )
    finally:
        session.discard()
        child.close()


def _describe(effects: Effects) -> dict[str, Any]:
    return {
        "events": [
            {
                "id": event.id,
                "hook": event.hook,
                "payload": dict(event.payload),
                "tags": list(event.tags),
                "key": event.key,
                "time": None if event.time_us is None else isoformat(event.time_us),
            }
            for event in effects.events
        ],
        "inserts": [_describe_insert(insert.series, insert.times_ns) for insert in effects.inserts],
        "files": [{"name": file.name, "size": file.size, "digest": file.digest} for file in effects.files],
        "series": [
            {"uuid": series.uuid, "name": series.name, "collection": series.collection} for series in effects.series
        ],
        "annotations": [
            {"series": change.series, "annotations": dict(change.annotations)} for change in effects.annotations
        ],
        "messages": [{"kind": each.kind, "target": each.target, "size": len(each.body)} for each in effects.outgoing],
    }


def _describe_insert(series: str, times_ns: bytes) -> dict[str, Any]:
    times = np.frombuffer(times_ns, "<i8")
    return {
        "series": series,
        "count": len(times),
        "start": int(times.min()) if len(times) else None,
        "end": int(times.max()) if len(times) else None,
    }
