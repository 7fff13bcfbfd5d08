"""Finding out what answers at an address when it is not the HTTP API."""

from __future__ import annotations

import contextlib
import socket
import ssl
from urllib.parse import urlsplit

from eventproc.client.endpoint import HTTP_PORT, data_dir, local_endpoint

GRPC_PORT = 4411
TIMEOUT_S = 2.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # and an empty SETTINGS frame
_SETTINGS = 4  # type of the frame that an HTTP/2 server sends first


def explain(base: str) -> str:
    """Say what seems to be at a base URL that did not speak HTTP/1.1, and what to do; empty where nothing is known."""
    parts = urlsplit(base)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    tls, protocol = _tls(host, port)
    if protocol == "h2" or (not tls and _plain_http2(host, port)):
        return f"a gRPC server answers there; this client speaks HTTP. Try {suggestion(host)}" + (
            "" if port != GRPC_PORT else f" ({GRPC_PORT} is the gRPC port)"
        )
    if tls and parts.scheme == "http":
        return f"a TLS server answers there; try https://{parts.netloc}"
    if not tls and parts.scheme == "https":
        return f"what answers there does not speak TLS; try http://{parts.netloc}"
    return ""


def suggestion(host: str) -> str:
    """Return the HTTP endpoint that most likely belongs to a gRPC port."""
    if host in ("localhost", "127.0.0.1", "::1") and (found := local_endpoint(data_dir())):
        return found
    return f"http://{f'[{host}]' if ':' in host else host}:{HTTP_PORT}"


def _tls(host: str, port: int) -> tuple[bool, str | None]:
    """Return whether a TLS server answers, and the protocol it chose."""
    # Nothing is sent over this connection, so whose certificate it is does not matter.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        with (
            socket.create_connection((host, port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return True, secure.selected_alpn_protocol()
    except (OSError, ValueError):
        return False, None


def _plain_http2(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), TIMEOUT_S) as plain:
        plain.sendall(_PREFACE)
        plain.settimeout(TIMEOUT_S)
        head = b""
        while len(head) < 9 and (piece := plain.recv(9 - len(head))):
            head += piece
        return len(head) == 9 and head[3] == _SETTINGS and head[5:9] == b"\0\0\0\0"
    return False
