"""
Handlers that try to get out. Each returns what it achieved: "contained ..." or "ESCAPED ...".

Run as a program (by the tests, as root and as an ordinary user) it registers them all with one sandbox and prints
what became of each as JSON.
"""

# Handlers stand here as users write them: untyped, crude, and up to no good. Style is not what they are judged by.
# ruff: noqa: B023, PLW0108, PT018, PTH101, PTH104, PTH109, PTH116, PTH118, PTH120, PTH123, PTH208, PTH211, RET503, RUF034, RUF059, SIM115

# mypy: ignore-errors

from __future__ import annotations

import json
import sys

ATTACKS = {}


def attack(*accept):
    """Collect an attack; `accept` are the kinds of failure that also count as contained."""

    def keep(function):
        ATTACKS[function.__name__] = (function, accept)
        return function

    return keep


def _try_read(paths):
    got = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                file.read(64)
            got.append(path)
        except OSError:
            continue
    return "ESCAPED read " + ", ".join(got) if got else "contained"


def _try_write(paths):
    got = []
    for path in paths:
        try:
            with open(path, "ab") as file:
                file.write(b"")
            got.append(path)
        except OSError:
            continue
    return "ESCAPED opened for writing " + ", ".join(got) if got else "contained"


def _syscall(number, *args):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return result, ctypes.get_errno()


# ---------------------------------------------------------------------- files


@attack()
def read_shadow(db, **canary):
    return _try_read(["/etc/shadow", "/etc/gshadow", "/etc/sudoers"])


@attack()
def read_platform_file(db, **canary):
    return _try_read([canary["file"]])


@attack()
def list_host(db, **canary):
    import os
    import sys

    def leads_to_python(path):
        return any((prefix + "/").startswith(path + "/") for prefix in (sys.prefix, sys.base_prefix))

    seen = []
    for path in ("/home", "/root", "/var", "/etc/cron.d", "/boot", "/srv", os.path.dirname(canary["file"])):
        try:
            if [name for name in os.listdir(path) if not leads_to_python(f"{path}/{name}")]:
                seen.append(path)
        except OSError:
            continue
    return f"ESCAPED listed {seen}" if seen else "contained"


@attack()
def read_env_of_others(db, **canary):
    import os

    for pid in [*range(1, 400), *canary["pids"]]:
        for name in ("environ", "cmdline", "maps"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    data = file.read(1 << 20)
            except OSError:
                continue
            if canary["secret"].encode() in data or pid in canary["pids"]:
                return f"ESCAPED /proc/{pid}/{name}"
    return f"contained, own pid {os.getpid()}"


@attack()
def own_env_secrets(db, **canary):
    import os

    return "ESCAPED" if canary["secret"] in repr(os.environ) else f"contained {sorted(os.environ)}"


@attack()
def scan_own_memory(db, **canary):
    mirror = canary["secret"][::-1].encode()[::-1]  # the one copy that the event itself brought
    found = 0
    try:
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
            for line in maps:
                span, rights = line.split()[:2]
                if not rights.startswith("r") or "[v" in line:
                    continue
                start, end = (int(x, 16) for x in span.split("-"))
                try:
                    memory.seek(start)
                    found += memory.read(min(end - start, 1 << 26)).count(b"ENVIRONMENT=" + mirror[:0] + b"canary")
                except (OSError, ValueError):
                    continue
    except OSError as error:
        return f"contained {error}"
    return "contained" if found <= 2 else f"ESCAPED {found} copies of the platform's environment"


@attack()
def proc_root_tricks(db, **canary):
    paths = []
    for pid in ("1", "self", "2", "thread-self"):
        paths += [f"/proc/{pid}/root{canary['file']}", f"/proc/{pid}/cwd/../../../../..{canary['file']}"]
    return _try_read([*paths, "/proc/kcore", "/proc/kallsyms_", "/proc/kmsg", "/proc/1/mem", "/proc/1/environ"])


@attack()
def open_dev_nodes(db, **canary):
    return _try_read(
        ["/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/tty"]
    )


@attack()
def mknod_device(db, **canary):
    import os
    import stat

    try:
        os.mknod("node", 0o600 | stat.S_IFBLK, os.makedev(254, 0))
    except OSError as error:
        return f"contained {error}"
    return "ESCAPED"


@attack()
def write_kernel_knobs(db, **canary):
    return _try_write(
        [
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/vm/overcommit_memory",
            "/proc/sysrq-trigger",
            "/sys/kernel/uevent_helper",
            "/sys/fs/cgroup/cgroup.procs",
            "/proc/sys/kernel/modprobe",
        ]
    )


@attack()
def write_site_packages(db, **canary):
    import os
    import sys

    got = []
    for path in [*sys.path, sys.prefix, os.path.dirname(json_file())]:
        try:
            with open(os.path.join(path, "evil.pth"), "w"):
                got.append(path)
        except OSError:
            continue
    return f"ESCAPED {got}" if got else "contained"


def json_file():
    import json

    return json.__file__


@attack()
def modify_existing_code(db, **canary):
    import os

    path, got = json_file(), []
    before = os.stat(path).st_mode & 0o7777
    for name, act in (
        ("write", lambda: open(path, "r+b").close()),
        ("chmod", lambda: os.chmod(path, before)),
        ("chown", lambda: os.chown(path, os.stat(path).st_uid, os.stat(path).st_gid)),
        ("utime", lambda: os.utime(path)),
        ("xattr", lambda: os.setxattr(path, "user.x", b"y")),
        ("truncate", lambda: os.truncate(path, os.stat(path).st_size)),
        ("rename", lambda: os.rename(path, path + "x")),
    ):
        try:
            act()
            got.append(name)
        except OSError:
            continue
    return f"ESCAPED {got}" if got else "contained"


@attack()
def symlink_scratch(db, **canary):
    import os

    os.symlink("/etc/shadow", "a")
    os.symlink(canary["file"], "b")
    os.symlink("/proc/1/root", "c")
    return _try_read(["a", "b", f"c{canary['file']}"])


@attack()
def scratch_persistence(db, **canary):
    import os

    left = os.listdir(".")
    with open("left-behind", "w") as file:
        file.write("x")
    return f"ESCAPED found {left}" if left else "contained"


@attack()
def dev_shm(db, **canary):
    import os

    try:
        names = os.listdir("/dev/shm")
        with open("/dev/shm/ep-canary", "w"):
            names.append("ep-canary")
    except OSError as error:
        return f"contained {error}"
    return "contained private" if names == ["ep-canary"] else f"ESCAPED {names}"


# ---------------------------------------------------------------------- network


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


# ---------------------------------------------------------------------- kernel


@attack()
def keyrings(db, **canary):
    add, keyctl = (248, 250) if machine() == "x86_64" else (217, 219)
    result, error = _syscall(add, b"user", b"canary", b"x", 1, -3)
    other, _ = _syscall(keyctl, 0, -4, 0)
    return f"contained errno {error}" if result < 0 and other < 0 else "ESCAPED"


def machine():
    import platform

    return platform.machine()


@attack()
def io_uring(db, **canary):
    import ctypes

    result, error = _syscall(425, 4, ctypes.create_string_buffer(256))
    return f"contained errno {error}" if result < 0 and error in (1, 38) else f"ESCAPED {result} {error}"


@attack()
def kernel_surface(db, **canary):
    import ctypes

    calls = {
        "x86_64": {
            "bpf": 321,
            "perf_event_open": 298,
            "userfaultfd": 323,
            "init_module": 175,
            "kexec_load": 246,
            "swapon": 167,
            "reboot": 169,
            "syslog": 103,
            "acct": 163,
            "iopl": 172,
            "modify_ldt": 154,
            "name_to_handle_at": 303,
            "open_by_handle_at": 304,
            "fanotify_init": 300,
            "quotactl": 179,
            "move_pages": 279,
            "remap_file_pages": 216,
            "pidfd_open": 434,
            "fsopen": 430,
            "future": 600,
        },
        "aarch64": {"bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "future": 600},
    }[machine()]
    got = []
    for name, number in calls.items():
        result, error = _syscall(number, *[ctypes.c_void_p(None)] * 5)
        if result >= 0 or error not in (1, 38):
            got.append((name, result, error))
    return f"ESCAPED {got}" if got else "contained"


@attack()
def new_userns(db, **canary):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    got = [flag for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000) if libc.unshare(flag) == 0]
    result, _ = _syscall(56 if machine() == "x86_64" else 220, 0x10000000 | 17, 0, 0, 0, 0)
    if result == 0:
        import os

        os._exit(0)
    return f"ESCAPED {got} {result}" if got or result > 0 else "contained"


@attack()
def mount_and_chroot(db, **canary):
    import ctypes
    import os

    libc, got = ctypes.CDLL(None, use_errno=True), []
    if libc.mount(b"tmpfs", os.getcwd().encode(), b"tmpfs", 0, None) == 0:
        got.append("mount")
    if libc.umount2(b"/proc", 2) == 0:
        got.append("umount")
    try:
        os.chroot(".")
        got.append("chroot")
    except OSError:
        pass
    return f"ESCAPED {got}" if got else "contained"


def run_machine_code(code):
    import ctypes
    import mmap

    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    return ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()


@attack("signal")
def int80_syscall(db, **canary):
    if machine() != "x86_64":
        return "contained: another machine"
    return f"ESCAPED {run_machine_code(bytes.fromhex('b814000000cd80c3'))}"  # getpid by the 32-bit door


@attack("signal")
def x32_syscall(db, **canary):
    if machine() != "x86_64":
        return "contained: another machine"
    return f"ESCAPED {_syscall(0x40000000 | 39)}"


@attack()
def raise_limits(db, **canary):
    import resource

    got = []
    for which in range(16):
        try:
            soft, hard = resource.getrlimit(which)
            if hard != resource.RLIM_INFINITY:
                resource.setrlimit(which, (hard + 1, hard + 1))
                got.append(which)
        except (ValueError, OSError):
            continue
    return f"ESCAPED {got}" if got else "contained"


@attack()
def tty_inject(db, **canary):
    import fcntl

    got = []
    for path in ("/dev/tty", "/dev/pts/0", "/proc/self/fd/0"):
        try:
            with open(path, "rb", 0) as file:
                fcntl.ioctl(file, 0x5412, b"x")
                got.append(path)
        except OSError:
            continue
    return f"ESCAPED {got}" if got else "contained"


@attack()
def privileges(db, **canary):
    import os

    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    got = []
    for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
        allowed = 1 << 2 if canary["level"] == "B" else 1 << 2  # reading past permissions, where Landlock decides
        if int(status[name], 16) & ~allowed and not (name == "CapBnd" and canary["level"] == "B" and canary["user"]):
            got.append(name + status[name].strip())
    if status["NoNewPrivs"].strip() != "1" or status["Seccomp"].strip() != "2":
        got.append("no_new_privs or seccomp")
    for act in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
        try:
            act()
            got.append("became root")
        except OSError:
            continue
    return f"ESCAPED {got}" if got else f"contained uid {os.getuid()}"


# ---------------------------------------------------------------------- other processes


@attack()
def ptrace_parent(db, **canary):
    import os

    number = 101 if machine() == "x86_64" else 117
    got = [pid for pid in (1, os.getppid(), *canary["pids"]) if _syscall(number, 16, pid, 0, 0)[0] == 0]
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
        result, error = _syscall(number, pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        if result >= 0 or error == 14:
            got.append(pid)
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


# ---------------------------------------------------------------------- resources


@attack("limit", "exception")
def thread_bomb(db, **canary):
    import threading

    stop, count = threading.Event(), 0
    try:
        for _ in range(5000):
            threading.Thread(target=stop.wait, daemon=True).start()
            count += 1
    except RuntimeError as error:
        stop.set()
        return f"contained after {count}: {error}"
    stop.set()
    return f"ESCAPED {count}"


@attack("limit")
def memory_bomb(db, **canary):
    kept = []
    while True:
        kept.append(bytearray(16 << 20))
        if len(kept) > 100:
            return "ESCAPED"


@attack("limit")
def memory_bomb_mmap_shared(db, **canary):
    import mmap

    kept = []
    try:
        while len(kept) < 100:
            kept.append(mmap.mmap(-1, 16 << 20))
            kept[-1].write(b"x" * (16 << 20))
    except OSError as error:
        return f"contained at {len(kept) * 16} MB {error}"
    return "ESCAPED"


@attack()
def memory_bomb_memfd(db, **canary):
    import os

    try:
        os.memfd_create("x")
    except OSError as error:
        return f"contained {error}"
    return "ESCAPED"


@attack()
def memory_bomb_sysv(db, **canary):
    result, error = _syscall(29 if machine() == "x86_64" else 194, 0, 64 << 20, 0o1600)
    return f"contained errno {error}" if result < 0 else "ESCAPED"


@attack("limit")
def memory_bomb_socket_buffers(db, **canary):
    import socket

    kept, size = [], 0
    try:
        while len(kept) < 5000:
            pair = socket.socketpair()
            pair[0].setblocking(False)
            kept.append(pair)
            try:
                while True:
                    size += pair[0].send(b"x" * 65536)
            except BlockingIOError:
                continue
    except OSError as error:
        kept.clear()
        return f"contained at {size >> 20} MB: {error}" if size < 256 << 20 else f"ESCAPED {size}"
    return f"ESCAPED {size}"


@attack("limit", "timeout")
def disk_fill_scratch(db, **canary):
    import time

    written = 0
    for n in range(1000):
        with open(f"fill{n}", "wb") as file:
            file.write(b"x" * (4 << 20))
        written += 4
        if written > 40:
            time.sleep(1)
        if written > 400:
            return f"ESCAPED {written} MB"


@attack("limit")
def one_huge_file(db, **canary):
    with open("huge", "wb") as file:
        file.writelines(b"x" * (4 << 20) for _ in range(100))
    return "ESCAPED"


@attack("limit", "timeout")
def inode_bomb(db, **canary):
    import time

    for n in range(20_000):
        open(f"i{n}", "w").close()
        if n > 1000 and n % 500 == 0:
            time.sleep(0.3)
    return "ESCAPED"


@attack("limit")
def fd_exhaustion(db, **canary):
    kept = [open("/dev/null") for _ in range(5000)]
    return f"ESCAPED {len(kept)}"


@attack("limit", "timeout")
def cpu_spin_ignore_signals(db, **canary):
    import signal

    for number in range(1, 32):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    while True:
        pass


@attack("timeout")
def sleep_ignore_signals(db, **canary):
    import signal
    import time

    for number in range(1, 32):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    while True:
        time.sleep(100)


# ---------------------------------------------------------------------- the way back


@attack()
def inherited_fds(db, **canary):
    import os

    seen = {}
    for fd in range(256):
        try:
            seen[fd] = os.fstat(fd).st_mode & 0o170000
        except OSError:
            continue
    return "contained" if set(seen) <= {0, 1, 2, 3} else f"ESCAPED {seen}"


@attack()
def flood_stdout(db, **canary):
    import time

    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        print("x" * 10_000)
    return "contained"


@attack()
def weird_output(db, **canary):
    import os

    os.write(1, b"\xff\x00\x1b[2J\xed\xa0\x80")
    print("\ud800 \x00")
    return "contained \ud800 \x00"


@attack("result")
def giant_result(db, **canary):
    return "x" * (5 << 20)


@attack("result")
def pickle_result(db, **canary):
    class Evil:
        def __reduce__(self):
            import os

            return os.system, ("true",)

    return Evil()


@attack("result")
def nested_result(db, **canary):
    value = []
    for _ in range(100_000):
        value = [value]
    return value


@attack("exit")
def silent_exit(db, **canary):
    import os

    os._exit(0)


@attack("signal")
def segfault(db, **canary):
    import ctypes

    ctypes.string_at(1)


@attack("signal")
def abort(db, **canary):
    import os

    os.abort()


@attack("exit")
def system_exit(db, **canary):
    raise SystemExit


@attack("exception")
def keyboard_interrupt(db, **canary):
    raise KeyboardInterrupt


@attack("exception")
def huge_exception(db, **canary):
    raise ValueError("x" * (50 << 20))


@attack("exception")
def evil_exception(db, **canary):
    class Evil(Exception):
        def __str__(self):
            raise self

    raise Evil


@attack("exception", "limit", "signal", "timeout")
def deep_recursion(db, **canary):
    import sys

    sys.setrecursionlimit(1 << 30)

    def down(n):
        return down(n + 1)

    return down(0)


@attack()
def read_stdin(db, **canary):
    import sys

    data = sys.stdin.read(1)
    return "contained" if data == "" else "ESCAPED"


@attack()
def linger_threads(db, **canary):
    import atexit
    import threading
    import time

    atexit.register(time.sleep, 3600)
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return "contained"


@attack()
def patch_runner(db, **canary):
    import json

    json.dumps = json.loads = None
    for name, module in list(__import__("sys").modules.items()):
        if name.startswith("_eventproc_child"):
            for key in list(vars(module)):
                if key.startswith("MAX_"):
                    setattr(module, key, 1 << 60)
    return "contained"


@attack()
def see_patch(db, **canary):
    import json

    return "contained" if json.dumps is not None else "ESCAPED"


@attack()
def fingerprint(db, **canary):
    import os
    import platform

    return f"contained {platform.node() if canary['level'] == 'A' else ''} {os.getuid()}"


# ---------------------------------------------------------------------- ordinary work must go on


@attack()
def ordinary_work(db, **canary):
    import asyncio
    import concurrent.futures
    import decimal
    import sqlite3
    import ssl
    import tempfile
    import threading
    import uuid
    import zoneinfo

    import numpy as np

    with tempfile.TemporaryDirectory() as directory, open(f"{directory}/x", "w") as file:
        file.write("x")
    base = sqlite3.connect("work.db")
    base.execute("create table t (a)")
    base.execute("insert into t values (1)")
    base.commit()
    total = base.execute("select sum(a) from t").fetchone()[0]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        total += sum(pool.map(int, "1234"))
    total += asyncio.run(asyncio.sleep(0, 1))
    lock = threading.Lock()
    with lock:
        total += int(np.linalg.solve(np.eye(50), np.ones(50)).sum()) + int(np.fft.fft(np.ones(8)).real[0])
    ssl.create_default_context()
    zoneinfo.ZoneInfo("UTC")
    uuid.uuid4(), decimal.Decimal(1)
    import colorsys
    import wave

    assert colorsys and wave
    return f"contained {total}"


LIMITS = {
    "timeout_s": 4.0,
    "cpu_s": 2.0,
    "memory_bytes": 400 << 20,
    "file_bytes": 16 << 20,
    "open_files": 64,
    "processes": 40,
    "scratch_bytes": 32 << 20,
    "scratch_files": 2000,
}


def by_value(function):
    """Make a copy that travels whole, with the helpers of this module."""
    import types

    helpers = {
        name: value
        for name, value in globals().items()
        if isinstance(value, types.FunctionType)
        and name in ("_try_read", "_try_write", "_syscall", "machine", "json_file", "run_machine_code")
    }
    scope = {"__builtins__": __builtins__, "__name__": "__main__"}
    for name, helper in helpers.items():
        scope[name] = types.FunctionType(helper.__code__, scope, name)
        scope[name].__module__ = "__main__"
    copy = types.FunctionType(function.__code__, scope, function.__name__)
    copy.__module__ = "__main__"
    copy.__qualname__ = f"<locals>.{function.__name__}"
    return copy


def main():
    """Run all attacks at one level and with one power, and print what became of each."""
    from concurrent.futures import ThreadPoolExecutor
    from dataclasses import replace

    from sandbox_power_attacks import all_with
    from sandbox_world import Session, call, program

    from eventproc.model import Limits, NetworkGrant, NetworkPolicy, Policy
    from eventproc.sandbox.forkserver import ForkServerSandbox

    order = json.loads(sys.stdin.read())
    power = order["power"]
    policy = Policy(network=NetworkPolicy(grant=NetworkGrant.ANY))
    sandbox = ForkServerSandbox(levels=[order["level"]], policy=policy)
    report = sandbox.report()
    results = {"report": {"level": report.level, "layers": report.layers, "missing": dict(report.missing)}}

    def fight(function):
        asked = replace(
            program(by_value(function)),
            allow_subprocess=power == "subprocess",
            network=("127.0.0.1:9",) if power == "network" else (),
        )
        child = sandbox.spawn(asked, Limits(**LIMITS))
        (outcome,) = child.execute([(call(1, order["canary"]), Session())])
        child.close()
        failure = outcome.failure
        return {
            "result": None if outcome.result_json is None else json.loads(outcome.result_json),
            "failure": None if failure is None else [failure.kind, failure.message[:500]],
        }

    attacks = all_with(power)
    with ThreadPoolExecutor(3) as pool:  # many only wait for their end
        fought = pool.map(lambda name: fight(attacks[name][0]), attacks)
        results.update(zip(attacks, fought, strict=True))
    sandbox.close()
    print(json.dumps(results))


if __name__ == "__main__":
    sys.modules["sandbox_attacks"] = sys.modules["__main__"]
    main()
