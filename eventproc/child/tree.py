"""What all processes below a monitor use together, for handlers that may start some."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Tuple

LOOK_MS = 50  # between two looks
TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
TELL_US = 50_000  # of CPU time, worth a word to the worker


class Tree:
    """Adds up memory and CPU time of all processes of a pid namespace but the monitor."""

    def __init__(self, monitor: int, limits: Dict[str, Any]) -> None:
        self._monitor = monitor
        self._most = int(limits["memory_bytes"])
        self._seen: Dict[Tuple[int, bytes], int] = {}  # (pid, start) → CPU time of its own
        self._told_us = 0
        self.cpu_us = 0
        self.memory_bytes = 0

    def look(self) -> Optional[str]:
        """Take the sums; return the limit that is overrun, None if none is."""
        everybody = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  many and short-lived
        pids = [pid for pid in everybody if pid != self._monitor]
        self._add_cpu(pids)
        held = sum(_resident(pid) for pid in pids)
        if held > self._most:  # pages that forks share were counted for each: look closely, which takes longer
            held = sum(_proportional(pid) for pid in pids)
        self.memory_bytes = max(self.memory_bytes, held)
        return "memory" if held > self._most else None

    def news(self) -> Optional[Dict[str, Any]]:
        """Return what is worth telling the worker since the last time."""
        if self.cpu_us - self._told_us < TELL_US:
            return None
        self._told_us = self.cpu_us
        return {"used": {"cpu_us": self.cpu_us, "memory_bytes": self.memory_bytes}}

    def _add_cpu(self, pids: List[int]) -> None:
        """
        Count the time of the living with what they waited for, and that of all that were ever seen.

        Whichever is more: what nobody waits for is in the second sum only, what was over at once in the first.
        """
        living = 0
        for pid in pids:
            fields = _stat(pid)
            if fields:
                own = int(fields[11]) + int(fields[12])
                living += own + int(fields[13]) + int(fields[14])
                self._seen[pid, fields[19]] = own
        self.cpu_us = max(self.cpu_us, TICK_US * max(living, sum(self._seen.values())))


def _stat(pid: int) -> List[bytes]:
    """Return the fields of /proc/PID/stat behind the name, from the state on."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:  # noqa: PTH123  many and often
            return stream.read().rpartition(b")")[2].split()
    except OSError:  # it ended while we looked
        return []


def _sum_of(path: str, names: Tuple[bytes, ...]) -> Optional[int]:
    """Add the named lines of a file of kilobytes; None if it can not be read or has none of them."""
    total = None
    try:
        with open(path, "rb") as stream:  # noqa: PTH123  as above
            for line in stream:
                if line.startswith(names):
                    total = (total or 0) + int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return total


def _resident(pid: int) -> int:
    return _sum_of(f"/proc/{pid}/status", (b"RssAnon:", b"RssShmem:")) or 0


def _proportional(pid: int) -> int:
    """Return the memory of a process with its share of what it has in common with others."""
    found = _sum_of(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:"))
    return _resident(pid) if found is None else found
