"""Who a handler's process is: an unused user where we are root, an own user namespace where we are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterable

from . import kernel

FIRST_UID = 0x6E000000  # far above what distributions and containers hand out
UIDS = 60_000
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


def become_nobody(uid: int, needed: Iterable[str]) -> bool:
    """
    Drop from root to a user that owns nothing.

    Keeps the right to read past permissions where that user could not reach `needed` (an interpreter below /root);
    only together with Landlock, which then alone decides what is read. Returns whether it was kept.
    """
    kernel.drop_bounding_set()  # the change of user takes the right to do so later
    kernel.prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kernel.prctl(PR_SET_KEEPCAPS, 0)
    kept = not all(_reachable(path) for path in needed)
    kernel.keep_capabilities(1 << kernel.CAP_DAC_READ_SEARCH if kept else 0)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    return kept


def _reachable(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116  strings all along
    except PermissionError:
        return False
    except OSError:
        return True
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)
