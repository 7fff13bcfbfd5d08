"""Attacks by handlers that were given more: processes (allow_subprocess) or places on the network."""

# Handlers stand here as users write them.
# ruff: noqa: PTH101, PTH123, PTH208

# mypy: ignore-errors

from __future__ import annotations

from attacks import ATTACKS

POWER_ATTACKS = {}  # name → (function, accepted failures, power)

# With processes granted these do what they say, inside; what that can do is tried by the attacks here.
GRANTED = {
    "": set(),
    "subprocess": {"daemonise_outlive", "fork_bomb", "exec_shell", "run_setuid_binary", "exotic_sockets"},
    "network": {"exotic_sockets"},
}


def attack(power, *accept):
    """Collect an attack; `accept` are the kinds of failure that also count as contained."""

    def keep(function):
        POWER_ATTACKS[function.__name__] = (function, accept, power)
        return function

    return keep


def all_with(power):
    """Return all attacks to try with a power: name → (function, accepted failures)."""
    found = {name: attack for name, attack in ATTACKS.items() if name not in GRANTED[power]}
    for name, (function, accept, needs) in POWER_ATTACKS.items():
        if needs == power:
            found[name] = (function, accept)
    return found


@attack("subprocess")
def fork_bomb_to_the_limit(db, **canary):
    import os
    import time

    count = 0
    for _ in range(2000):
        try:
            if os.fork() == 0:
                time.sleep(30)
                os._exit(0)
            count += 1
        except OSError as error:
            return f"contained after {count}: {error}" if count < 100 else f"ESCAPED {count}"
    return f"ESCAPED {count}"


@attack("subprocess", "limit", "timeout")
def fork_bomb_of_the_shell(db, **canary):
    import subprocess
    import time

    subprocess.Popen(["/bin/sh", "-c", "bomb() { bomb | bomb & }; bomb"], stderr=subprocess.DEVNULL)
    time.sleep(1)
    return "contained: it ends with the run"


@attack("subprocess", "limit")
def memory_over_many_children(db, **canary):
    import os
    import time

    for _ in range(20):
        if os.fork() == 0:
            kept = bytearray(b"x") * (60 << 20)
            time.sleep(30)
            os._exit(kept[0])
    time.sleep(20)
    return "ESCAPED 1200 MB"


@attack("subprocess", "limit")
def memory_shared_anonymously_over_children(db, **canary):
    import mmap
    import os
    import time

    for _ in range(20):
        if os.fork() == 0:
            kept = mmap.mmap(-1, 60 << 20)
            for at in range(0, 60 << 20, 4096):
                kept[at] = 1
            time.sleep(30)
            os._exit(0)
    time.sleep(20)
    return "ESCAPED 1200 MB"


@attack("subprocess", "limit")
def memory_in_shared_memory_files(db, **canary):
    from multiprocessing.shared_memory import SharedMemory

    kept = []
    for _ in range(100):
        memory = SharedMemory(create=True, size=1 << 20)
        try:
            with open(f"/dev/shm/{memory.name}", "r+b") as file:
                file.write(b"x" * (1 << 20))
        except OSError as error:
            return f"contained {error}"
        kept.append(memory)
    return f"ESCAPED {len(kept)} MB where 32 are granted"


@attack("subprocess", "limit", "timeout")
def cpu_over_many_children(db, **canary):
    import os
    import signal
    import time

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in range(6):
        if os.fork() == 0:
            while True:
                pass
    time.sleep(30)
    return "ESCAPED"


@attack("subprocess")
def setuid_programs(db, **canary):
    import os
    import subprocess

    got = []
    for program in (
        ["su", "-c", "id -u"],
        ["mount", "-t", "tmpfs", "x", "."],
        ["passwd", "-d", "root"],
        ["sudo", "id", "-u"],
    ):
        try:
            done = subprocess.run(program, capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=2)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            got.append((program, done.stdout))
    if os.path.ismount("."):
        return f"contained, of {got}: nothing is mounted anew" if not os.access("/etc/shadow", os.R_OK) else "ESCAPED"
    return f"ESCAPED {got}" if got else "contained"


@attack("subprocess")
def setuid_copy_of_a_shell(db, **canary):
    import os
    import shutil
    import subprocess

    shutil.copy("/bin/sh", "shell")
    try:
        os.chmod("shell", 0o6755)
    except OSError:
        os.chmod("shell", 0o755)
    try:
        done = subprocess.run(["./shell", "-c", "id -u"], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"contained {error}"
    return f"ESCAPED {done.stdout} {done.stderr}"


@attack("subprocess")
def dropped_program_through_the_loader(db, **canary):
    import glob
    import shutil
    import subprocess

    shutil.copy("/bin/true", "dropped")
    for loader in glob.glob("/lib*/ld-linux*") + glob.glob("/lib/*/ld-linux*"):  # noqa: PTH207
        done = subprocess.run([loader, "./dropped"], capture_output=True, check=False)
        if done.returncode == 0:
            return f"ESCAPED by {loader}"
    return "contained"


@attack("subprocess")
def namespaces_by_programs(db, **canary):
    import shutil
    import subprocess

    got = []
    for program in (
        ["unshare", "-Ur", "id", "-u"],
        ["unshare", "-n", "true"],
        ["nsenter", "-t", "1", "-m", "true"],
        ["chroot", "/", "true"],
    ):
        if shutil.which(program[0]):
            done = subprocess.run(program, capture_output=True, check=False)
            if done.returncode == 0:
                got.append(program)
    return f"ESCAPED {got}" if got else "contained"


@attack("subprocess")
def kill_the_monitor(db, **canary):
    import os
    import signal
    import time

    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV, signal.SIGHUP):
        try:
            os.kill(1, number)
        except OSError:
            continue
    time.sleep(0.2)
    with open("/proc/1/stat") as file:
        state = file.read().rpartition(")")[2].split()[0]
    return "contained" if os.getppid() == 1 and state in "SRD" else f"ESCAPED {os.getppid()} {state}"


@attack("subprocess", "signal")
def kill_all_processes(db, **canary):
    import os
    import signal

    if os.fork() == 0:
        os.kill(-1, signal.SIGKILL)
        os._exit(0)
    os.wait()
    return "contained: it has killed what is its own"


@attack("subprocess")
def steal_orphans(db, **canary):
    """Become the one that daemons fall to, so that the monitor does not see them."""
    import ctypes
    import os
    import time

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            time.sleep(3600)
        os._exit(0)
    os.wait()
    return "contained: it ends with the run"


@attack("subprocess")
def sockets_of_the_host(db, **canary):
    import socket

    got = []
    for address in (canary["unix"], "\0" + canary["abstract"], canary["dgram"]):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            try:
                with socket.socket(socket.AF_UNIX, kind) as made:
                    made.connect(address)
                    got.append((address, kind))
            except OSError:
                continue
    return f"ESCAPED {got}" if got else "contained"


@attack("subprocess")
def internet_by_programs(db, **canary):
    import shutil
    import subprocess

    got = []
    tries = [
        ["curl", "-sm", "2", f"http://127.0.0.1:{canary['tcp']}"],
        ["bash", "-c", f"echo > /dev/tcp/127.0.0.1/{canary['tcp']}"],
    ]
    for program in tries:
        if shutil.which(program[0]):
            done = subprocess.run(program, capture_output=True, check=False, timeout=3)
            if done.returncode == 0:
                got.append(program)
    return f"ESCAPED {got}" if got else "contained"


@attack("subprocess", "sandbox", "exit", "signal")
def garbage_on_the_wire(db, **canary):
    import os

    if os.fork() == 0:
        os.write(3, b"\xff" * 4096)
        os._exit(0)
    os.wait()
    return "contained"


@attack("subprocess")
def traces_of_the_platform(db, **canary):
    """What `ps` shows."""
    import os

    seen = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    seen.append(file.read())
            except OSError:
                continue
    return "ESCAPED" if any(canary["secret"].encode() in text for text in seen) else "contained"


@attack("network")
def other_places(db, **canary):
    import socket

    got = []
    for host in ("127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::ffff:127.0.0.1", "localhost"):
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                with socket.socket(family) as made:
                    made.settimeout(1)
                    made.connect((host, canary["tcp"]))
                    got.append(host)
            except OSError:
                continue
    return f"ESCAPED {got}" if got else "contained"


@attack("network")
def around_the_filter(db, **canary):
    """By sockets of other kinds, by sending what connects, by listening."""
    import ctypes
    import socket
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    target = struct.pack("=H", 2) + struct.pack(">H4s8x", canary["tcp"], bytes([127, 0, 0, 1]))
    got = []
    with socket.socket() as made:
        for name, outcome in (
            ("fast open", libc.sendto(made.fileno(), b"x", 1, 0x20000000, target, 16)),
            ("listen", libc.listen(made.fileno(), 1)),
            ("bind", libc.bind(made.fileno(), target, 16)),
            ("deferred", libc.setsockopt(made.fileno(), 6, 30, ctypes.byref(ctypes.c_int(1)), 4)),
            ("upper layer", libc.setsockopt(made.fileno(), 6, 31, b"tls", 4)),
        ):
            if outcome >= 0:
                got.append(name)
    for kind in ((2, 2, 0), (2, 3, 1), (2, 1, 262), (10, 2, 0), (16, 3, 0), (17, 3, 0), (40, 1, 0), (38, 5, 0)):
        if libc.socket(*kind) >= 0:
            got.append(kind)  # noqa: PERF401
    return f"ESCAPED {got}" if got else "contained"
