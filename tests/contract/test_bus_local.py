"""The local bus: between real processes, with dead sockets, long paths and vanished directories."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from eventproc.bus.local import LocalBus

LISTEN = """
import sys
from eventproc.bus.local import LocalBus
listener = LocalBus(sys.argv[1]).listen("runs")
print("listening", flush=True)
while True:
    woken = listener.wait(60)
    if woken:
        print("woken", *woken, flush=True)
"""
WAKE = """
import sys
from eventproc.bus.local import LocalBus
LocalBus(sys.argv[1]).wake("runs")
"""


@pytest.fixture
def other_process(tmp_path):
    started = []

    def start(code, directory=tmp_path / "bus"):
        process = subprocess.Popen([sys.executable, "-c", code, str(directory)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def sockets(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_another_process_is_woken(tmp_path, other_process):
    process = other_process(LISTEN)
    assert process.stdout.readline() == "listening\n"
    bus = LocalBus(tmp_path / "bus")
    bus.wake("runs")
    assert process.stdout.readline() == "woken runs\n"
    bus.close()


def test_another_process_wakes_us(tmp_path, other_process):
    bus = LocalBus(tmp_path / "bus")
    listener = bus.listen("runs")
    other_process(WAKE)
    assert listener.wait(60) == {"runs"}
    bus.close()


def test_a_killed_listeners_socket_is_swept_by_the_next_wake_up(tmp_path, other_process):
    process = other_process(LISTEN)
    process.stdout.readline()
    bus = LocalBus(tmp_path / "bus")
    alive = bus.listen("runs")
    process.send_signal(signal.SIGKILL)
    process.wait()
    bus.wake("runs")
    assert alive.wait(60) == {"runs"}
    assert sockets(tmp_path / "bus") == [alive.name]
    bus.close()
    assert sockets(tmp_path / "bus") == []


def test_listening_sweeps_dead_sockets_and_leaves_live_ones(tmp_path, other_process):
    dead, alive = other_process(LISTEN), other_process(LISTEN)
    dead.stdout.readline()
    alive.stdout.readline()
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    bus = LocalBus(tmp_path / "bus")
    bus.listen("notices")
    assert len(sockets(tmp_path / "bus")) == 2
    bus.wake("runs")
    assert alive.stdout.readline() == "woken runs\n"
    bus.close()


def test_a_directory_whose_path_is_too_long_for_a_socket_works(tmp_path, other_process):
    directory = tmp_path / ("d" * 120) / ("e" * 120)
    process = other_process(LISTEN, directory)
    process.stdout.readline()
    bus = LocalBus(directory)
    listener = bus.listen("runs")
    bus.wake("runs")
    assert listener.wait(60) == {"runs"}
    assert process.stdout.readline() == "woken runs\n"
    bus.close()


def test_only_the_owner_can_reach_the_sockets(tmp_path):
    bus = LocalBus(tmp_path / "bus")
    listener = bus.listen("runs")
    assert stat.S_IMODE((tmp_path / "bus").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "bus" / listener.name).stat().st_mode) == 0o600
    bus.close()


def test_a_vanished_directory_does_not_break_the_one_who_wakes(tmp_path):
    bus = LocalBus(tmp_path / "bus")
    (tmp_path / "bus").rmdir()
    bus.wake("runs")
    bus.close()


def test_strange_files_in_the_directory_do_no_harm(tmp_path):
    bus = LocalBus(tmp_path / "bus")
    (tmp_path / "bus" / "runs.1.x.wake").write_text("no socket")
    (tmp_path / "bus" / "readme").write_text("hello")
    listener = bus.listen("runs")
    bus.wake("runs")
    assert listener.wait(60) == {"runs"}
    bus.close()


def test_closing_gives_back_all_descriptors(tmp_path):
    before = descriptors()
    for _ in range(20):
        bus = LocalBus(tmp_path / "bus")
        bus.listen("runs")
        bus.wake("runs")
        bus.close()
    wait_until(lambda: descriptors() <= before, what="descriptors to be given back")
