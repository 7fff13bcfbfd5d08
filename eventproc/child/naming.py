"""
Name look-ups in a handler's process, and errors that say which place was out of bounds and how to get there.

A handler has no resolver: names that its registration lists have addresses that stand for them, others do not exist.
What a hostile handler does to this module it does to its own messages only; the worker decides on each connection.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Dict, List, Optional, Sequence, Tuple

_getaddrinfo = socket.getaddrinfo
_connect = socket.socket.connect
_connect_ex = socket.socket.connect_ex
LOCAL = ("localhost", "")
INTERNET = (socket.AF_INET, socket.AF_INET6)


class Known:
    """What this process may reach: the zygote sets it up once, each child puts its own in."""

    def __init__(self) -> None:
        self.hosts: Dict[str, str] = {}  # name → the address that stands for it
        self.places: Sequence[str] = ()
        self.everywhere = False


known = Known()


def install() -> None:
    """Put our look-ups in the place of Python's own; in the zygote, which handlers are forked from."""
    socket.getaddrinfo = getaddrinfo
    socket.gethostbyname = gethostbyname
    socket.gethostbyname_ex = gethostbyname_ex
    socket.socket.connect_ex = connect_ex  # type: ignore[method-assign, assignment]
    socket.socket.connect = connect  # type: ignore[method-assign, assignment]


def allow(hosts: Dict[str, str], places: Sequence[str], *, everywhere: bool) -> None:
    """Say what this process may reach."""
    known.hosts, known.places, known.everywhere = hosts, places, everywhere


def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> List[Any]:
    """Look up as socket.getaddrinfo does, among the names that this handler may connect to."""
    stand_in = _stand_in(host, port)
    if port and not known.places and not known.everywhere and not _is_for_listening(args, kwargs):
        raise socket.gaierror(socket.EAI_FAIL, _out_of_bounds(_text(host) or "localhost", port))
    return _getaddrinfo(stand_in, port, *args, **kwargs)


def _is_for_listening(args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> bool:
    flags = args[3] if len(args) > 3 else kwargs.get("flags", 0)
    return bool(flags & (socket.AI_PASSIVE | socket.AI_NUMERICHOST))


def gethostbyname(hostname: Any) -> str:
    return str(_getaddrinfo(_stand_in(hostname, None), None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])


def gethostbyname_ex(hostname: Any) -> Tuple[Any, List[Any], List[str]]:
    return hostname, [], [gethostbyname(hostname)]


def _stand_in(host: Any, port: Any) -> Any:
    name = _text(host)
    if name in known.hosts:
        return known.hosts[name]
    if name is None or known.everywhere or name in LOCAL or _is_address(name):
        return host
    raise socket.gaierror(socket.EAI_NONAME, _out_of_bounds(name, port))


def _text(host: Any) -> Optional[str]:
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii", "replace")
    if not isinstance(host, str):
        return None
    try:
        return host.rstrip(".").encode("idna").decode().lower()
    except UnicodeError:
        return host.lower()


def _is_address(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name.partition("%")[0])
        except (OSError, ValueError):
            continue
        return True
    return False


def _out_of_bounds(host: str, port: Any) -> str:
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port if port is not None else 'PORT'}"
    listed = f"the handler may connect to {', '.join(known.places)}" if known.places else "the handler has no network"
    return f"{place} can not be reached: {listed}; register(..., network=[{place!r}]) asks for it"


def connect(self: socket.socket, address: Any) -> None:
    """Connect as a socket does; a refusal says which place it was about."""
    try:
        _connect(self, _translated(self, address))
    except PermissionError as error:
        if error.errno != errno.EACCES or self.family not in INTERNET:
            raise
        names = {stand_in: name for name, stand_in in known.hosts.items()}
        host = names.get(address[0], _text(address[0]) or "")
        raise PermissionError(errno.EACCES, _refused(host, address[1])) from None


def connect_ex(self: socket.socket, address: Any) -> int:
    """Connect as a socket does, and return the error's number."""
    return _connect_ex(self, _translated(self, address))


def _translated(self: socket.socket, address: Any) -> Any:
    """Look the host of an address up, which the socket would otherwise do by itself."""
    if self.family in INTERNET and isinstance(address, tuple) and len(address) > 1:
        return (_stand_in(address[0], address[1]), *address[1:])
    return address


def _refused(host: str, port: Any) -> str:
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if place in known.places:
        return f"{place} was refused by the operator's policy; the run's log says why"
    return _out_of_bounds(host, port)
