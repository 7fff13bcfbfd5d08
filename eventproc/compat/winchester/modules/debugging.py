"""
winchester.debugging: counts what the checks of triggers came to.

Lines of the log are whole texts, as winchester's are: its users' tests compare them.
"""

# ruff: noqa: G004, SLF001

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

logger = logging.getLogger("winchester.debugging")


class NoOpGroup:
    """Counts nothing."""

    def match(self) -> bool:
        return True

    def mismatch(self, reason: str) -> bool:
        del reason
        return False

    def check(self, value: bool, reason: str) -> bool:  # noqa: FBT001 - winchester's signature
        del reason
        return value


class NoOpDebugger:
    """Counts nothing: debug level 0."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self.noop_group = NoOpGroup()

    def reset(self) -> None:
        """Nothing is kept."""

    def get_group(self, name: str) -> NoOpGroup:
        del name
        return self.noop_group

    def bump_counter(self, name: str, inc: int = 1) -> None:
        """Nothing is kept."""

    def get_debug_level(self) -> int:
        return 0


class Group:
    """Counts the checks of one kind."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._match = 0
        self._mismatch = 0
        self._reasons: Counter[str] = Counter()

    def match(self) -> bool:
        self._match += 1
        return True

    def mismatch(self, reason: str) -> bool:
        self._mismatch += 1
        self._reasons[reason] += 1
        return False

    def check(self, value: bool, reason: str) -> bool:  # noqa: FBT001 - winchester's signature
        return self.match() if value else self.mismatch(reason)


class DetailedDebugger:
    """Counts for one trigger."""

    def __init__(self, name: str, debug_level: int) -> None:
        self._name = name
        self._debug_level = debug_level
        self.reset()

    def reset(self) -> None:
        self._groups: dict[str, Group] = {}
        self._counters: Counter[str] = Counter()

    def get_group(self, name: str) -> Group:
        return self._groups.setdefault(name, Group(name))

    def bump_counter(self, name: str, inc: int = 1) -> None:
        self._counters[name] += inc

    def get_debug_level(self) -> int:
        return self._debug_level


Debugger = NoOpDebugger | DetailedDebugger


class DebugManager:
    """Keeps the debuggers of triggers, by name."""

    def __init__(self) -> None:
        self._debuggers: dict[str, Debugger] = {}

    def get_debugger(self, trigger_def: Any) -> Debugger:
        name, level = ("n/a", 2) if trigger_def is None else (trigger_def.name, trigger_def.debug_level)
        if name not in self._debuggers:
            self._debuggers[name] = DetailedDebugger(name, level) if level > 0 else NoOpDebugger()
        return self._debuggers[name]

    def dump_group(self, debugger: DetailedDebugger, group_name: str) -> None:
        group = debugger.get_group(group_name)
        checks = group._match + group._mismatch
        logger.info(f"{group._name} Criteria: {checks} checks, {group._match} passed")
        if debugger.get_debug_level() > 1:
            for reason, count in group._reasons.items():
                logger.info(f" - {reason} = {count}")

    def dump_counters(self, debugger: DetailedDebugger) -> None:
        for name, value in debugger._counters.items():
            logger.info(f'Counter "{name}" = {value}')

    def dump_debuggers(self) -> None:
        """Write all counts into the log, and begin anew."""
        for debugger in self._debuggers.values():
            if debugger.get_debug_level() == 0 or isinstance(debugger, NoOpDebugger):
                continue
            logger.info(f"---- Trigger Definition: {debugger._name} ----")
            for group_name in sorted(debugger._groups, reverse=True):
                self.dump_group(debugger, group_name)
            self.dump_counters(debugger)
            debugger.reset()
            logger.info("----------------------------")
