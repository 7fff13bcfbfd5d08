"""
Control groups (cgroup v2) around handlers that may start processes.

The monitor adds up memory twenty times a second and the kernel bounds the number of processes of each user; where the
controllers `memory` and `pids` can be had, a group of each child's own makes both exact, and ends the tree at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import structlog

from eventproc.model import Limits

log = structlog.get_logger(__name__)

CONTROLLERS = ("memory", "pids")
PREFIX = "eventproc-run-"
LEAF = "eventproc-main"  # for the worker itself: a group with controllers holds no processes
ROOM_BYTES = 64 << 20  # beyond the limit, for the interpreter and the page tables
REMOVE_S = 5.0
_NAME = re.compile(rf"{PREFIX}(\d+)-(\d+)-\d+")


class Unavailable(Exception):
    """Control groups can not be had; the text says why."""


class Group:
    """The group of one child."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def overrun(self) -> bool:
        """Whether the kernel ended a process of it for want of memory."""
        try:
            events = (self._path / "memory.events").read_text()
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and not line.endswith(" 0") for line in events.splitlines())

    def remove(self) -> None:
        """End all processes in it, and the group."""
        deadline = time.monotonic() + REMOVE_S
        while True:
            self._kill()
            try:
                self._path.rmdir()
            except FileNotFoundError:
                return
            except OSError:  # killed processes take a moment to go
                if time.monotonic() > deadline:
                    log.warning("a control group could not be removed", path=str(self._path))
                    return
                time.sleep(0.002)
            else:
                return

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            if (self._path / "cgroup.kill").exists():
                (self._path / "cgroup.kill").write_text("1")
                return
            for pid in members(self._path):  # before Linux 5.14 one by one, again until none is left
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class Groups:
    """Makes groups below a directory in which this process may."""

    def __init__(self, base: Path, controllers: Iterable[str] = CONTROLLERS) -> None:
        self._base = base
        self._controllers = tuple(controllers)
        self._count = 0
        self._prepare()
        self.sweep()

    @classmethod
    def find(cls) -> Groups:
        """Divide the group that this process is in. Raises Unavailable."""
        return cls(own_group())

    def _prepare(self) -> None:
        look_at(self._base, self._controllers)
        try:
            self._enable()
        except OSError as error:
            raise Unavailable(f"{self._base} can not be divided: {error.strerror}") from None

    def _enable(self) -> None:
        control = self._base / "cgroup.subtree_control"
        wanted = [f"+{name}" for name in self._controllers if name not in control.read_text().split()]
        if not wanted:
            return
        try:
            control.write_text(" ".join(wanted))
        except OSError:  # it holds processes: give them a group of their own, if they are all ours
            self._move_out()
            control.write_text(" ".join(wanted))

    def _move_out(self) -> None:
        pids = members(self._base)
        if refusal := strangers_in(self._base):
            raise PermissionError(1, refusal)
        leaf = self._base / LEAF
        leaf.mkdir(exist_ok=True)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(str(pid))

    def put(self, pid: int, limits: Limits) -> Group:
        """Make a group with these limits and put a process into it, before it has had time to start others."""
        self._count += 1
        path = self._base / f"{PREFIX}{os.getpid()}-{_started(os.getpid())}-{self._count}"
        path.mkdir()
        group = Group(path)
        try:
            if "memory" in self._controllers:
                (path / "memory.max").write_text(str(limits.memory_bytes + limits.scratch_bytes + ROOM_BYTES))
                with contextlib.suppress(OSError):  # where there is no swap there is no such file
                    (path / "memory.swap.max").write_text("0")
                (path / "memory.oom.group").write_text("1")
            if "pids" in self._controllers:
                (path / "pids.max").write_text(str(limits.processes))
            (path / "cgroup.procs").write_text(str(pid))
        except OSError:
            group.remove()
            raise
        return group

    def sweep(self) -> None:
        """Remove what workers left that were killed."""
        for path in self._base.glob(f"{PREFIX}*"):
            match = _NAME.fullmatch(path.name)
            if match and _started(int(match[1])) != match[2]:
                Group(path).remove()


def look_at(base: Path, controllers: Iterable[str] = CONTROLLERS) -> None:
    """Raise Unavailable, saying why, where groups with these controllers can not be made."""
    try:
        there = set((base / "cgroup.controllers").read_text().split())
    except OSError as error:
        raise Unavailable(f"{base} can not be read: {error.strerror}") from None
    if lacking := [name for name in controllers if name not in there]:
        raise Unavailable(
            f"cgroup v2 at {base} has no controller {' and '.join(lacking)}; a systemd unit gets them with Delegate=yes"
        )
    if not os.access(base, os.W_OK):
        raise Unavailable(f"{base} belongs to somebody else; a systemd unit gets its own with Delegate=yes")


def look_whether_divisible(base: Path, controllers: Iterable[str] = CONTROLLERS) -> None:
    """Raise Unavailable, saying why, where groups with these controllers could not be made; changes nothing."""
    look_at(base, controllers)
    divided = set((base / "cgroup.subtree_control").read_text().split())
    refusal = None if divided.issuperset(controllers) else strangers_in(base)
    if refusal:
        raise Unavailable(f"{base} can not be divided: {refusal}")


def members(base: Path) -> list[int]:
    return [int(line) for line in (base / "cgroup.procs").read_text().split()]


def strangers_in(base: Path) -> str | None:
    """Say who lives in a group besides us, which then can not be divided."""
    init = 1 if _is_a_containers(base) else None
    stranger = next((pid for pid in members(base) if pid != init and not _is_ours(pid)), None)
    if stranger is None:
        return None
    who = f"process {stranger} ({_name_of(stranger)})"
    return f"{who} lives in it, which is not ours; start eventproc in a group of its own"


def _is_a_containers(base: Path) -> bool:
    """Whether a group is the top of what this process sees of them, whose init (tini and the like) is there for us."""
    own = Path("/proc/self/cgroup").read_text().splitlines()
    return (base / "cgroup.type").exists() and not {"0::/", f"0::/{LEAF}"}.isdisjoint(own)


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "it has ended"


def own_group() -> Path:
    """Return the directory of this process's group. Raises Unavailable."""
    mounted = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            mounted = Path(fields.split()[4])
    if mounted is None:
        raise Unavailable("cgroup v2 is not mounted")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            own = mounted / line[3:].lstrip("/")
            return own.parent if own.name == LEAF else own  # an earlier role of ours has divided it already
    raise Unavailable("this process is in no group of cgroup v2")


def _started(pid: int) -> str:
    """Return when a process began, in ticks since boot; "" for one that is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_ours(pid: int) -> bool:
    """Whether a process is in our tree: below the supervisor if we have one."""
    while pid > 1:
        if pid in {os.getpid(), _supervisor()}:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            return True
    return False


def _supervisor() -> int:
    try:
        command = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return 0
    return os.getppid() if b"eventproc" in command else 0
