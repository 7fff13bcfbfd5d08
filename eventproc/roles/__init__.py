"""The processes of a platform: one per role, and the supervisor over them."""

from __future__ import annotations

ROLES = ("api", "engine", "worker", "notifier")  # what `eventproc serve` starts
LATER = {"listener": "metrics are not part of this version", "models": "models are not part of this version"}

# Between the supervisor and its role processes.
ENV_SUPERVISOR = "EVENTPROC_ROLE_SUPERVISOR"  # its pid
ENV_READY = "EVENTPROC_ROLE_READY_FD"  # a byte written there says that the role works
ENV_HTTP = "EVENTPROC_ROLE_HTTP_FD"  # the listening socket of the API

__all__ = ["ENV_HTTP", "ENV_READY", "ENV_SUPERVISOR", "LATER", "ROLES"]
