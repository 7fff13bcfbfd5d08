"""
Connections of handlers, made by the worker.

The system call filter of a handler with a list of places hands each `connect` to the worker (seccomp user
notification). The worker looks at where it wants to go, looks the name up itself, connects in the handler's stead and
puts the connected socket into the place of the handler's own, so that every client works as it is, in C too. The
handler's own sockets never connect anywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from eventproc.model import NetworkPolicy, Place
from eventproc.sandbox.names import addresses_for

log = structlog.get_logger(__name__)

Say = Callable[[str], None]

NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, pid, flags, then struct seccomp_data: number, arch, ip, arguments
ANSWER = struct.Struct("=QqiI")  # id, value, error, flags
ADDITION = struct.Struct("=QIIII")  # id, flags, our descriptor, theirs, its flags
RECEIVE, SEND, STILL_THERE, ADD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
IN_PLACE_OF = 1  # SECCOMP_ADDFD_FLAG_SETFD
SYS_PIDFD_GETFD = 438
LOOPBACK = ("127.0.0.1", "::1")
MAX_ADDRESS = 128  # bytes of a struct sockaddr
CONNECT_S = 10.0  # for all addresses of a name together
MAX_AT_ONCE = 32
MAX_NOTES = 50
KEPT_OPTIONS = (  # what clients set before they connect
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Request:
    """A `connect` that waits."""

    id: int
    pid: int
    descriptor: int
    pointer: int
    length: int


class Refused(Exception):
    """A connection that is not made; the handler sees `number`, and the text when there is one in its log."""

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(text)
        self.number = number
        self.text = text


class Dialer:
    """Answers the connects of one child; the file descriptor is its own from now on."""

    def __init__(self, asking: int, places: Sequence[Place], policy: NetworkPolicy, say: Say) -> None:
        self._asking = asking
        self._places = tuple(places)
        self._policy = policy
        self._say = say
        self._notes = 0
        stand_ins = addresses_for(places)
        self._names = {address: name for name, address in stand_ins.items()}
        self._slots = threading.Semaphore(MAX_AT_ONCE)
        self._send_lock = threading.Lock()
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        threading.Thread(target=self._run, name="eventproc-dialer", daemon=True).start()

    def stop(self) -> None:
        """Answer no more; idempotent."""
        with self._send_lock:
            if self._stop_write >= 0:
                os.close(self._stop_write)
                self._stop_write = -1

    # ------------------------------------------------------------------ the loop

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:
            log.exception("the connections of a handler are not answered any more")
        finally:
            self.stop()
            with self._send_lock:
                os.close(self._asking)
                self._asking = -1
            os.close(self._stop_read)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._asking, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._stop_read in ready or not ready.get(self._asking, 0) & select.POLLIN:
                return  # nobody wants answers, or nobody is left who could ask
            request = self._receive()
            if request is None:
                continue
            if not self._slots.acquire(blocking=False):
                self._answer(request, errno.EAGAIN)
                continue
            threading.Thread(target=self._handle, args=(request,), name="eventproc-connect", daemon=True).start()

    def _receive(self) -> Request | None:
        buffer = bytearray(NOTIFICATION.size)
        try:
            fcntl.ioctl(self._asking, RECEIVE, buffer)
        except OSError:  # it was interrupted, or is dead
            return None
        id_, pid, _, _, _, _, descriptor, pointer, length, *_ = NOTIFICATION.unpack(buffer)
        return Request(id_, pid, descriptor & 0xFFFF_FFFF, pointer, length & 0xFFFF_FFFF)

    def _handle(self, request: Request) -> None:
        try:
            with self._connected(request) as connected:
                self._put(request, connected)
            number = 0
        except Refused as refused:
            number = refused.number
            if refused.text:
                self._note(refused.text)
        except OSError as error:
            number = error.errno or errno.EIO
        except Exception:
            log.exception("a connection of a handler was not made")
            number = errno.EIO
        finally:
            self._slots.release()
        self._answer(request, number)

    def _answer(self, request: Request, number: int) -> None:
        self._ioctl(SEND, ANSWER.pack(request.id, 0, -number, 0))

    def _ioctl(self, command: int, data: bytes) -> bool:
        with self._send_lock:
            if self._asking < 0:
                return False
            try:
                fcntl.ioctl(self._asking, command, bytearray(data))
            except OSError:  # who asked is not there any more
                return False
            return True

    def _note(self, text: str) -> None:
        self._notes += 1
        if self._notes <= MAX_NOTES:
            self._say(f"[{text}]\n")

    # ------------------------------------------------------------------ one connection

    @contextlib.contextmanager
    def _connected(self, request: Request) -> Iterator[socket.socket]:
        """Connect to where it wants to go, if it may. Raises Refused or OSError."""
        address, port = self._destination(request)
        with _theirs(request) as own:
            if own.type != socket.SOCK_STREAM or own.family not in {socket.AF_INET, socket.AF_INET6}:
                raise Refused(errno.EAFNOSUPPORT)
            if _is_connected(own):
                raise Refused(errno.EISCONN)
            place = self._place(address, port)
            with self._dial(place) as made:
                for level, option in KEPT_OPTIONS:
                    with contextlib.suppress(OSError):
                        made.setsockopt(level, option, own.getsockopt(level, option))
                made.setblocking(os.get_blocking(own.fileno()))
                yield made

    def _destination(self, request: Request) -> tuple[str, int]:
        """Read the address that it gave to `connect`, once: what it does to it afterwards changes nothing."""
        try:
            with Path(f"/proc/{request.pid}/mem").open("rb", buffering=0) as memory:
                memory.seek(request.pointer)
                raw = memory.read(min(request.length, MAX_ADDRESS))
        except (OSError, OverflowError, ValueError):
            raise Refused(errno.EFAULT) from None
        if not self._ioctl(STILL_THERE, struct.pack("=Q", request.id)):
            raise Refused(errno.EINTR)  # that process may be another one by now
        family = int.from_bytes(raw[:2], "little") if len(raw) > 1 else -1
        if family == socket.AF_INET and len(raw) >= 8:
            return str(ipaddress.IPv4Address(raw[4:8])), int.from_bytes(raw[2:4], "big")
        if family == socket.AF_INET6 and len(raw) >= 24:
            six = ipaddress.IPv6Address(raw[8:24])
            return str(six.ipv4_mapped or six), int.from_bytes(raw[2:4], "big")
        raise Refused(errno.EAFNOSUPPORT)

    def _place(self, address: str, port: int) -> Place:
        wanted = Place(self._names.get(address, address), port)
        local = Place("localhost", port)
        if address in LOOPBACK and wanted not in self._places and local in self._places:
            return local  # many clients do not look that name up
        if wanted not in self._places:
            listed = ", ".join(map(str, self._places))
            raise Refused(
                errno.EACCES,
                f"a connection to {wanted} was refused: the handler may connect to {listed}; "
                f"register(..., network=[..., {str(wanted)!r}]) asks for it",
            )
        return wanted

    def _dial(self, place: Place) -> socket.socket:
        """Look the name up, and connect to the first of its addresses that may be reached and answers."""
        try:
            found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Refused(errno.EHOSTUNREACH, f"{place} can not be reached: {error}") from None
        before = time.monotonic() + CONNECT_S
        problem: Exception = Refused(errno.EHOSTUNREACH)
        for family, kind, protocol, _, target in found:
            refusal = self._policy.refusal(place, ipaddress.ip_address(str(target[0]).partition("%")[0]))
            if refusal is not None:
                problem = Refused(errno.EACCES, f"a connection to {place} was refused: {refusal}")
                continue
            made = socket.socket(family, kind, protocol)
            try:
                made.settimeout(max(0.1, before - time.monotonic()))
                made.connect(target)
            except OSError as error:
                made.close()
                problem = Refused(errno.ETIMEDOUT if isinstance(error, TimeoutError) else error.errno or errno.EIO)
                continue
            return made
        raise problem

    def _put(self, request: Request, made: socket.socket) -> None:
        """Put our socket in the place of theirs."""
        flags = _descriptor_flags(request)
        addition = ADDITION.pack(request.id, IN_PLACE_OF, made.fileno(), request.descriptor, flags)
        if not self._ioctl(ADD, addition):
            raise Refused(errno.EINTR)


@contextlib.contextmanager
def _theirs(request: Request) -> Iterator[socket.socket]:
    """Open the socket that it wants connected, for a look. Raises Refused."""
    try:
        pidfd = os.pidfd_open(_leader(request.pid))
    except OSError:
        raise Refused(errno.EINTR) from None
    try:
        copy = _libc.syscall(ctypes.c_long(SYS_PIDFD_GETFD), pidfd, request.descriptor, 0)
        number = ctypes.get_errno()
    finally:
        os.close(pidfd)
    if copy < 0:
        if number == errno.EPERM:
            raise Refused(
                errno.EPERM, "connections can not be made: the worker may not look into the handler (CAP_SYS_PTRACE)"
            )
        raise Refused(number)
    try:
        opened = socket.socket(fileno=copy)
    except OSError as error:
        os.close(copy)
        raise Refused(error.errno or errno.ENOTSOCK) from None
    with opened:
        yield opened


def _is_connected(own: socket.socket) -> bool:
    try:
        own.getpeername()
    except OSError:
        return False
    return True


def _leader(pid: int) -> int:
    """Return the process of a thread."""
    for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
        if line.startswith(b"Tgid:"):
            return int(line.split()[1])
    return pid


def _descriptor_flags(request: Request) -> int:
    """Return O_CLOEXEC if their descriptor has it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{request.pid}/fdinfo/{request.descriptor}").read_bytes().splitlines():
            if line.startswith(b"flags:"):
                return int(line.split()[1], 8) & os.O_CLOEXEC
    return os.O_CLOEXEC
