"""What the listener's process listens on: Graphite's ports. They belong to the supervisor, as the API's do."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Self

import structlog

from eventproc.config import Address, Settings
from eventproc.errors import ConfigError
from eventproc.roles import files
from eventproc.wiring import EVERYWHERE

log = structlog.get_logger(__name__)

VARIABLES = {
    "graphite": "EVENTPROC_ROLE_GRAPHITE_FD",
    "graphite_udp": "EVENTPROC_ROLE_GRAPHITE_UDP_FD",
    "graphite_pickle": "EVENTPROC_ROLE_GRAPHITE_PICKLE_FD",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricDoors:
    """The bound sockets of Graphite's protocols; None for what is switched off or could not be had."""

    graphite: socket.socket | None = None
    graphite_udp: socket.socket | None = None
    graphite_pickle: socket.socket | None = None

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """
        Bind all that is wanted.

        A port that nobody asked for by name may be taken (carbon, another platform on this machine): that is a
        warning, and the rest of the platform works. One that was set is an error, as it is with the API's.
        """
        given = settings.model_fields_set
        tcp = _bind_tcp(settings.graphite, "graphite", asked="graphite" in given)
        udp = settings.graphite_udp
        if udp is None:
            udp = settings.graphite
        where = udp
        if tcp is not None and udp == settings.graphite:
            where = Address(udp.host, tcp.getsockname()[1])  # the same number, where that was "any free one"
        return cls(
            graphite=tcp,
            graphite_udp=None if tcp is None and udp == settings.graphite else _bind_udp(where, asked=udp.port != 0),
            graphite_pickle=_bind_tcp(settings.graphite_pickle, "graphite_pickle", asked="graphite_pickle" in given),
        )

    @classmethod
    def inherited(cls) -> Self | None:
        """Return the supervisor's, when there is one; a second call finds nothing."""
        if "EVENTPROC_ROLE_GRAPHITE_DOORS" not in os.environ:
            return None
        del os.environ["EVENTPROC_ROLE_GRAPHITE_DOORS"]
        return cls(**{name: _take(variable) for name, variable in VARIABLES.items()})

    def sockets(self) -> dict[str, socket.socket]:
        return {name: sock for name in VARIABLES if (sock := getattr(self, name)) is not None}

    def environ(self) -> dict[str, str]:
        """Return what tells a child process of these sockets, which must be passed on to it."""
        told = {VARIABLES[name]: str(sock.fileno()) for name, sock in self.sockets().items()}
        return told | {"EVENTPROC_ROLE_GRAPHITE_DOORS": "1"}

    def bound(self, settings: Settings) -> Settings:
        """Return the settings with the addresses that are really bound."""
        return settings.replace(**{name: Address(*sock.getsockname()[:2]) for name, sock in self.sockets().items()})

    def endpoints(self) -> dict[str, str]:
        """Return under what this machine reaches them, for endpoints.json."""
        found = {}
        for name, sock in self.sockets().items():
            host, port = sock.getsockname()[:2]
            found[name] = str(Address(EVERYWHERE.get(host, host), port))
        return found

    def close(self) -> None:
        for sock in self.sockets().values():
            sock.close()


def _bind_tcp(address: Address, name: str, *, asked: bool) -> socket.socket | None:
    if address.is_off:
        return None
    try:
        return files.bind(address, variable=f"EVENTPROC_{name.upper()}")
    except ConfigError as error:
        if asked:
            raise
        log.warning("no samples are taken there", address=str(address), why=error.message)
        return None


def _bind_udp(address: Address, *, asked: bool) -> socket.socket | None:
    if address.is_off:
        return None
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        if asked:
            log.warning(
                "no datagrams are taken there; set EVENTPROC_GRAPHITE_UDP", address=str(address), error=str(error)
            )
        return None
    sock.set_inheritable(False)
    return sock


def _take(variable: str) -> socket.socket | None:
    given = os.environ.pop(variable, None)
    return None if given is None else socket.socket(fileno=int(given))


__all__ = ["MetricDoors"]
