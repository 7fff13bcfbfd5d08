"""Several services in one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from eventproc.roles.mains import Service

log = structlog.get_logger(__name__)


class Together:
    """
    Runs services side by side, the first in the calling thread, until they are stopped.

    When one of them breaks all end, so that the supervisor starts the role afresh.
    """

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = services
        self._broken: list[BaseException] = []

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._run, args=(service,), name=type(service).__name__, daemon=True)
            for service in self._services[1:]
        ]
        for thread in threads:
            thread.start()
        self._run(self._services[0])
        for thread in threads:
            thread.join()
        if self._broken:
            raise self._broken[0]

    def stop(self, grace_s: float) -> None:
        """Stop all at the same time; returns when they have ended or the grace is over."""
        until = time.monotonic() + grace_s
        threads = [threading.Thread(target=service.stop, args=(grace_s,), daemon=True) for service in self._services]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()) + 1.0)

    def _run(self, service: Service) -> None:
        try:
            service.run()
        except BaseException as error:  # the others must not go on alone
            log.exception("a service broke", service=type(service).__name__)
            self._broken.append(error)
            self.stop(1.0)


__all__ = ["Together"]
