"""The API's process: uvicorn on a socket that outlives it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from eventproc.wiring import Platform


class Server(uvicorn.Server):
    """uvicorn, but signals are the role's business and readiness is announced."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


class ApiService:
    def __init__(self, platform: Platform, sock: socket.socket, *, ready: Callable[[], None]) -> None:
        from eventproc.api.app import create_app  # noqa: PLC0415  # FastAPI is for this role alone

        self._platform = platform
        self._socket = sock
        config = uvicorn.Config(
            create_app(platform.context),
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, int(platform.settings.worker.grace)),
            server_header=False,
        )
        self._server = Server(config, ready)
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._ended.set()

    def stop(self, grace_s: float) -> None:
        self._platform.draining.set()  # open streams of logs end
        self._server.should_exit = True
        self._ended.wait(grace_s)
