"""Attacks on the kernel: calls that no handler needs, privileges, limits."""

# Handlers stand here as users write them: untyped, crude, and up to no good. Style is not what they are judged by.
# ruff: noqa: PTH109, PTH123, RUF034, RUF059

# mypy: ignore-errors

from __future__ import annotations

from attacks.collecting import attack, machine, run_machine_code, syscall


@attack()
def keyrings(db, **canary):
    add, keyctl = (248, 250) if machine() == "x86_64" else (217, 219)
    result, error = syscall(add, b"user", b"canary", b"x", 1, -3)
    other, _ = syscall(keyctl, 0, -4, 0)
    return f"contained errno {error}" if result < 0 and other < 0 else "ESCAPED"


@attack()
def io_uring(db, **canary):
    import ctypes

    result, error = syscall(425, 4, ctypes.create_string_buffer(256))
    return f"contained errno {error}" if result < 0 and error in (1, 38) else f"ESCAPED {result} {error}"


@attack()
def take_all_requests_of_asynchronous_io(db, **canary):
    """The kernel has 65,536 of them for all processes of a host: databases do not start when there are none left."""
    import ctypes

    arm, context = machine() != "x86_64", ctypes.c_ulong(0)
    result, error = syscall(0 if arm else 206, 1000, ctypes.byref(context))
    return f"contained errno {error}" if result < 0 else "ESCAPED"


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
        result, error = syscall(number, *[ctypes.c_void_p(None)] * 5)
        if result >= 0 or error not in (1, 38):
            got.append((name, result, error))
    return f"ESCAPED {got}" if got else "contained"


@attack()
def new_userns(db, **canary):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    got = [flag for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000) if libc.unshare(flag) == 0]
    result, _ = syscall(56 if machine() == "x86_64" else 220, 0x10000000 | 17, 0, 0, 0, 0)
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


@attack("signal")
def int80_syscall(db, **canary):
    if machine() != "x86_64":
        return "contained: another machine"
    return f"ESCAPED {run_machine_code(bytes.fromhex('b814000000cd80c3'))}"  # getpid by the 32-bit door


@attack("signal")
def x32_syscall(db, **canary):
    if machine() != "x86_64":
        return "contained: another machine"
    return f"ESCAPED {syscall(0x40000000 | 39)}"


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
