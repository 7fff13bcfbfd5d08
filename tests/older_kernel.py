"""Have this process and all that it starts meet a kernel without the system calls of newer ones."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import errno
import platform

from eventproc.child.layers import kernel, seccomp
from eventproc.child.layers.tables import TABLES

NEWEST_CALL = {  # kernel → number of the newest call that it has
    "5.10": {"x86_64": 440, "aarch64": 440},  # no mount_setattr (5.12), no Landlock (5.13)
    "5.4": {"x86_64": 435, "aarch64": 435},  # no close_range (5.9), openat2 and pidfd_getfd (5.6)
    "4.18": {"x86_64": 334, "aarch64": 293},  # no clone3, no pidfds; no user notification by a filter (5.0)
}
# This kernel, but whoever asks for a namespace, or mounts in it, is killed, as by systemd's SystemCallFilter=.
FILTERED = {
    "no unshare": {"x86_64": 272, "aarch64": 97},
    "no mount": {"x86_64": 165, "aarch64": 40},
}
NEW_LISTENER, ADD_FD = seccomp.NEW_LISTENER, 0x40182103


def pretend(release: str) -> None:
    """Behave as that kernel from now on; it stays what it is for what `uname` says and for the kernel's files."""
    machine = platform.machine()
    table = TABLES[machine]
    code = [seccomp._op(seccomp.LOAD, seccomp.NUMBER)]
    if release in FILTERED:
        code.append(seccomp._op(seccomp.JEQ, FILTERED[release][machine], 0, 1))
        code.append(seccomp._op(seccomp.RET, seccomp.KILL_PROCESS))
    else:
        code += [seccomp._op(seccomp.JGT, NEWEST_CALL[release][machine], 0, 1), seccomp._deny(errno.ENOSYS)]
    if release in {"5.4", "4.18"}:  # a notified worker can not put descriptors into a handler's place before 5.9
        code += _unless_argument(table.ioctl, seccomp._op(seccomp.JEQ, ADD_FD, 0, 1))
    if release == "4.18":
        number = kernel._CALLS[machine]["seccomp"]
        code += _unless_argument(number, seccomp._op(seccomp.JSET, NEW_LISTENER, 0, 1))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(b"".join([*code, seccomp._PERMIT]))


def _unless_argument(number: int, test: bytes) -> list[bytes]:
    """Answer EINVAL where the second argument of a call passes a test."""
    body = [seccomp._argument(1), test, seccomp._deny(errno.EINVAL), seccomp._op(seccomp.LOAD, seccomp.NUMBER)]
    return [seccomp._op(seccomp.JEQ, number, 0, len(body)), *body]
