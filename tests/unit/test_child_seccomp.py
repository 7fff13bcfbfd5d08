"""The filter decides as it should on every machine we have a table for, also on those that no test runs on."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.child.layers import seccomp
from eventproc.child.layers.tables import LAST_KNOWN, TABLES

MACHINES = sorted(TABLES)
NAMES = {
    "x86_64": {"read": 0, "write": 1, "mmap": 9, "openat": 257, "exit_group": 231, "futex": 202, "getpid": 39},
    "aarch64": {"read": 63, "write": 64, "mmap": 222, "openat": 56, "exit_group": 94, "futex": 98, "getpid": 172},
}
DENIED = {
    "x86_64": {"ptrace": 101, "mount": 165, "unshare": 272, "bpf": 321, "connect": 42, "memfd_create": 319},
    "aarch64": {"ptrace": 117, "mount": 40, "unshare": 97, "bpf": 280, "connect": 203, "memfd_create": 279},
}
THREAD = 0x10000 | 0x100
PID = 2


def decide(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """Run a filter as the kernel does."""
    values = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number, arch, 0, *(value & (1 << 64) - 1 for value in values))
    code = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    for _ in range(len(code)):
        operation, jump_true, jump_false, k = code[at]
        at += 1
        if operation == seccomp.LOAD:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif operation == seccomp.AND:
            accumulator &= k
        elif operation == seccomp.RET:
            return int(k)
        else:
            taken = {
                seccomp.JEQ: accumulator == k,
                seccomp.JGE: accumulator >= k,
                seccomp.JGT: accumulator > k,
                seccomp.JSET: bool(accumulator & k),
            }[operation]
            at += jump_true if taken else jump_false
    raise AssertionError("the filter runs off its end")


@pytest.fixture(params=MACHINES)
def table(request):
    return request.param, TABLES[request.param], seccomp.build(PID, machine=request.param)


def answer(error: int) -> int:
    return seccomp.ERRNO | error


def test_ordinary_calls_pass_and_dangerous_ones_do_not(table):
    machine, known, program = table
    for number in NAMES[machine].values():
        assert decide(program, known.audit_arch, number) == seccomp.ALLOW
    for number in DENIED[machine].values():
        assert decide(program, known.audit_arch, number) == answer(errno.EPERM)


def test_another_architecture_is_killed(table):
    _, known, program = table
    assert decide(program, 0x40000003, 20) == seccomp.KILL_PROCESS
    if known.x32:
        assert decide(program, known.audit_arch, 0x40000000 | 39) == seccomp.KILL_PROCESS


def test_calls_newer_than_the_list_do_not_exist(table):
    _, known, program = table
    assert decide(program, known.audit_arch, LAST_KNOWN + 1) == answer(errno.ENOSYS)
    assert decide(program, known.audit_arch, known.clone3) == answer(errno.ENOSYS)


def test_threads_start_but_processes_and_programs_do_not(table):
    _, known, program = table
    assert decide(program, known.audit_arch, known.clone, THREAD) == seccomp.ALLOW
    assert decide(program, known.audit_arch, known.clone, 17) == answer(errno.EPERM)
    assert decide(program, known.audit_arch, known.clone, THREAD | 0x10000000) == answer(errno.EPERM)
    for number in known.starting:
        assert decide(program, known.audit_arch, number) == answer(errno.EPERM)


def test_a_cell_forks_but_starts_no_programs_and_its_forks_do_neither(table):
    machine, known, _ = table
    cell = seccomp.build(0, machine=machine, powers=seccomp.Powers(forks=True))
    assert decide(cell, known.audit_arch, known.clone, 17) == seccomp.ALLOW
    assert decide(cell, known.audit_arch, known.clone, 17 | 0x20000000) == answer(errno.EPERM)
    for number in known.executing:
        assert decide(cell, known.audit_arch, number) == answer(errno.EPERM)


@given(st.integers(1, (1 << 22) - 1), st.integers(1, (1 << 22) - 1))
def test_a_filter_made_ahead_becomes_that_of_any_fork(first, second):
    ahead = seccomp.ForFork()
    for pid in (first, second):
        ahead.write(pid)
        assert ahead.program == seccomp.build_for_fork(pid)


def test_only_pairs_of_stream_sockets_can_be_made(table):
    _, known, program = table
    assert decide(program, known.audit_arch, known.socket, 1, 1) == answer(errno.EAFNOSUPPORT)
    assert decide(program, known.audit_arch, known.socketpair, 1, 1 | 0o2000000) == seccomp.ALLOW
    assert decide(program, known.audit_arch, known.socketpair, 1, 2) == answer(errno.EPERM)
    assert decide(program, known.audit_arch, known.socketpair, 2, 1) == answer(errno.EPERM)
    assert decide(program, known.audit_arch, known.sendto, 3, 0, 0, 0, 0) == seccomp.ALLOW
    assert decide(program, known.audit_arch, known.sendto, 3, 0, 0, 0, 1) == answer(errno.EPERM)
    assert decide(program, known.audit_arch, known.sendto, 3, 0, 0, 0, 1 << 40) == answer(errno.EPERM)


def test_signals_go_to_oneself_only(table):
    _, known, program = table
    for number in known.kill:
        assert decide(program, known.audit_arch, number, PID, 9) == seccomp.ALLOW
        for other in (0, 1, 3, -1, -PID):
            assert decide(program, known.audit_arch, number, other, 9) == answer(errno.EPERM)


def test_nodes_are_files_or_pipes(table):
    _, known, program = table
    for number, position in known.mknod:
        for kind, expected in ((0o010644, seccomp.ALLOW), (0o100644, seccomp.ALLOW), (0o060644, answer(errno.EPERM))):
            arguments = [0] * 4
            arguments[position] = kind
            assert decide(program, known.audit_arch, number, *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
@given(number=st.integers(0, LAST_KNOWN), arguments=st.lists(st.integers(0, (1 << 64) - 1), max_size=6))
def test_every_call_gets_one_of_our_answers(machine, number, arguments):
    program = seccomp.build(PID, machine=machine)
    found = decide(program, TABLES[machine].audit_arch, number, *arguments)
    assert found in {seccomp.ALLOW, *(answer(error) for error in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT))}


def built(machine, **powers):
    return TABLES[machine], seccomp.build(PID, machine=machine, powers=seccomp.Powers(**powers))


@pytest.mark.parametrize("machine", MACHINES)
def test_programs_fork_and_start_others_but_get_no_namespaces(machine):
    known, program = built(machine, programs=True, local_sockets=True)
    assert decide(program, known.audit_arch, known.clone, 17) == seccomp.ALLOW
    assert decide(program, known.audit_arch, known.clone, 17 | 0x20000000) == answer(errno.EPERM)
    for number in (*known.starting, *known.kill, known.connect, *known.serving):
        assert decide(program, known.audit_arch, number, PID + 1) == seccomp.ALLOW
    for number in DENIED[machine].values():
        assert number == known.connect or decide(program, known.audit_arch, number) == answer(errno.EPERM)
    assert decide(program, known.audit_arch, known.socket, 1, 1) == seccomp.ALLOW
    for family, kind in ((1, 2), (2, 1), (10, 1), (16, 3)):
        assert decide(program, known.audit_arch, known.socket, family, kind) == answer(errno.EAFNOSUPPORT)


@pytest.mark.parametrize("machine", MACHINES)
def test_with_listed_places_each_connection_is_asked_for(machine):
    known, program = built(machine, network="listed")
    assert decide(program, known.audit_arch, known.connect, 5) == seccomp.ASK
    for family in (2, 10):
        for protocol in (0, 6):
            assert decide(program, known.audit_arch, known.socket, family, 1 | 0o2004000, protocol) == seccomp.ALLOW
    for family, kind, protocol in ((2, 2, 0), (2, 1, 262), (2, 1, 132), (2, 3, 1), (1, 1, 0), (16, 3, 0), (40, 1, 0)):
        assert decide(program, known.audit_arch, known.socket, family, kind, protocol) == answer(errno.EAFNOSUPPORT)
    for number in (*known.serving, *known.starting):
        assert decide(program, known.audit_arch, number) == answer(errno.EPERM)
    for number, position in known.sending:
        arguments = [0] * 6
        assert decide(program, known.audit_arch, number, *arguments) == seccomp.ALLOW
        arguments[position] = 0x20000000 | 0x4000
        assert decide(program, known.audit_arch, number, *arguments) == answer(errno.EPERM)
    assert decide(program, known.audit_arch, known.sendto, 3, 0, 0, 0, 1) == answer(errno.EPERM)
    for option, expected in ((1, seccomp.ALLOW), (23, answer(errno.EPERM)), (30, answer(errno.EPERM))):
        assert decide(program, known.audit_arch, known.setsockopt, 3, 6, option) == expected
        assert decide(program, known.audit_arch, known.setsockopt, 3, 1, option) == seccomp.ALLOW
    for request, expected in ((0x5421, seccomp.ALLOW), (0x8912, answer(errno.EPERM)), (0x8A00, seccomp.ALLOW)):
        assert decide(program, known.audit_arch, known.ioctl, 3, request) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_the_full_network_is_tcp_and_udp(machine):
    known, program = built(machine, network="full")
    for number in (known.connect, *known.serving):
        assert decide(program, known.audit_arch, number) == seccomp.ALLOW
    for kind, protocol in ((1, 0), (1, 6), (2, 0), (2, 17)):
        assert decide(program, known.audit_arch, known.socket, 2, kind, protocol) == seccomp.ALLOW
    for family, kind, protocol in ((2, 3, 1), (2, 1, 262), (1, 1, 0), (16, 3, 0), (17, 3, 0)):
        assert decide(program, known.audit_arch, known.socket, family, kind, protocol) == answer(errno.EAFNOSUPPORT)


SETTING = {  # chmod and the like; chown, setxattr
    "x86_64": {"chmod": 90, "fchmod": 91, "fchmodat": 268, "chown": 92, "setxattr": 188},
    "aarch64": {"fchmod": 52, "fchmodat": 53, "fchownat": 54, "setxattr": 5},
}
TIMING = {  # the calls that set times by path and times, and those by directory, path and times
    "x86_64": {(132, 235): (), (261, 280): (3,)},
    "aarch64": {(88,): (3,)},
}
INOTIFY_INIT = {"x86_64": (253, 294), "aarch64": (26,)}
INOTIFY_ADD_WATCH = {"x86_64": 254, "aarch64": 27}


@pytest.mark.parametrize("machine", MACHINES)
def test_where_the_hosts_directories_are_shared_they_can_not_be_watched(machine):
    known = TABLES[machine]
    for gaps, expected in ((seccomp.Gaps(shared_files=True), answer(errno.EPERM)), (seccomp.Gaps(), seccomp.ALLOW)):
        program = seccomp.build(PID, machine=machine, gaps=gaps)
        assert decide(program, known.audit_arch, INOTIFY_ADD_WATCH[machine]) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_inotify_instances_that_the_worker_needs_itself_are_not_to_be_had(machine):
    known = TABLES[machine]
    for gaps, expected in ((seccomp.Gaps(shared_account=True), answer(errno.EMFILE)), (seccomp.Gaps(), seccomp.ALLOW)):
        program = seccomp.build(PID, machine=machine, gaps=gaps)
        for number in INOTIFY_INIT[machine]:
            assert decide(program, known.audit_arch, number) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_where_the_hosts_user_is_shared_modes_are_left_as_they_are(machine):
    known, program = TABLES[machine], seccomp.build(PID, machine=machine, gaps=seccomp.Gaps(shared_user=True))
    for name, number in SETTING[machine].items():
        pretended = name.startswith(("chmod", "fchmod"))
        assert decide(program, known.audit_arch, number) == answer(0 if pretended else errno.EPERM)
        assert decide(seccomp.build(PID, machine=machine), known.audit_arch, number) == seccomp.ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_where_the_hosts_user_is_shared_times_are_left_as_they_are_and_no_path_is_said_to_be_touched(machine):
    known, program = TABLES[machine], seccomp.build(PID, machine=machine, gaps=seccomp.Gaps(shared_user=True))
    low, high = 0x5000, 0x5000 << 32
    for numbers, before in TIMING[machine].items():
        for number in numbers:
            for path in (low, high):
                for times in (low, high):
                    assert decide(program, known.audit_arch, number, *before, path, times) == answer(0)
                assert decide(program, known.audit_arch, number, *before, path, 0) == answer(errno.EPERM)
            assert decide(program, known.audit_arch, number, *before, 0, 0) == answer(0)  # an open file
            assert decide(seccomp.build(PID, machine=machine), known.audit_arch, number) == seccomp.ALLOW


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("network", ["", "listed"])
def test_where_the_hosts_user_is_shared_no_subvolumes_are_made_in_directories_that_can_be_read(machine, network):
    known, powers = TABLES[machine], seccomp.Powers(network=network)
    shared = seccomp.build(PID, machine=machine, powers=powers, gaps=seccomp.Gaps(shared_user=True))
    alone = seccomp.build(PID, machine=machine, powers=powers)
    # BTRFS_IOC_SUBVOL_CREATE, SNAP_CREATE_V2, SNAP_DESTROY; FICLONE; BCH_IOCTL_SUBVOLUME_CREATE
    for request in (0x5000940E, 0x50009417, 0x5000940F, 0x40049409, 0x4020BC10):
        assert decide(shared, known.audit_arch, known.ioctl, 3, request) == answer(errno.EOPNOTSUPP)
        assert decide(alone, known.audit_arch, known.ioctl, 3, request) == seccomp.ALLOW
    for request in (0x5401, 0x5421, 0x541B):  # TCGETS, FIONBIO, FIONREAD
        assert decide(shared, known.audit_arch, known.ioctl, 3, request) == seccomp.ALLOW
    assert decide(shared, known.audit_arch, known.ioctl, 3, 0x5412) == answer(errno.EPERM)


@pytest.mark.parametrize("machine", MACHINES)
def test_where_landlock_does_not_see_truncation_only_who_may_write_truncates(machine):
    known, program = TABLES[machine], seccomp.build(PID, machine=machine, gaps=seccomp.Gaps(truncation=True))
    assert decide(program, known.audit_arch, known.truncate) == answer(errno.EPERM)
    assert decide(program, known.audit_arch, known.openat2) == answer(errno.ENOSYS)
    for number, position in known.opening:
        for flags, permitted in ((0, True), (0o1001, True), (0o1102, True), (0o1000, False), (0o1003, False)):
            arguments = [0] * 4
            arguments[position] = flags | 0o2000000
            expected = seccomp.ALLOW if permitted else answer(errno.EPERM)
            assert decide(program, known.audit_arch, number, *arguments) == expected


def test_flags_of_files_are_not_changed_through_those_that_can_only_be_read(table):
    _, known, program = table
    for request in (0x40086602, 0x401C5820, 0x40806685):
        assert decide(program, known.audit_arch, known.ioctl, 3, request) == answer(errno.EPERM)
