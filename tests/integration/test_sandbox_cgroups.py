"""Control groups around a tree of processes, in the kernel's own cgroup v2, with the controllers that it has here."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from eventproc.model import Limits
from eventproc.sandbox.cgroups import CONTROLLERS, Groups, Unavailable, look_at, own_group

FAMILY = "import os, time\nfor _ in range(2): os.fork()\ntime.sleep(600)"


@pytest.fixture
def base():
    """A group of our own below the one we are in, with the controllers that are to be had."""
    try:
        above = own_group()
        made = above / f"eventproc-test-{os.getpid()}"
        made.mkdir()
    except (Unavailable, OSError) as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield made
    for path in sorted(made.glob("**/"), reverse=True):
        path.rmdir()


def started() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input(); " + f"exec({FAMILY!r})"], stdin=subprocess.PIPE)


def groups_in(base: Path) -> list[Path]:
    return list(base.glob("eventproc-run-*"))


def test_a_group_ends_the_whole_tree_and_leaves_nothing(base):
    groups = Groups(base, controllers=())
    with started() as process:
        assert process.stdin is not None
        group = groups.put(process.pid, Limits())
        process.stdin.write(b"go\n")
        process.stdin.flush()
        (made,) = groups_in(base)
        wait_until(lambda: len((made / "cgroup.procs").read_text().split()) == 4, what="the family in the group")
        pids = (made / "cgroup.procs").read_text().split()
        group.remove()
        assert process.wait(10) == -9
    assert groups_in(base) == []
    wait_until(lambda: not any(_alive(pid) for pid in pids), what="the end of the family")


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_removing_twice_is_no_fault(base):
    with started() as process:
        group = Groups(base, controllers=()).put(process.pid, Limits())
        group.remove()
        group.remove()
        assert not group.overrun()
        assert process.wait(10) == -9


KILLED = """
import os, signal, sys
from pathlib import Path
from eventproc.model import Limits
from eventproc.sandbox.cgroups import Groups
child = os.fork()
if child == 0:
    signal.pause()
Groups(Path(sys.argv[1]), controllers=()).put(child, Limits())
print(child, flush=True)
signal.pause()
"""


def test_the_next_worker_removes_what_a_killed_one_left(base):
    with subprocess.Popen([sys.executable, "-c", KILLED, str(base)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        child = worker.stdout.readline().decode().strip()
        Groups(base, controllers=())
        assert len(groups_in(base)) == 1  # its worker lives
        worker.kill()
        worker.wait()
        assert len(groups_in(base)) == 1
        Groups(base, controllers=())
    assert groups_in(base) == []
    wait_until(lambda: not _alive(child), what="the end of what it had started")


def test_controllers_that_are_not_there_are_named_with_what_to_do(base):
    with pytest.raises(Unavailable, match=r"no controller .*Delegate=yes"):
        look_at(base, ("flux",))
    with pytest.raises(Unavailable, match="can not be read"):
        look_at(base / "nowhere")


def test_memory_and_processes_are_bounded_by_the_kernel(base):
    try:
        look_at(own_group())
        (own_group() / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in CONTROLLERS))
    except (Unavailable, OSError) as error:
        pytest.skip(f"the controllers can not be had here: {error}")
    groups = Groups(base)
    limits = Limits(memory_bytes=64 << 20, scratch_bytes=1 << 20, processes=5)
    with subprocess.Popen(
        [sys.executable, "-c", "input(); len(bytearray(b'x') * (400 << 20))"], stdin=subprocess.PIPE
    ) as process:
        group = groups.put(process.pid, limits)
        process.communicate(b"go\n")
        assert process.returncode == -9
        assert group.overrun()
        assert (groups_in(base)[0] / "pids.max").read_text().strip() == "5"
        group.remove()
