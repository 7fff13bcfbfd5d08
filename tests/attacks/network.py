"""Attacks by way of sockets."""

# Handlers stand here as users write them: untyped, crude, and up to no good. Style is not what they are judged by.
# ruff: noqa: B023, PLW0108

# mypy: ignore-errors

from __future__ import annotations

from attacks.collecting import attack


@attack()
def connect_loopback_tcp(db, **canary):
    import socket

    for host in ("127.0.0.1", "::1"):
        try:
            socket.create_connection((host, canary["tcp"]), 1).close()
            return "ESCAPED"
        except OSError as error:
            last = error
    return f"contained {last}"


@attack()
def send_udp(db, **canary):
    import socket

    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"canary", ("127.0.0.1", canary["udp"]))
    except OSError as error:
        return f"contained {error}"
    return "ESCAPED sent"


@attack()
def exotic_sockets(db, **canary):
    import socket

    got = []
    for family in (1, 2, 10, 16, 17, 40, 38, 44, 29, 31):
        for kind in (1, 2, 3, 5):
            for protocol in (0, 1, 255):
                try:
                    socket.socket(family, kind, protocol).close()
                    got.append((family, kind, protocol))
                except OSError:
                    continue
    return f"ESCAPED {got}" if got else "contained"


@attack()
def unix_path_socket(db, **canary):
    import socket

    try:
        client = socket.socket(socket.AF_UNIX)
        client.connect(canary["unix"])
    except OSError as error:
        return f"contained {error}"
    return "ESCAPED"


@attack()
def abstract_unix_socket(db, **canary):
    import socket

    try:
        client = socket.socket(socket.AF_UNIX)
        client.connect("\0" + canary["abstract"])
    except OSError as error:
        return f"contained {error}"
    return "ESCAPED"


@attack()
def unix_dgram_pair_sendto(db, **canary):
    import socket

    try:
        one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        one.sendto(b"canary", canary["dgram"])
    except OSError as error:
        return f"contained {error}"
    return "ESCAPED sent"


@attack()
def reuse_inherited_socket(db, **canary):
    import os
    import socket

    got = []
    for fd in range(3, 64):
        try:
            sock = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        for name, act in (
            ("connect", lambda: sock.connect(canary["unix"])),
            ("sendto", lambda: sock.sendto(b"x", canary["dgram"])),
            ("listen", lambda: sock.listen()),
        ):
            try:
                act()
                got.append((fd, name))
            except OSError:
                continue
    return f"ESCAPED {got}" if got else "contained"
