"""Attempts to use more than was granted."""

# Handlers stand here as users write them: untyped, crude, and up to no good. Style is not what they are judged by.
# ruff: noqa: PTH102, PTH108, PTH101, PTH123, RET503, SIM115

# mypy: ignore-errors

from __future__ import annotations

from attacks.collecting import attack, machine, syscall, wait_for_the_end


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
            kept[-1][::4096] = b"x" * 4096  # in each page
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
    result, error = syscall(29 if machine() == "x86_64" else 194, 0, 64 << 20, 0o1600)
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


@attack("limit")
def disk_fill_below_where_paths_end(db, **canary):
    """In directories so deep that no path names them: who walks by path does not see what is there."""
    import os

    written = 0
    for _ in range(24):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    try:
        for number in range(64):
            with open(f"f{number}", "wb") as file:
                for _ in range(8):
                    written += file.write(b"x" * (1 << 20))
    except OSError as error:
        return f"contained at {written >> 20} MB: {error}"
    return wait_for_the_end(written)


@attack("limit")
def disk_fill_in_a_closed_directory(db, **canary):
    """In a directory that nobody may list, its owner included: who lists does not see what is there."""
    import os

    os.mkdir("closed")
    os.chmod("closed", 0o300)
    written = 0
    try:
        for number in range(64):
            with open(f"closed/f{number}", "wb") as file:
                for _ in range(8):
                    written += file.write(b"x" * (1 << 20))
    except OSError as error:
        return f"contained at {written >> 20} MB: {error}"
    return wait_for_the_end(written)


@attack("limit")
def disk_fill_without_names(db, **canary):
    """In files that are open but removed."""
    import os

    kept, written = [], 0
    try:
        for number in range(40):
            kept.append(open(f"f{number}", "wb"))
            os.unlink(f"f{number}")
            for _ in range(8):
                written += kept[-1].write(b"x" * (1 << 20))
            kept[-1].flush()
    except OSError as error:
        return f"contained at {written >> 20} MB: {error}"
    return wait_for_the_end(written)


@attack("limit")
def nest_without_end(db, **canary):
    """Thousands of directories, one in the other: who recurses to remove them does not get to the bottom."""
    import os

    for depth in range(1900):
        try:
            os.mkdir("d")
            os.chdir("d")
        except OSError as error:
            return f"contained at {depth}: {error}"
    return "contained if nothing is left behind"
