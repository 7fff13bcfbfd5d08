"""The runs that this worker has leased: which are under way, and which must end."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from eventproc.abc import Child, Clock, Store
from eventproc.model import SECOND_US, Claim


class Ending(StrEnum):
    """Why a run must end before it is done by itself."""

    LOST = "lost"  # the lease is somebody else's or nobody's: nothing may be written
    CANCELLED = "cancelled"
    STOPPING = "stopping"  # the worker ends: the run is given back


@dataclass(slots=True)
class _Held:
    claim: Claim
    ending: Ending | None = None
    child: Child | None = None  # that executes it at this moment
    committing: bool = False  # its result is written: neither cancelling nor stopping may cut its callbacks off


class Leases:
    """Keeps the leases alive and notices those that are lost or whose runs somebody cancelled."""

    def __init__(self, *, store: Store, clock: Clock, lease_s: float) -> None:
        self._store = store
        self._clock = clock
        self._lease_us = round(lease_s * SECOND_US)
        self._held: dict[int, _Held] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def add(self, claims: Iterable[Claim]) -> None:
        """
        Note what was claimed.

        A run that we still execute under an earlier token was taken back and came to us again: that one is lost.
        """
        children = []
        with self._lock:
            for claim in claims:
                before = self._held.get(claim.run_id)
                if before is not None and before.child is not None:
                    children.append(before.child)
                self._held[claim.run_id] = _Held(claim)
        for child in children:
            child.kill()

    def release(self, claim: Claim) -> None:
        with self._lock:
            if self._find(claim) is not None:
                del self._held[claim.run_id]

    def ending(self, claim: Claim) -> Ending | None:
        """Return why the run must end, None when it need not."""
        held = self._find(claim)
        return Ending.LOST if held is None else held.ending

    def enter(self, claim: Claim, child: Child) -> None:
        """Note that the child is about to execute the run; it is killed at once if the run has to end."""
        with self._lock:
            held = self._find(claim)
            if held is not None:
                held.child = child
            doomed = held is None or held.ending is not None
        if doomed:
            child.kill()

    def leave(self, claim: Claim) -> None:
        held = self._find(claim)
        if held is not None:
            held.child = None

    def committing(self, claim: Claim) -> None:
        held = self._find(claim)
        if held is not None:
            held.committing = True

    def _find(self, claim: Claim) -> _Held | None:
        held = self._held.get(claim.run_id)
        return held if held is not None and held.claim.token == claim.token else None

    def end(self, leases: Iterable[tuple[int, int]], why: Ending) -> None:
        """Have runs end; the children that execute them are killed."""
        children = []
        with self._lock:
            for run_id, token in leases:
                held = self._held.get(run_id)
                if held is None or held.claim.token != token or held.ending is Ending.LOST:
                    continue
                if held.committing and why is Ending.CANCELLED:
                    continue
                held.ending = why
                if held.child is not None:
                    children.append(held.child)
        for child in children:
            child.kill()

    def end_all(self, why: Ending) -> None:
        self.end(self._snapshot(), why)

    def renew(self) -> None:
        """Prolong all leases. Raises StoreUnavailable."""
        leases = self._snapshot()
        if not leases:
            return
        with self._store.begin() as tx:
            kept = tx.runs.renew(leases, lease_us=self._lease_us, now_us=self._clock.now_us())
            missing = [run_id for run_id, _ in leases if run_id not in kept]
            cancelled = tx.runs.cancel_requests(missing) if missing else set()
        self.end((lease for lease in leases if lease[0] in cancelled), Ending.CANCELLED)
        self.end((lease for lease in leases if lease[0] not in kept | cancelled), Ending.LOST)

    def look_for_cancels(self) -> None:
        """End the runs that somebody asked to cancel. Raises StoreUnavailable."""
        leases = self._snapshot()
        if leases:
            with self._store.read() as tx:
                cancelled = tx.runs.cancel_requests([run_id for run_id, _ in leases])
            self.end((lease for lease in leases if lease[0] in cancelled), Ending.CANCELLED)

    def _snapshot(self) -> Sequence[tuple[int, int]]:
        with self._lock:
            return [(run_id, held.claim.token) for run_id, held in self._held.items()]
