"""How attacks are collected and made to travel, and what several of them use."""

# Helpers stand here as users write them.
# ruff: noqa: PTH123

# mypy: ignore-errors

from __future__ import annotations

import types

from slowness import SLOWER

ATTACKS = {}  # name → (function, kinds of failure that also count as contained)

LIMITS = {
    "timeout_s": 4.0 * SLOWER,
    "cpu_s": 2.0 * SLOWER,
    "memory_bytes": 400 << 20,
    "file_bytes": 16 << 20,
    "open_files": 64,
    "processes": 40,
    "scratch_bytes": 32 << 20,
    "scratch_files": 2000,
}


def attack(*accept):
    """Collect an attack; `accept` are the kinds of failure that also count as contained."""

    def keep(function):
        ATTACKS[function.__name__] = (function, accept)
        return function

    return keep


def by_value(function):
    """Make a copy that travels whole, with the helpers of this module."""
    scope = {"__builtins__": __builtins__, "__name__": "__main__"}
    for helper in HELPERS:
        scope[helper.__name__] = types.FunctionType(helper.__code__, scope, helper.__name__)
        scope[helper.__name__].__module__ = "__main__"
    copy = types.FunctionType(function.__code__, scope, function.__name__)
    copy.__module__ = "__main__"
    copy.__qualname__ = f"<locals>.{function.__name__}"
    return copy


def try_read(paths):
    got = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                file.read(64)
            got.append(path)
        except OSError:
            continue
    return "ESCAPED read " + ", ".join(got) if got else "contained"


def try_write(paths):
    got = []
    for path in paths:
        try:
            with open(path, "ab") as file:
                file.write(b"")
            got.append(path)
        except OSError:
            continue
    return "ESCAPED opened for writing " + ", ".join(got) if got else "contained"


def syscall(number, *args):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return result, ctypes.get_errno()


def json_file():
    import json

    return json.__file__


def machine():
    import platform

    return platform.machine()


def run_machine_code(code):
    import ctypes
    import mmap

    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    return ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()


def wait_for_the_end(written):
    """Give those that look now and then the time to look."""
    import time

    time.sleep(3)
    return f"ESCAPED wrote {written >> 20} MB"


HELPERS = (wait_for_the_end, try_read, try_write, syscall, json_file, machine, run_machine_code)
