"""
Which layers stand around the handlers of a zygote, and where each is put up.

Level A is everything. Level B does without namespaces and a private root: Landlock, seccomp, identity and rlimits.
Level C lacks Landlock too, "none" has rlimits only; the worker refuses both unless its operator insists.
A level is found by putting it up: whatever fails raises, and the worker tries the next one.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

from . import identity, kernel, landlock, root, seccomp
from .tables import TABLES

NAMESPACES = kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
FIRST_PID = 2  # of a handler in its own pid namespace, below its monitor
VISIBLE_PROC = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/self", "/sys/devices/system/cpu")


class LevelError(Exception):
    """That level can not be put up here."""


class Level:
    """The layers of one zygote: `enter` once, then for each child `own_namespace`, `in_monitor`, `in_handler`."""

    def __init__(self, config: Dict[str, Any]) -> None:
        self.name: str = config["level"]
        self._mountpoint: str = config["mountpoint"]
        self._extra: List[str] = list(config.get("paths", ()))
        self.host_network: bool = config.get("network") == "full"  # for handlers that are trusted with it
        self.asks_no_one = ""  # why handlers can not be given listed places on the network
        self._is_root = os.geteuid() == 0
        self._own_users = False  # whether we live in a user namespace of our own
        self._landlock = landlock.abi()
        self._first_uid = identity.NOBODY
        self._reads_past_permissions = False
        self._pid_namespace = -1
        self._mounted = False  # in a monitor: whether it has its own mounts
        self._own_network = False  # in a monitor: whether it shares no network namespace with others
        self._names = root.Names()
        self._rulesets: Dict[bool, int] = {}  # prepared once where they are the same for all children
        self._interpreter: List[str] = []
        self._filters: Dict[Tuple[int, seccomp.Powers], bytes] = {}

    # ------------------------------------------------------------------ zygote

    def enter(self) -> None:
        """Put up what is common to all children; may move into another process. Raises OSError or LevelError."""
        if self.name == "none":
            return
        if kernel.MACHINE not in TABLES:
            known = ", ".join(sorted(TABLES))
            raise LevelError(
                f"system calls of {kernel.MACHINE} can not be filtered: their numbers are known for {known}"
            )
        if sys.maxsize < 1 << 32:
            raise LevelError("system calls of 32-bit programs can not be filtered")
        if self.name == "B" and not self._landlock:
            raise LevelError("this kernel has no Landlock")
        self._find_user()
        if self.name == "A":
            self._enter_namespaces()
            root.build(self._mountpoint, self._extra, host_network=self.host_network)
            self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._interpreter = [*root.interpreter_paths(), *self._extra]
        if self._is_root and self._has_landlock():
            directories = [os.path.dirname(self._mountpoint)] if self.name == "B" else []  # noqa: PTH120
            self._reads_past_permissions = not identity.reaches(self._first_uid, self._interpreter, directories)
        if self.name == "A" and self._has_landlock():
            for programs in (False, True):
                self._rulesets[programs] = self._prepare(["/"], root.OWN, programs=programs)
        self.asks_no_one = seccomp.reason_not_to_ask()
        self._filter(FIRST_PID, self._powers({}))
        kernel.drop_bounding_set()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # nothing of the same user may look into us

    def _find_user(self) -> None:
        """Find a user for handlers; root of a user namespace that has no other user than root is as good as none."""
        if self._is_root:
            uid = identity.usable_uid()
            self._is_root = uid is not None
            self._first_uid = identity.NOBODY if uid is None else uid

    def _enter_namespaces(self) -> None:
        uid, gid = os.geteuid(), os.getegid()
        if not (self._is_root and _unshared(self._namespaces())):
            kernel.unshare(kernel.CLONE_NEWUSER | self._namespaces())
            identity.write_maps(identity.INSIDE, uid, gid)
            self._own_users, self._is_root = True, False
        pid = os.fork()
        if pid:  # the first process of the new pid namespace goes on
            _wait_for(pid)
        kernel.die_with_parent()
        kernel.sethostname("eventproc")

    def _namespaces(self) -> int:
        return NAMESPACES & ~kernel.CLONE_NEWNET if self.host_network else NAMESPACES

    def own_namespace(self) -> None:
        """Have the next fork open a pid namespace."""
        if self.name == "A":
            kernel.unshare(kernel.CLONE_NEWPID)

    def home_again(self) -> None:
        """Have later forks stay in our own pid namespace."""
        if self.name == "A":
            kernel.setns(self._pid_namespace, kernel.CLONE_NEWPID)

    # ------------------------------------------------------------------ monitor

    def uid_of(self, number: int) -> int:
        """Return the user of the n-th child: each its own, so that they can not touch each other."""
        if not self._is_root or self.name == "none":
            return os.geteuid()
        return self._first_uid if self._first_uid == identity.NOBODY else self._first_uid + number % identity.UIDS

    def in_monitor(self, number: int, scratch: str, order: Dict[str, Any]) -> str:
        """Prepare one child's directory; return its path as the child sees it."""
        uid = self.uid_of(number)
        if self.name == "A":
            if not self._mounted:
                root.own_mounts()
                self._mounted = True
            limits = order["limits"]
            root.own_scratch(uid, limits["scratch_bytes"], limits["scratch_files"])
            self._names.show(order.get("hosts") or {})
            if self._powers(order).local_sockets and not self._own_network:
                kernel.unshare(kernel.CLONE_NEWNET)  # abstract names are known throughout a network namespace
                self._own_network = True
            return root.SCRATCH
        Path(scratch).mkdir(0o700)
        if uid != os.geteuid():
            os.chown(scratch, uid, uid)
        return scratch

    @property
    def private(self) -> bool:
        """Whether processes and files of a child vanish with its namespaces."""
        return self.name == "A"

    # ------------------------------------------------------------------ handler

    def in_handler(self, number: int, scratch: str, order: Dict[str, Any]) -> Tuple[List[str], int]:
        """
        Give up all rights but those that the order grants. Rlimits come before.

        Returns the layers that stand, and where its connections are asked for (-1 if it may make none).
        """
        if self.name == "none":
            return ["rlimits"], -1
        powers = self._powers(order)
        done = ["rlimits", "no_new_privs", "no capabilities", "seccomp"]
        if self.name == "A":
            done += ["pid namespace", "mount namespace", "ipc namespace", "private root", "capped scratch"]
            done += [] if self.host_network else ["network namespace"]
        if self._become_somebody(number):
            done.append("own user" if self._is_root else "user namespace")
        kernel.die_with_parent()  # a change of user clears it
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if self._has_landlock():
            landlock.enforce(self._rules(scratch, programs=powers.programs))
            done.append("landlock")
        # The first process of a cell is told apart from its forks by their own filters.
        program = self._filter(0 if powers.forks else os.getpid(), powers)
        return sorted(done), seccomp.install(program, listen=powers.network == "listed")

    def _powers(self, order: Dict[str, Any]) -> seccomp.Powers:
        programs = bool(order.get("programs"))
        network = "full" if self.host_network else "listed" if order.get("network") else ""
        return seccomp.Powers(
            forks=bool(order.get("cell")),
            programs=programs,
            local_sockets=programs and self.name == "A" and not network,
            network=network,
        )

    def _become_somebody(self, number: int) -> bool:
        if self._is_root:
            identity.become_nobody(self.uid_of(number), reads_past_permissions=self._reads_past_permissions)
            return True
        if self._own_users:
            identity.own_user_namespace(identity.INSIDE)
            kernel.drop_bounding_set()  # a new user namespace begins with all of them
        kernel.keep_capabilities(0)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        return self._own_users

    def _has_landlock(self) -> bool:
        return bool(self._landlock) and self.name != "C"

    def counts_processes(self) -> bool:
        """Whether RLIMIT_NPROC counts this child's processes alone."""
        return self.name != "none" and (self._own_users or (self._is_root and self._first_uid != identity.NOBODY))

    def _rules(self, scratch: str, *, programs: bool) -> int:
        if programs in self._rulesets:
            return self._rulesets[programs]
        readable = [*root.SYSTEM, *root.CONFIGURATION, *self._interpreter, *VISIBLE_PROC]
        readable += root.RESOLVING if self.host_network else []
        return self._prepare(readable, scratch, programs=programs)

    def _prepare(self, readable: List[str], writable: str, *, programs: bool) -> int:
        return landlock.prepare(
            readable, [writable], root.DEVICES, self._landlock, programs=programs, network=self.host_network
        )

    def _filter(self, pid: int, powers: seccomp.Powers) -> bytes:
        """Return the filter on system calls, which knows the process's id."""
        if (pid, powers) not in self._filters:
            self._filters[pid, powers] = seccomp.build(pid, machine=kernel.MACHINE, powers=powers, gaps=self._gaps())
        return self._filters[pid, powers]

    def _gaps(self) -> seccomp.Gaps:
        """Return what the filter must make up for: a user that is not the handler's own, no private root, read-only."""
        shared = not self._is_root or self._first_uid == identity.NOBODY
        if self.name == "A":
            return seccomp.Gaps(shared_account=shared)
        return seccomp.Gaps(
            shared_account=shared,
            shared_files=True,
            shared_user=shared,
            truncation=self._landlock < landlock.SEES_TRUNCATION,
        )

    def descriptors(self) -> List[int]:
        """Return the file descriptors that a child still needs for its layers."""
        return list(self._rulesets.values())


def _unshared(namespaces: int) -> bool:
    """Take namespaces as root; False in a container whose root may not."""
    try:
        kernel.unshare(namespaces)
    except PermissionError:
        return False
    return True


def _wait_for(pid: int) -> None:
    """Stay behind as the parent of the real zygote, and end with it, and as it did."""
    os.closerange(3, 1 << 16)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)
