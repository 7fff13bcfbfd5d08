"""The API's process: it serves on a socket that outlives it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from eventproc.api.app import create_app
from eventproc.api.server import Server
from eventproc.wiring import Platform

LOOK_S = 0.01  # between looks whether the server has started


class ApiService:
    """The HTTP API as a role."""

    def __init__(self, platform: Platform, sock: socket.socket, *, ready: Callable[[], None]) -> None:
        self._platform = platform
        self._ready = ready
        self._ended = threading.Event()
        grace_s = max(1, int(platform.settings.worker.grace))
        self._server = Server(create_app(platform.context), sock, grace_s=grace_s)

    def run(self) -> None:
        threading.Thread(target=self._announce, name="ready", daemon=True).start()
        try:
            self._server.run()
        finally:
            self._ended.set()

    def _announce(self) -> None:
        while not self._ended.wait(LOOK_S):
            if self._server.started:
                self._ready()
                return

    def stop(self, grace_s: float) -> None:
        self._platform.draining.set()  # open streams of logs end
        self._server.stop()
        self._ended.wait(grace_s)
