"""Who a handler's process is: an unused user where we are root, an own user namespace where we are not."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import Callable, Iterable, Optional

from . import kernel

FIRST_UID = 0x6E000000  # far above what distributions and containers hand out
UIDS = 60_000
NOBODY = 65_534
INSIDE = 1000  # the user's id as seen from inside a user namespace
PR_SET_KEEPCAPS = 8


def own_user_namespace(inside: int) -> None:
    """Move into a new user namespace, mapped to the present user. Needs a single thread."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else /proc/self belongs to root
    kernel.unshare(kernel.CLONE_NEWUSER)
    write_maps(inside, uid, gid)


def write_maps(inside: int, uid: int, gid: int) -> None:
    """Map one user and group into the user namespace that this process just entered."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inside} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{inside} {gid} 1")


def become_nobody(uid: int, *, reads_past_permissions: bool) -> None:
    """
    Drop from root to a user that owns nothing.

    The right to read past permissions is kept where that user could not reach the interpreter, its packages or its own
    directory (below /root); only together with Landlock, which then alone decides what is read.
    """
    kernel.prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kernel.prctl(PR_SET_KEEPCAPS, 0)
    kernel.keep_capabilities(1 << kernel.CAP_DAC_READ_SEARCH if reads_past_permissions else 0)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def usable_uid() -> Optional[int]:
    """Return a user id that can be taken, if any: container hosts hand out short ranges, or one user only."""
    for uid in (FIRST_UID, NOBODY):
        if _works(functools.partial(os.setresuid, uid, uid, uid)):
            return uid
    return None


def reaches(uid: int, readable: Iterable[str], passable: Iterable[str] = ()) -> bool:
    """Say whether that user can read the ones, as far as they are there, and get into the others, directories."""
    wanted = [(path, os.R_OK) for path in readable if os.path.exists(path)]  # noqa: PTH110  asked as who we are
    wanted += [(path, os.X_OK) for path in passable]

    def try_to() -> None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        for path, how in wanted:
            if not os.access(path, how):
                raise PermissionError(path)

    return _works(try_to)


def _works(action: Callable[[], None]) -> bool:
    """Try something in a process of its own."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            action()
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0
