"""The processes of a platform: one per role, and the supervisor over them."""

from __future__ import annotations

ROLES = ("api", "engine", "worker", "notifier", "listener", "models")  # what `eventproc serve` starts

# Between the supervisor and its role processes.
ENV_SUPERVISOR = "EVENTPROC_ROLE_SUPERVISOR"  # its pid
ENV_READY = "EVENTPROC_ROLE_READY_FD"  # a byte written there says that the role works
ENV_HTTP = "EVENTPROC_ROLE_HTTP_FD"  # the listening socket of the API
ENV_HTTPS = "EVENTPROC_ROLE_HTTPS_FD"  # the same with TLS, where that is wanted
ENV_GRPC = "EVENTPROC_ROLE_GRPC_FD"  # a socket that holds the port of the gRPC service, where that is wanted

__all__ = ["ENV_GRPC", "ENV_HTTP", "ENV_HTTPS", "ENV_READY", "ENV_SUPERVISOR", "ROLES"]
