"""The API's part in trying a handler: it knows what the workers have, and asks one of them where that is needed."""

from __future__ import annotations

import time

from eventproc.abc import Program
from eventproc.engine.preparing import LIVE_S, TOPIC, Prepared, prepare, read_answer, request_to_json
from eventproc.errors import Unavailable, VersionMismatch
from eventproc.model import SECOND_US, Limits, WorkerState
from eventproc.service.context import ServiceContext

LONGEST_PAUSE_S = 0.25
LOOK_S = 5.0  # between looks whether a worker is there that will answer


def served_pythons(context: ServiceContext, *, wanted: str = "") -> tuple[str, ...]:
    """Return what the live workers run; what would run here as long as there are none."""
    workers = live_workers(context)
    if not workers:
        own = context.sandbox.pythons()
        return own if wanted in {"", *own} else context.sandbox.pythons(wait=True)
    found = {python for worker in workers for python in worker.pythons}
    return tuple(sorted(found, key=lambda text: [int(part) for part in text.split(".")]))


def live_workers(context: ServiceContext) -> list[WorkerState]:
    if not context.delegates:
        return []
    with context.store.read() as tx:
        return tx.workers.live(since_us=context.clock.now_us() - round(LIVE_S * SECOND_US))


def check_python(context: ServiceContext, python: str) -> None:
    """Refuse a Python that nobody has."""
    if not python:
        return
    served = served_pythons(context, wanted=python)
    if python not in served:
        raise VersionMismatch(
            f"the handler was made by Python {python}; the workers here run {', '.join(served) or 'none'}; "
            "register it from one of those",
            python=python,
            pythons=list(served),
        )


def prepare_for(context: ServiceContext, program: Program, limits: Limits, requirements: tuple[str, ...]) -> Prepared:
    """
    Have the handler tried where it can be.

    Raises InvalidHandler or RequirementsError, and Unavailable if no worker answers in time.
    """
    own = context.sandbox.pythons()[0]
    if (requirements or program.python not in {"", own}) and live_workers(context):
        return _Question(context, program, limits, requirements).answer()
    return prepare(context.sandbox, program, limits, requirements)


class _Question:
    """Something asked of the workers."""

    def __init__(
        self, context: ServiceContext, program: Program, limits: Limits, requirements: tuple[str, ...]
    ) -> None:
        self._context = context
        self._python = program.python
        request = request_to_json(program, limits, requirements)
        with context.store.begin() as tx:
            now_us = context.clock.now_us()
            self._id = tx.preparations.ask(program.python, request, program.blob, now_us=now_us)
            context.wake_after(tx, TOPIC)

    def answer(self) -> Prepared:
        """Wait for it."""
        try:
            return read_answer(self._wait())
        finally:
            with self._context.store.begin() as tx:
                tx.preparations.drop(self._id)

    def _wait(self) -> str:
        until = time.monotonic() + self._context.settings.prepare_timeout_s
        look_at = time.monotonic() + LOOK_S
        pause_s = 0.005
        while True:
            with self._context.store.read() as tx:
                found = tx.preparations.answered(self._id)
            if found is not None:
                return found
            now = time.monotonic()
            if now > until:
                raise Unavailable(
                    f"no worker has tried the handler within {self._context.settings.prepare_timeout_s:g} s; what was "
                    "installed so far is kept, so register it again"
                )
            if now > look_at:
                look_at = now + LOOK_S
                check_python(self._context, self._python)
            if self._context.draining.wait(pause_s):
                raise Unavailable("the server is about to stop; register it again in a moment")
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
