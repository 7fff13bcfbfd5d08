"""The Linux calls that Python has no name for, by ctypes."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import signal
from typing import Any, Callable, Dict, Iterator, Tuple

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
M_ARENA_MAX = -8

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY = MS_RDONLY
MOUNT_ATTR_NOSUID = MS_NOSUID
MOUNT_ATTR_NODEV = MS_NODEV
MOUNT_ATTR_NOEXEC = MS_NOEXEC
MOUNT_OPTIONS = {  # as mountinfo names them; in a user namespace none that a mount came with may be taken off
    "ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC, "nosymfollow": 1 << 8,
    "noatime": 1 << 10, "nodiratime": 1 << 11, "relatime": 1 << 21,
}  # fmt: skip
MS_STRICTATIME = 1 << 24

CAP_DAC_READ_SEARCH = 2
CAP_LAST = 63
CAPABILITY_VERSION = 0x20080522

MACHINE = platform.machine()
_CALLS: Dict[str, Dict[str, int]] = {  # those that libc has no function for
    "x86_64": {"pivot_root": 155, "capset": 126, "seccomp": 317},
    "aarch64": {"pivot_root": 41, "capset": 91, "seccomp": 277},
}
_SAME_EVERYWHERE = {
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """Raise OSError when a libc call reported failure."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(name: str, *arguments: Any) -> int:
    """Call the kernel by number."""
    number = _SAME_EVERYWHERE.get(name) or _CALLS[MACHINE][name]
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return check(libc.syscall(ctypes.c_long(number), *wide), name)


def prepared(name: str, *arguments: Any) -> Callable[[], int]:
    """Return a system call with all that it takes, to be made later at little cost."""
    number = _SAME_EVERYWHERE.get(name) or _CALLS[MACHINE][name]
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    call = functools.partial(libc.syscall, ctypes.c_long(number), *wide)
    return lambda: check(call(), name)


def prctl(option: int, second: int = 0, third: int = 0) -> None:
    check(
        libc.prctl(option, ctypes.c_ulong(second), ctypes.c_ulong(third), ctypes.c_ulong(0), ctypes.c_ulong(0)),
        f"prctl({option})",
    )


def die_with_parent() -> None:
    """Have this process killed when the thread that forked it ends."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def few_arenas() -> None:
    """Keep glibc from reserving 64 MB of address space for each thread; other C libraries do not need it."""
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 2)


def unshare(flags: int) -> None:
    check(libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int) -> None:
    check(libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    check(
        libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode()),
        f"mount {kind or source} on {target}",
    )


def detach(target: str) -> None:
    check(libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    syscall("pivot_root", ctypes.c_char_p(os.fsencode(new)), ctypes.c_char_p(os.fsencode(old)))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def restrict_mount(target: str, attributes: int) -> None:
    """Set attributes (read-only, nosuid ...) on a mount and all below it."""
    attr = _MountAttr(attributes, 0, 0, 0)
    try:
        syscall(
            "mount_setattr",
            AT_FDCWD,
            ctypes.c_char_p(os.fsencode(target)),
            AT_RECURSIVE,
            ctypes.byref(attr),
            ctypes.sizeof(attr),
        )
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.EPERM}:  # EPERM from filters around containers that do not know it
            raise
        for point, present in list(_mounts_from(target)):  # before Linux 5.12 one by one
            mount("none", point, "", MS_REMOUNT | MS_BIND | present | attributes)


def _mounts_from(target: str) -> Iterator[Tuple[str, int]]:
    """Yield the mount points at and below a path, each with the flags it has."""
    top = os.path.realpath(target)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:  # noqa: PTH123
        for line in stream:
            fields = line.split()
            point = _unescaped(fields[4])
            if point == top or point.startswith(top.rstrip("/") + "/"):
                options = fields[5].split(",")
                flags = sum(MOUNT_OPTIONS.get(option, 0) for option in options)
                yield point, flags | (0 if {"noatime", "relatime"} & set(options) else MS_STRICTATIME)


def _unescaped(text: str) -> str:
    """Undo what mountinfo does to spaces, tabs, line ends and backslashes."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_bounding_set() -> None:
    """Make sure that no capability can be gained by starting a program, where there is the right to."""
    for number in range(CAP_LAST + 1):
        if libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) < 0:
            break  # past the kernel's last one, or no right to (no_new_privs then does the same)


def keep_capabilities(mask: int) -> None:
    """Give up all capabilities but those in `mask` (below 32), for good."""
    libc.prctl(PR_CAP_AMBIENT, ctypes.c_ulong(PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    header = _CapHeader(CAPABILITY_VERSION, 0)
    data = (_CapData * 2)()
    data[0].effective = data[0].permitted = mask
    syscall("capset", ctypes.byref(header), ctypes.byref(data))


def sethostname(name: str) -> None:
    check(libc.sethostname(name.encode(), len(name)), "sethostname")
