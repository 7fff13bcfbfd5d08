"""Serving the application on a socket that is bound already."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

GRACE_S = 10


class Server:
    """
    Uvicorn on a given socket, quiet, ended from any thread.

    `run` blocks and leaves signals alone; `stop` lets requests under way finish, for at most `grace_s`.
    """

    def __init__(
        self, app: ASGIApp, sock: socket.socket, *, grace_s: int = GRACE_S, tls: tuple[Path, Path] | None = None
    ) -> None:
        """Serve `app`; with TLS when the files of a key and of a certificate chain are given."""
        key, chain = tls or (None, None)
        config = uvicorn.Config(
            app,
            ssl_keyfile=key,
            ssl_certfile=chain,
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=grace_s,
            timeout_keep_alive=30,
            backlog=2048,
        )
        self._server = _Quiet(config)
        self._socket = sock
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """Whether requests are answered."""
        return bool(self._server.started)

    def run(self) -> None:
        """Serve until `stop`."""
        self._server.run(sockets=[self._socket])

    def start(self) -> None:
        """Serve in a thread."""
        self._thread = threading.Thread(target=self.run, name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, finish those under way, and end; waits for a thread that `start` made."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the role's to handle."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """Bind a listening socket; port 0 picks a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=2048)
    # Accepted sockets inherit it. asyncio would set it only if the socket had been made with its protocol named, and
    # without it each answer waits 40 ms for the client's acknowledgement of its first packet.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
