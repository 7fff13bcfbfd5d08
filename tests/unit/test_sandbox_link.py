"""The worker's wire to a child that is being started, with the test at the monitor's end."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from waiting import wait_until

from eventproc.sandbox.link import MonitorHandle, ProcessLink

USED = {"used": {"cpu_us": 60_000, "memory_bytes": 1 << 20}}
STANDS = {"pid": 2, "layers": ["rlimits"]}


@dataclass
class Wire:
    """A link, and the socket that its monitor would have."""

    link: ProcessLink
    theirs: socket.socket

    def say(self, message: dict[str, object]) -> None:
        self.theirs.send(json.dumps(message).encode())

    def is_read(self) -> bool:
        unread = bytearray(struct.calcsize("i"))
        fcntl.ioctl(self.theirs, termios.TIOCOUTQ, unread)
        return not any(unread)


@pytest.fixture
def wire() -> Iterator[Wire]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel, their_channel = socket.socketpair()
    out, their_out = os.pipe()
    err, their_err = os.pipe()
    handle = MonitorHandle(ours)
    link = ProcessLink(channel, handle, {"stdout": out, "stderr": err}, lambda monitor, ended: None, many=True)
    with ours, theirs, their_channel:
        yield Wire(link, theirs)
        link.close()
        os.close(their_out)
        os.close(their_err)


def test_a_child_that_is_slow_to_start_is_waited_for_though_its_tree_is_measured_already(wire: Wire) -> None:
    wire.say(USED)
    started: list[bool] = []
    waiting = threading.Thread(target=lambda: started.append(wire.link.await_start(30.0)))
    waiting.start()
    wait_until(wire.is_read, what="the measurement to be read")
    wire.say(STANDS)
    waiting.join()
    assert started == [True]
    assert wire.link.layers == ("rlimits",)
    assert wire.link.cpu_us() >= 60_000


def test_a_monitor_that_only_measures_is_given_up_after_the_time(wire: Wire) -> None:
    wire.say(USED)
    assert not wire.link.await_start(0.05)
    assert wire.link.start_error() == "no process within 0.05 s"


def test_the_reason_for_a_child_that_can_not_be_started_is_kept(wire: Wire) -> None:
    wire.say(USED)
    wire.say({"error": "OSError: no room"})
    assert not wire.link.await_start(30.0)
    assert wire.link.start_error() == "OSError: no room"
