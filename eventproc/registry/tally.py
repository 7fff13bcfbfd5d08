"""What the checks of triggers came to, counted in memory and written now and then: why a trigger did not fire."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from eventproc.abc import Check, Checks, Store
from eventproc.errors import EventprocError
from eventproc.registry.triggerset import Trigger

log = logging.getLogger(__name__)

MATCH = "Match"
FIRE = "Fire"
COUNTER = "Counter"
FLUSH_S = 1.0

Counts = dict[tuple[int, str, str], list[int]]  # (trigger, kind, reason) → checks, passed


class NoChecks:
    """Counts nothing: debug level 0."""

    def match(self) -> bool:
        return True

    def mismatch(self, reason: str) -> bool:
        del reason
        return False

    def check(self, value: bool, reason: str) -> bool:  # noqa: FBT001 - see abc.Checks
        del reason
        return value


class CountedChecks:
    """Counts one group of one trigger; reasons from debug level 2 on."""

    def __init__(self, counts: Counts, trigger_id: int, kind: str, *, reasons: bool) -> None:
        self._counts = counts
        self._trigger_id = trigger_id
        self._kind = kind
        self._reasons = reasons
        self._all = counts.setdefault((trigger_id, kind, ""), [0, 0])

    def match(self) -> bool:
        self._all[0] += 1
        self._all[1] += 1
        return True

    def mismatch(self, reason: str) -> bool:
        self._all[0] += 1
        if self._reasons:
            self._counts.setdefault((self._trigger_id, self._kind, reason), [0, 0])[0] += 1
        return False

    def check(self, value: bool, reason: str) -> bool:  # noqa: FBT001 - see abc.Checks
        return self.match() if value else self.mismatch(reason)


NO_CHECKS = NoChecks()


class Counting:
    """The counts of one transaction."""

    def __init__(self) -> None:
        self.counts: Counts = {}
        self._groups: dict[tuple[int, str], Checks] = {}

    def group(self, trigger: Trigger, kind: str) -> Checks:
        """Return what counts the checks of a trigger, as its debug level says."""
        level = trigger.record.definition.debug_level
        if level < 1:
            return NO_CHECKS
        found = self._groups.get((trigger.id, kind))
        if found is None:
            found = CountedChecks(self.counts, trigger.id, kind, reasons=level > 1)
            self._groups[(trigger.id, kind)] = found
        return found

    def count(self, trigger: Trigger, name: str, number: int = 1) -> None:
        """Count something that happened, such as "New stream"."""
        if trigger.record.definition.debug_level > 0:
            self.counts.setdefault((trigger.id, COUNTER, name), [0, 0])[0] += number


class Tally:
    """
    The counts of this process that are not written yet.

    They are written a second after the first of them, in a transaction of their own: a crash loses that second.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._counts: Counts = {}
        self._timer: threading.Timer | None = None

    def add(self, counts: Counts) -> None:
        """Take the counts of a transaction that was committed."""
        if not counts:
            return
        with self._lock:
            self._merge(counts.items())
            if self._timer is None:
                self._timer = threading.Timer(FLUSH_S, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def _merge(self, items: Iterable[tuple[tuple[int, str, str], list[int]]]) -> None:
        for name, (checks, passed) in items:
            known = self._counts.setdefault(name, [0, 0])
            known[0] += checks
            known[1] += passed

    def flush(self) -> None:
        """Write what is there; what can not be written now is kept for the next time."""
        with self._lock:
            counts, self._counts = self._counts, {}
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        rows = [
            Check(trigger_id=trigger_id, kind=kind, name=name, checks=checks, passed=passed)
            for (trigger_id, kind, name), (checks, passed) in counts.items()
        ]
        if not rows:
            return
        try:
            with self._store.begin() as tx:
                tx.triggers.add_checks(rows)
        except EventprocError as error:
            log.info("the counters of triggers wait for the store: %s", error)
            with self._lock:
                self._merge(counts.items())
        except Exception:  # counters are for looking at: nothing else may suffer for them
            log.warning("the counters of triggers were lost", exc_info=True)
