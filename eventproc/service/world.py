"""The handlers' world: answers what `db` and `ep` ask for, with the rights of the handler's owner."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from eventproc.abc import RunSession, Services
from eventproc.engine.redaction import RedactedStreams, Redactor
from eventproc.errors import Forbidden, InvalidInput
from eventproc.model import Claim, Effects, LogChunk, Role, User
from eventproc.service.context import ServiceContext
from eventproc.service.lately import Lately
from eventproc.service.logs import LogWriter, RunLog
from eventproc.service.reads import Answer, Read, Reads
from eventproc.service.rights import require
from eventproc.service.secrets import declared_values
from eventproc.service.writes import Writes

NO_EFFECTS = Effects()
OWNER_S = 2.0  # a disabled owner is noticed within so many seconds


class World(Services):
    """Opens sessions for the runs that a worker executes."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._logs = LogWriter(context.store)
        self._lately = Lately(context)

    def open(self, claim: Claim) -> RunSession:
        return Session(self._context, claim, self._logs, self._lately)

    def close(self) -> None:
        """Store what output is left; call it when no session is in use any more."""
        self._logs.close()


class Session(RunSession):
    """
    One execution's side of the platform.

    Reads see committed data only. What the run asks to be written is validated now and kept until its commit.
    """

    def __init__(self, context: ServiceContext, claim: Claim, writer: LogWriter, lately: Lately) -> None:
        self._context = context
        self._lately = lately
        self._claim = claim
        self._writer = writer
        self._lock = threading.Lock()
        self._over = False  # nothing can be added to the effects any more
        self._owner: User | None = None
        self._owner_until = 0.0  # on the monotonic clock
        limits = claim.handler.options.limits
        self._log = RunLog(claim.run_id, claim.attempt, max_bytes=limits.output_bytes)
        self._redactor: Redactor | None = None
        self._streams: RedactedStreams | None = None
        # Most runs ask for nothing, and there are thousands a second.
        self._reads: dict[str, Read] | None = None
        self._writes: Writes | None = None

    def call(self, op: str, args: Mapping[str, Any], body: bytes) -> Answer:
        what = f"{op!r} in handler {self._claim.handler_name!r}"
        if self._reads is None:
            self._reads = Reads(self._context).ops()
        read = self._reads.get(op)
        if read is not None:
            require(self._owner_now(), Role.VIEWER, what)
            return read(args)
        with self._lock:
            if self._writes is None:
                self._writes = Writes(
                    self._context, self._claim, self._owner_now, self._lately, sealed=self._over, redact=self.redact
                )
            write = self._writes.ops().get(op)
            if write is None:
                raise InvalidInput(f"unknown request {op!r}")
            require(self._owner_now(), Role.EMITTER if op in ("emit", "emit_all") else Role.DEVELOPER, what)
            return write(args, body)

    def secrets(self) -> Mapping[str, str]:
        names = self._claim.handler.options.secrets
        if not names:
            return {}
        values = declared_values(self._context, self._claim.owner_id, names)
        self._redactor = Redactor(values)
        self._streams = RedactedStreams(self._redactor)
        return values

    def redact(self, text: str) -> str:
        return text if self._redactor is None else self._redactor.text(text)

    def redact_json(self, text: str) -> str:
        return text if self._redactor is None else self._redactor.json(text)

    def log(self, stream: str, text: str) -> None:
        if self._streams is not None:
            text = self._streams.feed(stream, text)
        self._add_log(stream, text)

    def _add_log(self, stream: str, text: str) -> None:
        if self._log.add(stream, text, at_us=self._context.clock.now_us()):
            self._writer.watch(self._log)

    def take_logs(self) -> Sequence[LogChunk]:
        self._release_output()
        return self._log.take()

    def effects(self) -> Effects:
        with self._lock:
            self._over = True
            return NO_EFFECTS if self._writes is None else self._writes.effects()

    def _release_output(self) -> None:
        """Write down what was held back because it could have been the beginning of a secret."""
        if self._streams is not None:
            for stream, text in self._streams.rest():
                self._add_log(stream, text)

    def discard(self) -> None:
        self._release_output()
        with self._lock:
            self._over = True
            if self._writes is not None:
                self._writes.discard()

    def _owner_now(self) -> User:
        """Return the owner as they are now, or were a moment ago."""
        now = time.monotonic()
        if self._owner is None or now > self._owner_until:
            self._owner = self._lately.user(self._claim.owner_id)
            self._owner_until = now + OWNER_S
        if self._owner is None:
            raise Forbidden(f"the owner of handler {self._claim.handler_name!r} does not exist any more")
        return self._owner
