"""
A worker that says when it did what: `eventproc serve --role worker`, with stamps around the steps of a run.

It is started by `latency.py --trace` in the worker's place. The stamps go to the file that TRACE_FILE names, one JSON
object a line, in nanoseconds since 1970; what they cost is in the figures.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventproc.bus.local import LocalListener
from eventproc.cli.main import main
from eventproc.engine.execution import Executor
from eventproc.engine.leases import Leases
from eventproc.engine.worker import Worker
from eventproc.sandbox.child import ConnectedChild
from eventproc.store.runs import SqlRuns

TRACE_FILE = "BENCH_TRACE_FILE"
# Each stage ends with the stamp of its name; the handler's own stamp ends the last one.
STAGES = {
    "accepted": "accept: statements, commit, wake-up sent",
    "woken": "the wake-up is heard",
    "claiming": "the claiming thread takes over",
    "begun": "claim: transaction begun",
    "leased": "claim: statements",
    "claimed": "claim: commit",
    "in_slot": "a slot takes over",
    "sent": "slot: session, child, frame sent",
    "started": "the child takes over, handler's first line",
}


class Trace:
    """The stamps of the run at hand: events come one at a time."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("a", buffering=1)  # noqa: SIM115 - open as long as the process
        self._stamps: dict[str, int] = {}

    def stamp(self, name: str) -> None:
        self._stamps[name] = time.time_ns()

    def write(self, event_id: str) -> None:
        self._file.write(json.dumps({"event": event_id, **self._stamps}) + "\n")


def install(trace: Trace) -> None:
    """Put stamps around the steps."""

    def after(owner: type, name: str, stamp: str, when: Callable[[Any], bool] = lambda _: True) -> None:
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def stamped(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = inner(self, *args, **kwargs)
            if when(result):
                trace.stamp(stamp)
            return result

        setattr(owner, name, stamped)

    def before(owner: type, name: str, stamp: str) -> None:
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def stamped(self: Any, *args: Any, **kwargs: Any) -> Any:
            trace.stamp(stamp)
            return inner(self, *args, **kwargs)

        setattr(owner, name, stamped)

    after(LocalListener, "wait", "woken", lambda topics: "runs" in topics)
    before(Worker, "_claim", "claiming")
    before(SqlRuns, "claim", "begun")
    after(SqlRuns, "claim", "leased", bool)
    before(Leases, "add", "claimed")
    before(Executor, "run", "in_slot")
    send = ConnectedChild._send_call  # noqa: SLF001 - there is nothing public between taking a call and sending it

    def stamped_send(self: ConnectedChild, call: Any, session: Any) -> None:
        send(self, call, session)
        trace.stamp("sent")
        trace.write(json.loads(call.event_json)["message_id"])

    ConnectedChild._send_call = stamped_send  # type: ignore[method-assign]  # noqa: SLF001


if __name__ == "__main__":
    install(Trace(os.environ[TRACE_FILE]))
    main(args=["serve", "--role", "worker"])
