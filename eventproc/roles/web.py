"""The API's process: it serves on sockets that outlive it."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from eventproc.api.app import create_app
from eventproc.api.server import Server
from eventproc.config import Address, Settings
from eventproc.errors import ConfigError
from eventproc.roles.certs import Certificates
from eventproc.roles.doors import Doors, certificates
from eventproc.service.facade import UseCases
from eventproc.wiring import Platform

if TYPE_CHECKING:
    from eventproc.api.grpc.server import GrpcServer

log = structlog.get_logger(__name__)

LOOK_S = 0.01  # between looks whether the server has started


class ApiService:
    """The front doors as a role: HTTP, and HTTPS and gRPC where they are wanted."""

    def __init__(self, platform: Platform, doors: Doors, *, ready: Callable[[], None]) -> None:
        self._platform = platform
        self._ready = ready
        self._ended = threading.Event()
        self._stops_at = 0.0  # on the monotonic clock
        grace_s = max(1, int(platform.settings.worker.grace))
        app = create_app(platform.context)
        files = certificates(platform.settings)
        self._server = Server(app, doors.http, grace_s=grace_s)
        self._https: Server | None = None
        self._grpc: GrpcServer | None = None
        if doors.https is not None or doors.grpc is not None:
            _tell(files)
        if doors.https is not None:
            self._https = Server(app, doors.https, grace_s=grace_s, tls=(files.server_key, files.server))
        if doors.grpc is not None:
            self._grpc = _grpc_server(app.state.use_cases, platform.settings, files)

    def run(self) -> None:
        if self._https is not None:
            self._https.start()
        if self._grpc is not None:
            self._grpc.start()
        threading.Thread(target=self._announce, name="ready", daemon=True).start()
        try:
            self._server.run()
            if self._grpc is not None:
                self._grpc.stop(max(0.0, self._stops_at - time.monotonic()))
            if self._https is not None:
                self._https.stop()
        finally:
            self._ended.set()

    def _announce(self) -> None:
        servers = [server for server in (self._server, self._https) if server is not None]
        while not self._ended.wait(LOOK_S):
            if all(server.started for server in servers):
                self._ready()
                return

    def stop(self, grace_s: float) -> None:
        self._stops_at = time.monotonic() + grace_s
        self._platform.draining.set()  # open streams of logs end
        self._server.stop()
        self._ended.wait(grace_s)


def _tell(files: Certificates) -> None:
    """Check the certificate before anything serves with it."""
    files.read()
    warning = files.warning(dt.datetime.now(dt.UTC))
    if warning is not None:
        log.warning(warning)


def _grpc_server(cases: UseCases, settings: Settings, files: Certificates) -> GrpcServer:
    from eventproc.api.grpc.server import GrpcServer  # noqa: PLC0415  # half a second that HTTP alone need not wait

    key, chain = files.read()
    try:
        return GrpcServer(cases, str(settings.grpc), key=key, chain=chain)
    except OSError as error:
        raise ConfigError(
            f"the gRPC service can not listen on {settings.grpc}: {error}; set EVENTPROC_GRPC to another address, or "
            f"EVENTPROC_GRPC={Address(settings.grpc.host, 0)} for any free port"
        ) from error
