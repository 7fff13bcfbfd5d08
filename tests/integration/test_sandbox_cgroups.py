"""Control groups around a tree of processes, in the kernel's own cgroup v2, with the controllers that it has here."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs
# mypy: no-warn-return-any, disable-error-code="name-defined"

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sandbox_world import Session, call, program, run_one
from waiting import wait_until

from eventproc.model import Limits
from eventproc.sandbox.cgroups import ROOM_BYTES, Groups, Unavailable, look_at, members, own_group
from eventproc.sandbox.forkserver import ForkServerSandbox

SMALL = Limits(timeout_s=300, memory_bytes=400 << 20, processes=30)
FORKS = """
import os, time
input()
made = 0
try:
    while os.fork():
        made += 1
except BlockingIOError:
    print(made, flush=True)
time.sleep(600)
"""
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
        assert process.wait(60) == -9
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
        assert process.wait(60) == -9


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


# ---------------------------------------------------------------------- with the controllers, around handlers


@pytest.fixture(scope="module")
def controlled():
    """The group that groups of handlers are made in, where the kernel's controllers are ours to use."""
    try:
        Groups.find()  # moves this process into a group below, as a worker does
        return own_group()
    except (Unavailable, OSError) as error:
        pytest.skip(f"no control group with controllers can be had here: {error}; docs/security.rst says how")


@pytest.fixture
def sandbox(controlled):
    made = ForkServerSandbox(levels=["A"])
    yield made
    made.close()
    wait_until(lambda: not groups_in(controlled), what="the end of all groups")


def make_family():
    def family(db):
        import os
        import time

        if os.fork() == 0:
            os.setsid()
            time.sleep(3600)
        ep.emit("ready", {})  # noqa: F821
        time.sleep(3600)

    return family


def start(sandbox, handler, on_ready, limits=SMALL):
    """Run a handler that emits when it is ready; what `on_ready` does there may be its end."""
    child = sandbox.spawn(replace(program(handler), allow_subprocess=True), limits)

    def ready(args, body):
        on_ready(child)
        return {"id": "x"}, ()

    try:
        outcomes = list(child.execute([(call(1), Session({"emit": ready}))]))
    finally:
        child.close()
    return outcomes


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


INSIDE = """
import sys
from pathlib import Path
from eventproc.sandbox.powers import groups_found
(Path(sys.argv[1]) / "cgroup.procs").write_text("0")
print(groups_found())
"""


def said_inside(group: Path) -> str:
    return subprocess.run([sys.executable, "-c", INSIDE, str(group)], capture_output=True, check=True).stdout.decode()


def test_a_group_that_others_live_in_is_said_to_be_of_no_use(controlled):
    made = controlled / f"eventproc-test-{os.getpid()}"
    made.mkdir()
    assert said_inside(made).startswith(f"control groups below {made} bound memory and processes")
    orphan = ["/bin/sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"]
    stranger = subprocess.run(orphan, capture_output=True, check=True).stdout.decode().strip()
    try:
        (made / "cgroup.procs").write_text(stranger)
        said = said_inside(made)
        assert said.startswith("no control groups for a worker that is started here")
        assert f"{made} can not be divided: process {stranger} (sleep) lives in it, which is not ours" in said
    finally:
        os.kill(int(stranger), signal.SIGKILL)
        wait_until(lambda: not members(made), what="the end of the stranger")
        made.rmdir()


CONTAINER = """
echo 0 >"$0/cgroup.procs"
exec unshare --cgroup --mount /bin/sh -c '
    umount /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && "$@"
    exit $?' init "$@"
"""


def test_the_init_of_a_container_does_not_keep_its_group_from_being_divided(controlled):
    made = controlled / f"eventproc-test-{os.getpid()}"
    made.mkdir()
    program = "from eventproc.sandbox.cgroups import Groups; Groups.find(); print(open('/proc/1/cgroup').read())"
    alone = ["unshare", "--pid", "--fork", "--mount", "--mount-proc"]
    command = [*alone, "/bin/sh", "-c", CONTAINER, str(made), sys.executable, "-c", program]
    try:
        told = subprocess.run(command, capture_output=True, check=False)
        assert told.stdout.decode().strip() == "0::/eventproc-main", told.stderr.decode()
        assert {"memory", "pids"} <= set((made / "cgroup.subtree_control").read_text().split())
    finally:
        for path in (made / "eventproc-main", made):
            if path.exists():
                wait_until(lambda path=path: not members(path), what="the end of the container")
                path.rmdir()


def test_memory_and_processes_are_bounded_by_the_kernel(controlled):
    groups = Groups(controlled)
    limits = Limits(memory_bytes=64 << 20, scratch_bytes=1 << 20, processes=5)
    with subprocess.Popen(
        [sys.executable, "-c", "input(); len(bytearray(b'x') * (400 << 20))"], stdin=subprocess.PIPE
    ) as process:
        group = groups.put(process.pid, limits)
        process.communicate(b"go\n")
        assert process.returncode == -9
        assert group.overrun()
        group.remove()
    with subprocess.Popen(
        [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        group = groups.put(process.pid, limits)
        process.stdin.write(b"go\n")
        assert process.stdout.readline() == b"4\n"  # and itself
        group.remove()
    assert groups_in(controlled) == []


def test_a_group_holds_all_that_a_handler_starts_and_has_its_limits(controlled, sandbox):
    seen = {}

    def look(child):
        (group,) = groups_in(controlled)
        seen["members"] = len(members(group))
        for name in ("memory.max", "pids.max", "memory.oom.group"):
            seen[name] = (group / name).read_text().strip()
        child.kill()

    (outcome,) = start(sandbox, make_family(), look)
    assert outcome.grouped
    assert seen["members"] == 2
    assert seen["pids.max"] == str(SMALL.processes)
    assert int(seen["memory.max"]) == SMALL.memory_bytes + SMALL.scratch_bytes + ROOM_BYTES
    assert seen["memory.oom.group"] == "1"
    assert groups_in(controlled) == []


def make_hoard():
    """Fill the kernel's buffers: no process holds what is in them, so adding up processes does not find it."""

    def hoard(db):
        import os
        import socket
        import time

        for _ in range(20):
            if os.fork() == 0:
                kept = []
                try:
                    while True:
                        kept.append(socket.socketpair())
                        for end in kept[-1]:
                            end.setblocking(False)
                            try:
                                while True:
                                    end.send(bytes(1 << 16))
                            except BlockingIOError:
                                pass
                except OSError:
                    time.sleep(3600)
        time.sleep(3600)

    return hoard


def test_memory_that_only_the_kernel_sees_is_bounded_and_the_failure_names_the_limit(sandbox):
    limits = replace(SMALL, memory_bytes=128 << 20, scratch_bytes=1 << 20, timeout_s=600)
    outcome, _ = run_one(sandbox, make_hoard(), limits=limits, allow_subprocess=True)
    assert outcome.failure is not None
    assert outcome.failure.kind == "limit", outcome.failure
    assert "memory limit of 128 MiB" in outcome.failure.message
    assert "memory=..." in outcome.failure.message
    assert run_one(sandbox, lambda db: 1, limits=limits, allow_subprocess=True)[0].result_json == "1"


@pytest.mark.parametrize("lost", ["handler", "monitor", "zygote"])
def test_the_group_goes_with_whatever_is_killed(controlled, sandbox, lost):
    seen: list[int] = []

    def kill(child):
        (group,) = groups_in(controlled)
        seen.extend(members(group))
        handler = next(pid for pid in seen if parent(pid) not in seen)
        monitor = parent(handler)
        os.kill({"handler": handler, "monitor": monitor, "zygote": parent(monitor)}[lost], signal.SIGKILL)

    (outcome,) = start(sandbox, make_family(), kill)
    assert outcome.failure is not None
    wait_until(lambda: not any(_alive(str(pid)) for pid in seen), what="the end of the handler's processes")
    wait_until(lambda: groups_in(controlled) == [], what="the end of the group")


WORKER = """
import sys
sys.path[:0] = {paths!r}
from dataclasses import replace
from sandbox_world import Session, call, program
from eventproc.model import Limits
from eventproc.sandbox.forkserver import ForkServerSandbox

def handler(db):
    import time
    ep.emit("ready", {{}})
    time.sleep(3600)

def ready(args, body):
    print("ready", flush=True)
    return {{"id": "x"}}, ()

sandbox = ForkServerSandbox(levels=["A"])
child = sandbox.spawn(replace(program(handler), allow_subprocess=True), Limits(timeout_s=600))
list(child.execute([(call(1), Session({{"emit": ready}}))]))
"""


def test_a_worker_that_is_killed_leaves_a_group_without_processes_and_the_next_removes_it(controlled):
    script = WORKER.format(paths=[str(Path(__file__).parents[1])])
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        (group,) = groups_in(controlled)
        assert members(group)
        worker.kill()
        worker.wait()
        wait_until(lambda: not members(group), what="the end of the handler")
    Groups.find()
    assert groups_in(controlled) == []
