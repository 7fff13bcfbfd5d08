"""
A fork server whose cells say when they did what: what `zygote.py` starts, with stamps around the steps of a call.

It is started by `sandbox_spawn.py --where` in the fork server's place. The stamps come out on the cell's stderr, one
JSON object for a call: nanoseconds on the machine's monotonic clock, and page faults so far of who made the stamp.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import functools
import json
import os
import resource
import sys
import time
import types
from pathlib import Path

PACKAGE = "_eventproc_child"
CHILD = Path(__file__).resolve().parents[1] / "eventproc" / "child"

stamps: dict[str, list[int]] = {}


def stamp(name):
    stamps[name] = [time.monotonic_ns(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt]


def around(owner, name, before=None, after=None):
    """Put stamps before and after a function."""
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def stamped(*args, **kwargs):
        if before:
            stamp(before)
        result = inner(*args, **kwargs)
        if after:
            stamp(after)
        return result

    setattr(owner, name, stamped)


def tell(who):
    os.write(2, (json.dumps({who: stamps}) + "\n").encode())
    stamps.clear()


def install(cell, channel):
    """Put stamps around the steps of a cell and of its forks."""
    around(cell.Cell, "_hand_over", before="heard", after="handed over")
    around(cell.Cell, "_fork", before="fork begins", after="next fork made")
    around(cell.scratch, "empty", before="fork ended", after="directory emptied")
    around(cell.Reseeding, "in_fork", before="forked", after="reseeded")
    around(cell.seccomp.ForFork, "install", after="confined")
    around(cell, "_read", before="waits", after="taken")
    read, send = channel.Channel.read_packed, channel.Channel.send

    def traced_read(self):
        if "directory emptied" in stamps:
            tell("cell")
        return read(self)

    def traced_send(self, header, bodies=()):
        if header.get("t") == "done":
            stamp("answered")
        send(self, header, bodies)
        if header.get("t") == "done":
            stamp("sent")
            tell("fork")  # which ends behind its answer

    channel.Channel.read_packed = traced_read
    channel.Channel.send = traced_send


def boot():
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(CHILD)]
    sys.modules[PACKAGE] = package
    sys.modules["__main__"] = types.ModuleType("__main__")
    __import__(f"{PACKAGE}.forking", fromlist=["keep"]).keep()
    server = __import__(f"{PACKAGE}.server", fromlist=["main"])
    install(sys.modules[f"{PACKAGE}.cell"], sys.modules[f"{PACKAGE}.channel"])
    server.main()


if __name__ == "__main__":
    boot()
