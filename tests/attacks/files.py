"""Attacks on files: of the system, of the platform, of other runs."""

# Handlers stand here as users write them: untyped, crude, and up to no good. Style is not what they are judged by.
# ruff: noqa: PTH101, PTH104, PTH116, PTH118, PTH120, PTH123, PTH208, PTH211

# mypy: ignore-errors

from __future__ import annotations

from attacks.collecting import attack, json_file, try_read, try_write


@attack()
def read_shadow(db, **canary):
    return try_read(["/etc/shadow", "/etc/gshadow", "/etc/sudoers"])


@attack()
def read_platform_file(db, **canary):
    return try_read([canary["file"]])


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
    return try_read([*paths, "/proc/kcore", "/proc/kallsyms_", "/proc/kmsg", "/proc/1/mem", "/proc/1/environ"])


@attack()
def open_dev_nodes(db, **canary):
    return try_read(
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
    return try_write(
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


@attack()
def modify_existing_code(db, **canary):
    import os

    path, got = json_file(), []
    mode = os.stat(path).st_mode & 0o7777
    for name, act in (
        ("write", lambda: open(path, "r+b").close()),
        ("chmod", lambda: os.chmod(path, mode)),
        ("chown", lambda: os.chown(path, os.stat(path).st_uid, os.stat(path).st_gid)),
        ("utime", lambda: os.utime(path)),
        ("xattr", lambda: os.setxattr(path, "user.x", b"y")),
        ("truncate", lambda: os.truncate(path, os.stat(path).st_size)),
        ("rename", lambda: os.rename(path, path + "x")),
    ):
        before = os.stat(path).st_ctime_ns
        try:
            act()
        except OSError:
            continue
        if name in {"write", "rename"} or os.stat(path).st_ctime_ns != before:  # it may only have been pretended
            got.append(name)
    return f"ESCAPED {got}" if got else "contained"


@attack()
def modify_platform_file(db, **canary):
    """Change what can be changed of a file of the platform's own user without opening it for writing."""
    import fcntl
    import os

    path, got = canary["file"], []

    def truncate_while_opening():
        os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))

    for name, act in (
        ("chmod", lambda: os.chmod(path, 0o777)),
        ("chown", lambda: os.chown(path, -1, os.getgid())),
        ("utime", lambda: os.utime(path, (1, 1))),
        ("xattr", lambda: os.setxattr(path, "user.x", b"y")),
        ("truncate", lambda: os.truncate(path, 1)),
        ("truncate while opening", truncate_while_opening),
        ("flags", lambda: fcntl.ioctl(os.open(path, os.O_RDONLY), 0x40086602, b"\x40\0\0\0\0\0\0\0")),
        ("directory", lambda: os.chmod(os.path.dirname(path), 0o777)),
    ):
        try:
            before = os.stat(path).st_ctime_ns
            act()
        except OSError:
            continue
        if os.stat(path).st_ctime_ns != before or name == "flags":
            got.append(name)
    return f"ESCAPED {got}" if got else "contained"


@attack()
def watch_host(db, **canary):
    """Be told of what happens in directories that can not be listed."""
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    watcher = libc.inotify_init()
    shared = ["/root", "/home", "/var", "/etc"] if canary["level"] == "B" else []  # else they are our own, if there
    paths = [os.path.dirname(canary["file"]), canary["file"], *shared]
    got = [path for path in paths if libc.inotify_add_watch(watcher, path.encode(), 0xFFF) >= 0]
    return f"ESCAPED watches {got}" if got else "contained"


@attack()
def lease_files_of_others(db, **canary):
    """With a lease on it a file is not opened by anybody else for 45 seconds: a module, and nothing starts any more."""
    import fcntl
    import os

    # A kernel that asks whose file it is refuses these of root; it must not come to that question.
    got = []
    for name, path, command, argument in (
        ("read lease", json_file(), 1024, 0),
        ("write lease", json_file(), 1024, 1),
        ("directory watch", os.path.dirname(json_file()), 1026, 0x8000003F),
        ("own file", "leased", 1024, 0),
    ):
        fd = os.open(path, os.O_RDONLY | (os.O_CREAT if name == "own file" else 0), 0o600)
        try:
            fcntl.fcntl(fd, command, argument)
            got.append(name)
        except OSError as error:
            if error.errno != 1:
                got.append((name, error.errno))
    return f"ESCAPED {got}" if got else "contained"


@attack()
def symlink_scratch(db, **canary):
    import os

    os.symlink("/etc/shadow", "a")
    os.symlink(canary["file"], "b")
    os.symlink("/proc/1/root", "c")
    return try_read(["a", "b", f"c{canary['file']}"])


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
