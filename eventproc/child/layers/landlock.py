"""Landlock: which files this process may touch, checked by the kernel wherever they are reached from."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from typing import Iterable, Tuple

from . import kernel

VERSION = 1  # flag: ask for the ABI
PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
NET_BIND_TCP, NET_CONNECT_TCP = 1, 2
SCOPE_ABSTRACT_UNIX, SCOPE_SIGNAL = 1, 2
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ = READ_FILE | READ_DIR
O_PATH = getattr(os, "O_PATH", 0o10000000)

SEES_TRUNCATION = 3  # the first version that does


class _Attributes(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


_BENEATH = struct.Struct("=Qi")  # struct landlock_path_beneath_attr: rights and a descriptor, with no padding


def abi() -> int:
    """Return the kernel's Landlock version, 0 where there is none."""
    try:
        return kernel.syscall("landlock_create_ruleset", ctypes.c_void_p(None), 0, VERSION)
    except (OSError, KeyError):
        return 0


def _handled(version: int) -> Tuple[int, int, int, int]:
    """Return the rights that this version knows (files, network, scopes) and the size of their struct."""
    fs = (1 << 13) - 1
    for since, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)):
        fs |= right if version >= since else 0
    net = NET_BIND_TCP | NET_CONNECT_TCP if version >= 4 else 0
    scoped = SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL if version >= 6 else 0
    return fs, net, scoped, 24 if version >= 6 else 16 if version >= 4 else 8


def prepare(
    readable: Iterable[str],
    writable: Iterable[str],
    devices: Iterable[str],
    version: int,
    *,
    programs: bool = False,
    network: bool = False,
) -> int:
    """
    Return a rule set that allows these paths and what is below them, and nothing else.

    With `programs` what is readable can be started too, and sockets can be named; with `network` it has no say on TCP.
    """
    fs, net, scoped, size = _handled(version)
    attributes = _Attributes(fs, 0 if network else net, scoped)
    ruleset = kernel.syscall("landlock_create_ruleset", ctypes.byref(attributes), size, 0)
    everything = fs & ~(EXECUTE | MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV | (0 if programs else MAKE_SOCK))
    reading = READ | EXECUTE if programs else READ
    for paths, rights in ((readable, reading), (writable, everything), (devices, READ_FILE | WRITE_FILE)):
        for path in paths:
            _allow(ruleset, path, rights & fs)
    return ruleset


def enforce(ruleset: int) -> None:
    """Hold this process to the rules for good; needs no_new_privs."""
    kernel.syscall("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, O_PATH | os.O_CLOEXEC)
    except OSError:  # what is not there needs no permission
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= OF_FILES
        kernel.syscall("landlock_add_rule", ruleset, PATH_BENEATH, _BENEATH.pack(rights, fd), 0)
    finally:
        os.close(fd)
