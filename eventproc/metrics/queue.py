"""
Samples from a broker's queue, in the message format of Numenta's htmengine.

A message is JSON: `{"protocol": "plain", "data": ["name value timestamp", …]}`, each item a line of Graphite's
plaintext protocol. A line that is none is refused by itself; a message that is none is set aside, its neighbours are
taken.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from eventproc.metrics.intake import Intake
from eventproc.metrics.lines import parse_lines
from eventproc.metrics.writer import Refused, refused_batch
from eventproc.model import RejectReason

_SHOWN = 200  # characters of a message that can not be read


class _Message(msgspec.Struct):
    protocol: Literal["plain"]
    data: list[str]


_decode = msgspec.json.Decoder(_Message).decode


class QueueIntake:
    """Stores the messages of a queue; `take` returns once they are stored."""

    def __init__(self, intake: Intake, queue: str) -> None:
        self._intake = intake
        self._source = f"queue {queue}"

    def take(self, bodies: Sequence[bytes]) -> list[str | None]:
        """
        Store what the messages hold; return, for each, None or why it can not be read.

        Raises Unavailable when the store can not be used: then nothing is stored, and all may come again.
        """
        reasons: list[str | None] = []
        lines: list[str] = []
        refused: list[Refused] = []
        for body in bodies:
            try:
                message = _decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                reasons.append(f"not a message of samples: {error}")
                text = body[:_SHOWN].decode("ascii", "backslashreplace")
                refused.append(Refused(RejectReason.UNREADABLE, text, self._source))
            else:
                reasons.append(None)
                # A line break inside an item would make two lines of it; each item is one, good or bad.
                lines += [item.replace("\n", "\\n") for item in message.data]
        if lines:
            batch = parse_lines("\n".join(lines).encode("utf-8", "backslashreplace") + b"\n")
            batch.sources = (self._source,)
            self._intake.store(batch)
        if refused:
            self._intake.store(refused_batch(refused))
        return reasons


class _Consumer(Protocol):
    def run(self) -> None: ...
    def stop(self) -> None: ...


class QueueService:
    """The consumer as a service of the listener role."""

    def __init__(self, consumer: _Consumer) -> None:
        self._consumer = consumer
        self._done = threading.Event()

    def run(self) -> None:
        try:
            self._consumer.run()
        finally:
            self._done.set()

    def stop(self, grace_s: float) -> None:
        self._consumer.stop()
        self._done.wait(grace_s)


__all__ = ["QueueIntake", "QueueService"]
