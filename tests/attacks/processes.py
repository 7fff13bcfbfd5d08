"""Attacks on other processes, and attempts to start some."""

# Handlers stand here as users write them: untyped, crude, and up to no good. Style is not what they are judged by.
# ruff: noqa: B023, PTH101

# mypy: ignore-errors

from __future__ import annotations

from attacks.collecting import attack, machine, syscall


@attack()
def ptrace_parent(db, **canary):
    import os

    number = 101 if machine() == "x86_64" else 117
    got = [pid for pid in (1, os.getppid(), *canary["pids"]) if syscall(number, 16, pid, 0, 0)[0] == 0]
    return f"ESCAPED {got}" if got else "contained"


@attack()
def process_vm_read_parent(db, **canary):
    import ctypes
    import os

    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    buffer = ctypes.create_string_buffer(16)
    local, remote = Vector(ctypes.addressof(buffer), 16), Vector(0x400000, 16)
    number, got = (310 if machine() == "x86_64" else 270), []
    for pid in (1, os.getppid(), *canary["pids"]):
        result, error = syscall(number, pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        if result >= 0 or error == 14:
            got.append(pid)
    return f"ESCAPED {got}" if got else "contained"


@attack()
def reach_the_worker_by_its_socket(db, **canary):
    """The wire tells who made it, as a descriptor of that process, which lies outside of all namespaces."""
    import ctypes
    import os
    import socket
    import struct

    wire = socket.socket(fileno=os.dup(3))
    try:
        worker = struct.unpack("i", wire.getsockopt(socket.SOL_SOCKET, 77, 4))[0]  # SO_PEERPIDFD
    except OSError as error:
        return f"contained {error}"
    calls = {"signal": (424, worker, 9, 0, 0), "descriptor": (438, worker, 0, 0), "memory": (440, worker, 0, 0, 21, 0)}
    got = [name for name, (number, *arguments) in calls.items() if syscall(number, *arguments)[0] >= 0]
    if ctypes.CDLL(None, use_errno=True).setns(worker, 0x20000) == 0:
        got.append("namespace")
    libc = ctypes.CDLL(None, use_errno=True)
    if any(libc.ioctl(worker, 0xFF00 + number, 0) >= 0 for number in range(1, 11)):  # PIDFD_GET_..._NAMESPACE
        got.append("descriptor of a namespace")
    return f"ESCAPED {got}" if got else "contained"


@attack()
def kill_others(db, **canary):
    import os
    import signal

    got = []
    for pid in (1, os.getppid(), *canary["pids"]):
        try:
            os.kill(pid, signal.SIGKILL)
            got.append(pid)
        except OSError:
            continue
    return f"ESCAPED {got}" if got else "contained"


@attack("signal")
def kill_everyone(db, **canary):
    import os

    try:
        os.kill(-1, 9)
    except OSError as error:
        return f"contained {error}"
    return "contained if the canaries live"


@attack("signal")
def kill_process_group(db, **canary):
    import os

    try:
        os.kill(0, 9)
    except OSError as error:
        return f"contained {error}"
    return "ESCAPED"


@attack()
def daemonise_outlive(db, **canary):
    import os

    try:
        if os.fork() == 0:
            os.setsid()
            os.execv("/bin/sleep", ["sleep", "3600"])
    except OSError as error:
        return f"contained {error}"
    return "ESCAPED"


@attack()
def fork_bomb(db, **canary):
    import os

    count = 0
    for _ in range(500):
        try:
            if os.fork() == 0:
                os._exit(0)
            count += 1
        except OSError as error:
            return f"contained after {count}: {error}" if count < 100 else f"ESCAPED {count}"
    return f"ESCAPED {count}"


@attack()
def exec_shell(db, **canary):
    import os

    try:
        os.execv("/bin/sh", ["sh", "-c", "exit 0"])
    except OSError as error:
        return f"contained {error}"


@attack()
def run_setuid_binary(db, **canary):
    import subprocess

    for program in (["su", "-c", "id"], ["mount"], ["passwd", "-S"]):
        try:
            subprocess.run(program, check=False, capture_output=True, stdin=subprocess.DEVNULL)
            return "ESCAPED"
        except OSError as error:
            last = error
    return f"contained {last}"


@attack()
def exec_dropped_binary(db, **canary):
    import os
    import shutil

    try:
        shutil.copyfile("/bin/true", "true")
        os.chmod("true", 0o755)
        os.execv("./true", ["true"])
    except OSError as error:
        return f"contained {error}"


@attack()
def limit_others(db, **canary):
    """A process may change the limits of others of its user: without CPU time or files a worker ends."""
    import os
    import resource

    got = []
    for pid in (1, os.getppid(), *canary["pids"]):
        for which, value in ((resource.RLIMIT_CPU, (0, 0)), (resource.RLIMIT_NOFILE, (3, 3))):
            try:
                resource.prlimit(pid, which, value)
                got.append(pid)
            except OSError:
                continue
    return f"ESCAPED {got}" if got else "contained"


@attack()
def slow_others_down(db, **canary):
    """By priority, scheduling class, processors and I/O class, one by one and all of a user at a time."""
    import ctypes
    import os

    arm, got = machine() != "x86_64", []
    one = ctypes.create_string_buffer(b"\1", 128)
    idle = ctypes.create_string_buffer(48)
    idle[0:8] = (48).to_bytes(4, "little") + (5).to_bytes(4, "little")
    for pid in (1, os.getppid(), *canary["pids"]):
        for name, number, arguments in (
            ("affinity", 122 if arm else 203, (pid, 8, one)),
            ("scheduler", 119 if arm else 144, (pid, 5, ctypes.create_string_buffer(4))),
            ("attributes", 274 if arm else 314, (pid, idle, 0)),
            ("priority", 140 if arm else 141, (0, pid, 19)),
            ("input and output", 30 if arm else 251, (1, pid, 3 << 13)),
        ):
            if syscall(number, *arguments)[0] >= 0:
                got.append((name, pid))
    if syscall(140 if arm else 141, 2, 0, 19)[0] >= 0:
        got.append("priority of all of this user's")
    if syscall(30 if arm else 251, 3, 0, 3 << 13)[0] >= 0:
        got.append("input and output of all of this user's")
    return f"ESCAPED {got}" if got else "contained"


@attack()
def signals_by_the_kernel(db, **canary):
    """The owner of a file gets a signal when there is something to read: name another process, and choose SIGKILL."""
    import fcntl
    import os
    import socket
    import struct

    got = []
    for pid in (1, os.getppid(), *canary["pids"]):
        mine, other = socket.socketpair()
        for name, act in (
            ("F_SETOWN", lambda: fcntl.fcntl(mine, 8, pid)),
            ("F_SETOWN_EX", lambda: fcntl.fcntl(mine, 15, struct.pack("2i", 1, pid))),
            ("FIOSETOWN", lambda: fcntl.ioctl(mine, 0x8901, struct.pack("i", pid))),
            ("F_SETSIG", lambda: fcntl.fcntl(mine, 10, 9)),
        ):
            try:
                act()
                got.append((name, pid))
            except OSError:
                continue
        fcntl.fcntl(mine, fcntl.F_SETFL, os.O_ASYNC)
        other.send(b"x")
    return f"ESCAPED {got}" if got else "contained"
