"""What the API's process listens on. The sockets belong to its supervisor, so that they outlive the process."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Self

from eventproc.config import Address, Settings
from eventproc.roles import ENV_GRPC, ENV_HTTP, ENV_HTTPS, certs, files
from eventproc.wiring import EVERYWHERE


@dataclass(frozen=True, kw_only=True, slots=True)
class Doors:
    """The bound sockets; `grpc` only holds its port, for a gRPC server can not be given a socket."""

    http: socket.socket
    https: socket.socket | None = None
    grpc: socket.socket | None = None

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Bind all that is wanted, making certificates where one is. Raises ConfigError saying what to set."""
        http = files.bind(settings.http, variable="EVENTPROC_HTTP")
        https = grpc = None
        try:
            if wants_tls(settings) and not certificates(settings).exist():
                certs.init(certificates(settings).directory)
            if settings.https is not None:
                https = files.bind(settings.https, variable="EVENTPROC_HTTPS")
            if wants_grpc(settings):
                grpc = _hold(settings.grpc)
        except BaseException:
            for sock in (http, https):
                if sock is not None:
                    sock.close()
            raise
        return cls(http=http, https=https, grpc=grpc)

    @classmethod
    def inherited(cls) -> Self | None:
        """Return the supervisor's, when there is one; a second call finds nothing."""
        found = {name: _take(variable) for name, variable in VARIABLES.items()}
        http = found.pop("http")
        return None if http is None else cls(http=http, **found)

    def sockets(self) -> dict[str, socket.socket]:
        return {name: sock for name in VARIABLES if (sock := getattr(self, name)) is not None}

    def environ(self) -> dict[str, str]:
        """Return what tells a child process of these sockets, which must be passed on to it."""
        return {VARIABLES[name]: str(sock.fileno()) for name, sock in self.sockets().items()}

    def bound(self, settings: Settings) -> Settings:
        """Return the settings with the addresses that are really bound."""
        return settings.replace(**{name: _address(sock) for name, sock in self.sockets().items()})

    def endpoints(self) -> dict[str, str]:
        """Return under what this machine reaches them, for endpoints.json."""
        local = {name: str(_reachable(sock)) for name, sock in self.sockets().items()}
        schemes = {"http": "http://", "https": "https://", "grpc": ""}
        return {name: f"{schemes[name]}{address}" for name, address in local.items()}

    def close(self) -> None:
        for sock in self.sockets().values():
            sock.close()


VARIABLES = {"http": ENV_HTTP, "https": ENV_HTTPS, "grpc": ENV_GRPC}


def certificates(settings: Settings) -> certs.Certificates:
    return certs.Certificates(directory=settings.certs_dir)


def wants_grpc(settings: Settings) -> bool:
    """Say whether the gRPC service is wanted: its address was set, or certificates were made for it."""
    return "grpc" in settings.model_fields_set or certificates(settings).exist()


def wants_tls(settings: Settings) -> bool:
    return settings.https is not None or wants_grpc(settings)


def _hold(address: Address) -> socket.socket:
    """
    Hold a port for a server in another process.

    The gRPC library binds it once more, which the kernel lets the same user do (SO_REUSEPORT). Only the first bind,
    without that, finds out whether somebody else listens there.
    """
    with files.bind(address, variable="EVENTPROC_GRPC") as probe:
        where = probe.getsockname()
        held = socket.socket(probe.family, probe.type, probe.proto)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(where)
    held.set_inheritable(False)
    return held


def _take(variable: str) -> socket.socket | None:
    given = os.environ.pop(variable, None)
    return None if given is None else socket.socket(fileno=int(given))


def _address(sock: socket.socket) -> Address:
    return Address(*sock.getsockname()[:2])


def _reachable(sock: socket.socket) -> Address:
    bound = _address(sock)
    return Address(EVERYWHERE.get(bound.host, bound.host), bound.port)


__all__ = ["Doors", "certificates", "wants_grpc", "wants_tls"]
