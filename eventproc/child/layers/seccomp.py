"""The filter on system calls: a deny list, checks of arguments, and ENOSYS for what is newer than this list."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from typing import List, NamedTuple, Set, Tuple

from . import kernel
from .tables import LAST_KNOWN, TABLES, X32_BIT, Table

SECCOMP_SET_MODE_FILTER = 1
NEW_LISTENER = 1 << 3  # flag: return a file descriptor on which calls can be answered
ADD_DESCRIPTOR = 0x40182103  # SECCOMP_IOCTL_NOTIF_ADDFD
PUT_IN_PLACE = 1  # SECCOMP_ADDFD_FLAG_SETFD
ALLOW = 0x7FFF0000
ASK = 0x7FC00000  # SECCOMP_RET_USER_NOTIF: whoever holds the listener answers in the kernel's place
KILL_PROCESS = 0x80000000
ERRNO = 0x00050000

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JEQ = 0x15
JGE = 0x35
JGT = 0x25
JSET = 0x45
RET = 0x06
NUMBER, ARCH, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

CLONE_THREAD = 0x00010000
CLONE_NEW = 0x7E020000  # all namespaces that fit into clone's flags
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
SOCK_STREAM, SOCK_DGRAM = 1, 2
SOCK_TYPE_MASK = 0xF
IPPROTO_TCP, IPPROTO_UDP = 6, 17
MSG_FASTOPEN = 0x20000000  # connects while it sends
TCP_TRICKS = (14, 19, 23, 30, 31)  # MD5SIG, REPAIR, FASTOPEN, FASTOPEN_CONNECT, ULP
SOCKET_IOCTLS = (0x8900, 0x89FF)  # tell of the host's network
S_IFMT, S_IFREG, S_IFIFO = 0o170000, 0o100000, 0o010000
TRICKY_IOCTLS = (0x5412, 0x541C, 0x5423, 0x8901, 0x8902)  # TIOCSTI, TIOCLINUX, TIOCSETD, FIOSETOWN, SIOCSPGRP
FILE_IOCTLS = (0x40086602, 0x401C5820, 0x40806685)  # FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, FS_IOC_ENABLE_VERITY
IOCTL_TYPE = 0xFF00
SUBVOLUME_IOCTLS = (0x9400, 0xBC00)  # types: btrfs, bcachefs
O_ACCMODE, O_WRONLY, O_RDWR, O_TRUNC = 3, 1, 2, 0o1000
SIGNALLING = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: have the kernel signal another process
LEASING = (1024, 1040)  # F_SETLEASE, F_SETDELEG: whoever else opens the file waits for 45 seconds
WATCHING = 1026  # F_NOTIFY: tells what others do in a directory
QUERY_PERSONALITY = 0xFFFFFFFF
MONITOR = 1  # in the pid namespace of processes that may fork


def _op(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    return struct.pack("<HBBI", code, jt, jf, k)


def _argument(index: int, high: bool = False) -> bytes:  # noqa: FBT001, FBT002  private
    return _op(LOAD, ARGUMENTS + 8 * index + (4 if high else 0))


def _deny(error: int) -> bytes:
    return _op(RET, ERRNO | error)


_PERMIT = _op(RET, ALLOW)


class Powers(NamedTuple):
    """What a process may do beyond the default."""

    forks: bool = False  # a cell: forks, but starts no programs
    programs: bool = False  # forks and starts programs
    local_sockets: bool = False  # named sockets between its own processes
    network: str = ""  # "listed": each connection is asked for; "full": TCP and UDP


class Gaps(NamedTuple):
    """What the filter makes up for where the host's directories are shared: Landlock decides on opening files only."""

    shared_files: bool = False  # what happens in directories could be watched
    shared_user: bool = False  # modes, times and attributes of the host's files, being its user's, could be changed
    shared_account: bool = False  # what the kernel grants a user in all is the worker's and its other processes' too
    truncation: bool = False  # this Landlock (before Linux 6.2) does not look at truncation


_NONE = Powers()
_NO_GAPS = Gaps()


class Program:
    """A filter under construction; each rule begins and ends with the call's number in the accumulator."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._code: List[bytes] = [
            _op(LOAD, ARCH),
            _op(JEQ, table.audit_arch, 1, 0),
            _op(RET, KILL_PROCESS),
            _op(LOAD, NUMBER),
        ]
        if table.x32:
            self._code += [_op(JGE, X32_BIT, 0, 1), _op(RET, KILL_PROCESS)]
        self._code += [_op(JGT, LAST_KNOWN, 0, 1), _deny(errno.ENOSYS)]

    def answer(self, number: int, error: int) -> None:
        self._code += [_op(JEQ, number, 0, 1), _deny(error)]

    def rule(self, number: int, body: List[bytes]) -> None:
        """Add a body that decides about one call; it must end in a return on all its ways."""
        self._code += [_op(JEQ, number, 0, len(body)), *body]

    def finish(self) -> bytes:
        return b"".join([*self._code, _PERMIT])


def build(pid: int, *, machine: str, powers: Powers = _NONE, gaps: Gaps = _NO_GAPS) -> bytes:
    """Return the filter for a process of that id (as it sees itself)."""
    table = TABLES[machine]
    program = Program(table)
    allowed = _socket_calls(program, table, powers)
    for number in table.denied:
        if number not in allowed:
            program.answer(number, errno.EPERM)
    program.answer(table.clone3, errno.ENOSYS)  # its flags are behind a pointer; the C library then takes clone
    program.rule(table.socketpair, _only_stream_pairs())
    program.rule(table.ioctl, _no_tricks(network=bool(powers.network), shared_user=gaps.shared_user))
    program.rule(table.personality, _only_asking())
    program.rule(table.fcntl, _nothing_about_others())
    for number, position in table.mknod:
        program.rule(number, _only_files_and_pipes(position))
    for number in table.watchers if gaps.shared_account else ():  # as if all were taken, lest they are for the others
        program.answer(number, errno.EMFILE)
    _files(program, table, gaps)
    _processes(program, table, powers, pid)
    return program.finish()


def _files(program: Program, table: Table, gaps: Gaps) -> None:
    if gaps.shared_files:
        for number in table.watching:
            program.answer(number, errno.EPERM)
    if gaps.shared_user:
        # Files of its own are among them, and much that copies or unpacks files would fail over a mode or a time.
        for number in table.pretended:
            program.answer(number, 0)
        for number, position in table.timing:
            program.rule(number, _pretend_to_set(position))
        for number in table.owning:
            program.answer(number, errno.EPERM)
    if gaps.truncation:
        program.answer(table.truncate, errno.EPERM)
        program.answer(table.openat2, errno.ENOSYS)  # its flags are behind a pointer
        for number, position in table.opening:
            program.rule(number, _no_truncation_without_writing(position))


def _pretend_to_set(times: int) -> List[bytes]:
    """
    Answer as if the times of a file had been set, but refuse to set those of a path to now (no times: NULL).

    Who touches a path that is not there must hear so, and then creates it; an open file (no path) is there.
    """
    path = times - 1
    return [
        _argument(times),
        _op(JEQ, 0, 0, 7),
        _argument(times, high=True),
        _op(JEQ, 0, 0, 5),
        _argument(path),
        _op(JEQ, 0, 0, 2),
        _argument(path, high=True),
        _op(JEQ, 0, 1, 0),
        _deny(errno.EPERM),
        _deny(0),
    ]


def _no_truncation_without_writing(position: int) -> List[bytes]:
    return [
        _argument(position),
        _op(JSET, O_TRUNC, 1, 0),
        _PERMIT,
        _op(AND, O_ACCMODE),
        _op(JEQ, O_WRONLY, 2, 0),
        _op(JEQ, O_RDWR, 1, 0),
        _deny(errno.EPERM),
        _PERMIT,
    ]


def _processes(program: Program, table: Table, powers: Powers, pid: int) -> None:
    forks = powers.forks or powers.programs
    program.rule(table.clone, _clone(subprocesses=forks))
    if not powers.programs:
        for number in table.executing if forks else table.starting:
            program.answer(number, errno.EPERM)
    if not forks:
        for number in table.kill:
            program.rule(number, _only_self(pid))
        program.answer(table.tkill, errno.EPERM)
    _own_settings(program, table, _not(MONITOR) if forks else [_op(JEQ, 0, 2, 0), *_only_self(pid)[1:]])


def _own_settings(program: Program, table: Table, permitted: List[bytes]) -> None:
    """
    Have a process change limits, priority and processors of its own only.

    At level B others may belong to the same user, and the kernel asks for no more than that. Processes that may fork
    live in a pid namespace, where all but its first are the handler's own.
    """
    for number in table.of_process:
        program.rule(number, [_argument(0), *permitted])
    for number, process in table.of_kind:
        program.rule(number, [_argument(0), _op(JEQ, process, 1, 0), _deny(errno.EPERM), _argument(1), *permitted])


def _socket_calls(program: Program, table: Table, powers: Powers) -> Set[int]:
    """Add the rules for sockets; return the calls that the deny list must leave out."""
    if not powers.network:
        allowed = [(AF_UNIX, SOCK_STREAM, 0)] if powers.local_sockets else []
        program.rule(table.socket, _only_sockets(allowed))
        program.rule(table.sendto, _only_without_address())
        return {table.connect, *table.serving} if powers.local_sockets else set()
    program.rule(table.setsockopt, _no_tcp_tricks())
    streams = [(family, SOCK_STREAM, protocol) for family in (AF_INET, AF_INET6) for protocol in (0, IPPROTO_TCP)]
    if powers.network == "full":
        packets = [(family, SOCK_DGRAM, protocol) for family in (AF_INET, AF_INET6) for protocol in (0, IPPROTO_UDP)]
        program.rule(table.socket, _only_sockets(streams + packets))
        return {table.connect, *table.serving}
    program.rule(table.socket, _only_sockets(streams))
    program.rule(table.connect, [_op(RET, ASK)])
    for number, position in table.sending:
        more = _only_without_address() if number == table.sendto else [_PERMIT]
        program.rule(number, [_argument(position), _op(JSET, MSG_FASTOPEN, 0, 1), _deny(errno.EPERM), *more])
    return {table.connect}


def build_for_fork(pid: int) -> bytes:
    """Return what is added to a filter that allowed processes, for one that must not start any nor touch its parent."""
    table = TABLES[kernel.MACHINE]
    program = Program(table)
    program.rule(table.clone, _clone(subprocesses=False))
    for number in table.starting:
        program.answer(number, errno.EPERM)
    for number in table.kill:
        program.rule(number, _only_self(pid))
    program.answer(table.tkill, errno.EPERM)
    _own_settings(program, table, [_op(JEQ, 0, 2, 0), *_only_self(pid)[1:]])
    return program.finish()


def _only_stream_pairs() -> List[bytes]:
    return [
        _argument(0),
        _op(JEQ, AF_UNIX, 0, 3),
        _argument(1),
        _op(AND, SOCK_TYPE_MASK),
        _op(JEQ, SOCK_STREAM, 1, 0),
        _deny(errno.EPERM),
        _PERMIT,
    ]


def _only_without_address() -> List[bytes]:
    return [
        _argument(4),
        _op(JEQ, 0, 0, 2),
        _argument(4, high=True),
        _op(JEQ, 0, 1, 0),
        _deny(errno.EPERM),
        _PERMIT,
    ]


def _only_sockets(allowed: List[Tuple[int, int, int]]) -> List[bytes]:
    """Permit sockets of these families, types and protocols."""
    body: List[bytes] = []
    for family, kind, protocol in allowed:
        body += [_argument(0), _op(JEQ, family, 0, 6)]
        body += [_argument(1), _op(AND, SOCK_TYPE_MASK), _op(JEQ, kind, 0, 3)]
        body += [_argument(2), _op(JEQ, protocol, 0, 1), _PERMIT]
    return [*body, _deny(errno.EAFNOSUPPORT)]


def _no_tcp_tricks() -> List[bytes]:
    body = [_argument(1), _op(JEQ, IPPROTO_TCP, 1, 0), _PERMIT, _argument(2)]
    for option in TCP_TRICKS:
        body += [_op(JEQ, option, 0, 1), _deny(errno.EPERM)]
    return [*body, _PERMIT]


def _no_tricks(*, network: bool, shared_user: bool) -> List[bytes]:
    """Refuse what would type into a terminal, send signals, change files unseen, or ask a socket about its host."""
    body = [_argument(1)]
    for command in (*TRICKY_IOCTLS, *FILE_IOCTLS):
        body += [_op(JEQ, command, 0, 1), _deny(errno.EPERM)]
    if network:
        first, last = SOCKET_IOCTLS
        body += [_op(JGE, first, 0, 2), _op(JGT, last, 1, 0), _deny(errno.EPERM)]
    if shared_user:
        # They make and remove subvolumes in directories that are open for reading, which Landlock does not see. Those
        # that clone files have the same type: copiers that hear EOPNOTSUPP (some not with EPERM) copy the bytes.
        body.append(_op(AND, IOCTL_TYPE))
        for kind in SUBVOLUME_IOCTLS:
            body += [_op(JEQ, kind, 0, 1), _deny(errno.EOPNOTSUPP)]
    return [*body, _PERMIT]


def _nothing_about_others() -> List[bytes]:
    body = [_argument(1)]
    for command in (*SIGNALLING, *LEASING, WATCHING):
        body += [_op(JEQ, command, 0, 1), _deny(errno.EPERM)]
    return [*body, _PERMIT]


def _only_asking() -> List[bytes]:
    return [_argument(0), _op(JEQ, QUERY_PERSONALITY, 2, 0), _op(JEQ, 0, 1, 0), _deny(errno.EPERM), _PERMIT]


def _only_files_and_pipes(position: int) -> List[bytes]:
    return [
        _argument(position),
        _op(AND, S_IFMT),
        _op(JEQ, S_IFREG, 3, 0),
        _op(JEQ, S_IFIFO, 2, 0),
        _op(JEQ, 0, 1, 0),
        _deny(errno.EPERM),
        _PERMIT,
    ]


def _clone(*, subprocesses: bool) -> List[bytes]:
    body = [_argument(0), _op(JSET, CLONE_NEW, 0, 1), _deny(errno.EPERM)]
    if not subprocesses:
        body += [_op(JSET, CLONE_THREAD, 1, 0), _deny(errno.EPERM)]
    return [*body, _PERMIT]


def _only_self(pid: int) -> List[bytes]:
    return [_argument(0), _op(JEQ, pid, 1, 0), _deny(errno.EPERM), _PERMIT]


def _not(process: int) -> List[bytes]:
    return [_op(JEQ, process, 0, 1), _deny(errno.EPERM), _PERMIT]


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class ForFork:
    """
    The filter of a fork, made before there is one.

    What a fork does not touch of its parent's memory is not copied: so nothing is left to it but to write its process
    id into the program, and to call the kernel.
    """

    SOMEBODY = 0x7EADBEE5  # no process has this id

    def __init__(self) -> None:
        program = build_for_fork(self.SOMEBODY)
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._places = _places_of(self.SOMEBODY, program)
        self._described = _FilterProgram(len(program) // 8, ctypes.addressof(self._buffer))
        self._call = kernel.prepared("seccomp", SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(self._described))

    def write(self, pid: int) -> None:
        """Make it the filter of the process with that id (as it sees itself)."""
        for place in self._places:
            struct.pack_into("<I", self._buffer, place, pid)

    @property
    def program(self) -> bytes:
        """The filter as it is now."""
        return self._buffer.raw

    def install(self) -> None:
        """Put the filter on this process for good; needs no_new_privs."""
        self.write(os.getpid())
        self._call()


def _places_of(number: int, program: bytes) -> List[int]:
    """Return where a program's instructions compare with that number."""
    steps = enumerate(struct.iter_unpack("<HBBI", program))
    return [8 * index + 4 for index, (code, _, _, k) in steps if code == JEQ and k == number]


def install(program: bytes, *, listen: bool = False) -> int:
    """
    Put the filter on this process for good; needs no_new_privs.

    Returns the file descriptor that calls with the answer ASK wait at if `listen`, else -1.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    described = _FilterProgram(len(program) // 8, ctypes.addressof(buffer))
    flags = NEW_LISTENER if listen else 0
    result = kernel.syscall("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(described))
    return result if listen else -1


def reason_not_to_ask() -> str:
    """Say why a worker could not be asked for connections here; "" where it can. Found by trying, in a process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _try_to_ask()
            os.write(writing, b"")
        except OSError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as stream:  # noqa: PTH123  a descriptor
        reason = stream.read().decode()
    os.waitpid(pid, 0)
    return f"this kernel can not hand connections to the worker (Linux 5.9 can): {reason}" if reason else ""


def _try_to_ask() -> None:
    """Do what takes a filter that asks and a worker that answers. Raises OSError."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    asking = install(_PERMIT, listen=True)
    nobody = struct.pack("=QIIII", 0, PUT_IN_PLACE, asking, 0, 0)
    for what, absent, call in (
        ("putting in descriptors", errno.EINVAL, lambda: fcntl.ioctl(asking, ADD_DESCRIPTOR, nobody)),
        ("pidfd_getfd", errno.ENOSYS, lambda: kernel.syscall("pidfd_getfd", -1, 0, 0)),
    ):
        try:
            call()
        except OSError as error:
            if error.errno == absent:  # else it knows the call, and objects to what it was given
                raise OSError(absent, f"{what}: {os.strerror(absent)}") from None
