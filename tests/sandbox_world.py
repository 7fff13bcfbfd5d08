"""What sandbox tests need: programs from plain functions, calls, and a session that remembers."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dill

from eventproc.abc import Call, Outcome, Program, RunSession, Sandbox
from eventproc.model import Effects, Failure, Limits

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
EVENT = {"message_id": "m-1", "event_type": "test.hook", "timestamp": 1_700_000_000_000_001, "tags": ["a"], "key": "k"}


class Session(RunSession):
    """Answers with what `answers` says and remembers all that it was asked."""

    def __init__(self, answers: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.answers = dict(answers or {})
        self.asked: list[tuple[str, Mapping[str, Any], bytes]] = []
        self.output: list[tuple[str, str]] = []
        self.discarded = False

    def call(self, op: str, args: Mapping[str, Any], body: bytes) -> tuple[Any, Sequence[bytes]]:
        self.asked.append((op, args, body))
        answer = self.answers.get(op)
        if answer is None:
            return {"id": f"{op}-{len(self.asked)}"}, ()
        value, arrays = answer(args, body)
        return value, arrays

    def log(self, stream: str, text: str) -> None:
        self.output.append((stream, text))

    def effects(self) -> Effects:
        return Effects()

    def discard(self) -> None:
        self.discarded = True

    def text(self, *streams: str) -> str:
        return "".join(text for stream, text in self.output if stream in (streams or ("stdout", "stderr", "log")))


def program(handler: Any, *, python: str = HERE, with_source: bool = False) -> Program:
    """Pickle a handler that was defined inside a test, and so travels by value."""
    blob = handler if isinstance(handler, bytes) else dill.dumps(handler, recurse=True)
    return Program(
        blob=blob,
        digest=hashlib.sha256(blob).hexdigest(),
        python=python,
        kind="class" if inspect.isclass(handler) else "function",
        name="under-test",
        source=inspect.getsource(handler) if with_source else None,
        filename=handler.__code__.co_filename if with_source else None,
    )


def call(run_id: int = 1, payload: Mapping[str, Any] | None = None, *, callbacks_only: bool = False) -> Call:
    return Call(
        run_id=run_id,
        attempt=1,
        event_json=json.dumps({**EVENT, "attempt": 1}).encode(),
        payload_json=json.dumps(payload or {}).encode(),
        hook="test.hook",
        callbacks_only=callbacks_only,
    )


def run_one(
    sandbox: Sandbox,
    handler: Any,
    payload: Mapping[str, Any] | None = None,
    *,
    limits: Limits | None = None,
    session: Session | None = None,
    with_source: bool = False,
    **asked: Any,
) -> tuple[Outcome, Session]:
    """Run a handler once in a fresh child, and let go of it; `asked` are further members of its program."""
    session = session or Session()
    child = sandbox.spawn(replace(program(handler, with_source=with_source), **asked), limits or Limits())
    try:
        (outcome,) = child.execute([(call(1, payload), session)])
    finally:
        child.close()
    return outcome, session


def result(sandbox: Sandbox, handler: Any, payload: Mapping[str, Any] | None = None, **asked: Any) -> Any:
    """Run a handler once, and return what it returned."""
    outcome, _ = run_one(sandbox, handler, payload, **asked)
    assert outcome.failure is None, outcome.failure
    assert outcome.result_json is not None
    return json.loads(outcome.result_json)


def failure(sandbox: Sandbox, handler: Any, payload: Mapping[str, Any] | None = None, **asked: Any) -> Failure:
    """Run a handler once, and return how it failed."""
    outcome, _ = run_one(sandbox, handler, payload, **asked)
    assert outcome.started
    assert outcome.failure is not None
    return outcome.failure
