"""What the page of a run shows."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from eventproc.errors import NotFound
from eventproc.model import DEAD_STATES, SECOND_US, LogChunk, Run, RunState, User, to_datetime
from eventproc.service.facade import UseCases

BEGINNING = 20_000  # characters of the output that are shown
END = 200_000
TEXT = 200_000  # characters of the result, of the payload, of a traceback
ATTEMPTS = 5  # the last ones, whose output is shown
PAGE = 100  # chunks that are read at once
AGAIN = DEAD_STATES | {RunState.CANCELLED}


def facts(cases: UseCases, principal: User, run_id: int) -> dict[str, Any]:
    """Collect what the template shows. Raises NotFound."""
    run = cases.runs.get(principal, run_id)
    return {
        "run": run,
        "started": _moment(run.started_us),
        "finished": _moment(run.finished_us),
        "seconds": _seconds(run),
        "headline": _headline(run),
        "again": run.state in AGAIN,
        "result": None if run.result_json in (None, "null") else cut(_readable(run.result_json)),
        "payload": _payload(cases, principal, run),
        "files": cases.runs.files(principal, run_id),
        "output": output(_chunks(cases, principal, run_id)),
    }


@dataclass(slots=True)
class Output:
    """What one attempt printed: how it began and how it ended, with the number of characters between them."""

    attempt: int
    beginning: str = ""
    left_out: int = 0
    end: deque[str] = field(default_factory=deque)
    kept: int = 0  # characters in `end`

    def add(self, text: str) -> None:
        if not self.end and len(self.beginning) < BEGINNING:
            head = text[: BEGINNING - len(self.beginning)]
            self.beginning += head
            text = text[len(head) :]
        if text:
            self.end.append(text)
            self.kept += len(text)
        while self.kept > END:
            oldest = self.end.popleft()
            rest = oldest[self.kept - END :]
            if rest:
                self.end.appendleft(rest)
            self.kept -= len(oldest) - len(rest)
            self.left_out += len(oldest) - len(rest)


def output(chunks: Iterator[LogChunk]) -> list[Output]:
    """Gather the output of the last ATTEMPTS attempts, at most BEGINNING + END characters of each."""
    found: dict[int, Output] = {}
    for chunk in chunks:
        found.setdefault(chunk.attempt, Output(chunk.attempt)).add(chunk.text)
        if len(found) > ATTEMPTS:
            del found[min(found)]
    return list(found.values())


def cut(text: str) -> str:
    if len(text) <= TEXT:
        return text
    return f"{text[:TEXT]}\n[... {len(text) - TEXT:,} more characters were cut here]"


def _chunks(cases: UseCases, principal: User, run_id: int) -> Iterator[LogChunk]:
    after = 0
    while True:
        _, chunks = cases.runs.logs(principal, run_id, after=after, limit=PAGE)
        yield from chunks
        if len(chunks) < PAGE:
            return
        after = chunks[-1].id


def _headline(run: Run) -> str:
    if run.failure is None:
        return ""
    parts = (run.failure.type or "", run.failure.message.strip())
    return cut(": ".join(part for part in parts if part) or run.failure.kind)


def _payload(cases: UseCases, principal: User, run: Run) -> str:
    try:
        return cut(_readable(cases.events.get(principal, run.event_id).payload_json))
    except NotFound:  # retention took it
        return ""


def _readable(text: str | None) -> str:
    """Write a text as it is, and any other JSON indented."""
    try:
        value = json.loads(text or "null")
        return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text or ""


def _moment(us: int | None) -> str:
    return "" if us is None else to_datetime(us).strftime("%Y-%m-%d %H:%M:%S UTC")


def _seconds(run: Run) -> str:
    if run.started_us is None or run.finished_us is None:
        return ""
    return f"{max(0, run.finished_us - run.started_us) / SECOND_US:.3f}"
