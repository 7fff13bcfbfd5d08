"""Looks at processes, and at what they leave in a sandbox's scratch directory."""

from __future__ import annotations

import os
from pathlib import Path


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def below(ancestor: int) -> set[int]:
    """Return all descendants that are no zombies."""
    parents = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  many and short-lived
        if name.isdigit():
            try:
                parents[int(name)] = parent(int(name))
            except OSError:
                continue
    found: set[int] = set()
    while True:
        more = {pid for pid, up in parents.items() if (up == ancestor or up in found) and alive(pid)} - found
        if not more:
            return found
        found |= more


def private_directories(scratch: Path) -> list[Path]:
    runs = scratch / "runs"
    return list(runs.iterdir()) if runs.exists() else []
