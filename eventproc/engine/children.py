"""Sandbox children by handler version: fresh ones, warm ones for isolation batch and cell, and the blobs they load."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from eventproc.abc import Child, Sandbox, Store
from eventproc.engine.programs import environment_of, program_of
from eventproc.errors import SandboxError
from eventproc.model import Claim, Environment, HandlerVersion

MAX_ENVIRONMENTS = 200  # locks in memory
MAX_IDLE_CPU_US = 500_000  # of processor time that a child may use while nothing of it runs

log = logging.getLogger(__name__)

Key = tuple[int, int, str]  # handler, version, digest of the blob: limits and owner are the version's


def key_of(version: HandlerVersion) -> Key:
    return (version.handler_id, version.version, version.digest)


@dataclass(slots=True)
class Warm:
    """A child that may serve further calls."""

    child: Child
    key: Key
    calls: int = 0
    idle_since: float = field(default_factory=time.monotonic)


class Blobs:
    """The blobs that were used last, up to so many bytes."""

    def __init__(self, store: Store, *, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._blobs: OrderedDict[str, bytes] = OrderedDict()
        self._environments: OrderedDict[str, Environment] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, version: HandlerVersion) -> bytes:
        """Return the version's blob. Raises SandboxError when the store has none."""
        with self._lock:
            blob = self._blobs.get(version.digest)
            if blob is not None:
                self._blobs.move_to_end(version.digest)
                return blob
        with self._store.read() as tx:
            blob = tx.handlers.blob(version.handler_id, version.version)
        if blob is None:
            raise SandboxError(
                f"the code of handler {version.handler_id} version {version.version} is not in the store"
            )
        self._keep(version.digest, blob)
        return blob

    def environment(self, version: HandlerVersion) -> Environment | None:
        """Return the version's packages; those used last are remembered."""
        if version.environment is None:
            return None
        with self._lock:
            known = self._environments.get(version.environment)
            if known is not None:
                self._environments.move_to_end(version.environment)
        if known is None:
            with self._store.read() as tx:
                known = environment_of(tx, version)
            if known is not None:
                with self._lock:
                    self._environments[known.digest] = known
                    while len(self._environments) > MAX_ENVIRONMENTS:
                        self._environments.popitem(last=False)
        return known

    def _keep(self, digest: str, blob: bytes) -> None:
        with self._lock:
            if digest not in self._blobs:
                self._blobs[digest] = blob
                self._size += len(blob)
            while self._size > self._max_bytes and len(self._blobs) > 1:
                _, dropped = self._blobs.popitem(last=False)
                self._size -= len(dropped)


class Children:
    """Starts children, and keeps those of isolation batch and cell warm until they are old, idle or too many."""

    def __init__(
        self,
        *,
        sandbox: Sandbox,
        blobs: Blobs,
        max_calls: int,
        idle_s: float,
        max_idle: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sandbox = sandbox
        self._blobs = blobs
        self._max_calls = max_calls
        self._idle_s = idle_s
        self._max_idle = max_idle
        self._monotonic = monotonic
        self._idle: list[Warm] = []  # the one used last at the end
        self._lock = threading.Lock()

    def spawn(self, claim: Claim) -> Child:
        """Start a fresh child."""
        version = claim.handler
        environment = self._blobs.environment(version)
        program = program_of(version, self._blobs.get(version), name=claim.handler_name, environment=environment)
        return self._sandbox.spawn(program, version.options.limits)

    def take(self, claim: Claim) -> Warm:
        """Return a warm child of that version, or a fresh one; one that died while it was idle is no run's fault."""
        key = key_of(claim.handler)
        while (warm := self._take_idle(key)) is not None:
            if warm.child.alive:
                return warm
            warm.child.close()
        return Warm(self.spawn(claim), key)

    def _take_idle(self, key: Key) -> Warm | None:
        with self._lock:
            for index in range(len(self._idle) - 1, -1, -1):
                if self._idle[index].key == key:
                    return self._idle.pop(index)
        return None

    def give(self, warm: Warm) -> None:
        """Take back a child that is in good order."""
        warm.child.rest()
        warm.idle_since = self._monotonic()
        surplus: list[Warm] = []
        with self._lock:
            (surplus if warm.calls >= self._max_calls else self._idle).append(warm)
            while len(self._idle) > self._max_idle:
                surplus.append(self._idle.pop(0))
        for old in surplus:
            old.child.close()

    def reap(self) -> None:
        """End the children that nobody needed for a while, and those that work although nothing of theirs runs."""
        before = self._monotonic() - self._idle_s
        old, restless, kept = [], [], []
        with self._lock:
            for warm in self._idle:
                if warm.idle_since < before:
                    old.append(warm)
                elif warm.child.idle_cpu_us() > MAX_IDLE_CPU_US:
                    restless.append(warm)
                else:
                    kept.append(warm)
            self._idle = kept
        for warm in restless:
            log.warning("a process of handler %s is ended: it works although none of its runs does", warm.key[0])
        for warm in (*old, *restless):
            warm.child.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for warm in idle:
            warm.child.close()
