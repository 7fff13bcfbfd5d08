"""Attacks on the way back to the worker; and ordinary work, which must go on."""

# Handlers stand here as users write them: untyped, crude, and up to no good. Style is not what they are judged by.
# ruff: noqa: PT018, PTH123

# mypy: ignore-errors

from __future__ import annotations

from attacks.collecting import attack


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


@attack()
def ordinary_work(db, **canary):
    import asyncio
    import concurrent.futures
    import decimal
    import pathlib
    import shutil
    import sqlite3
    import ssl
    import tempfile
    import threading
    import uuid
    import zoneinfo

    import numpy as np

    with tempfile.TemporaryDirectory() as directory, open(f"{directory}/x", "w") as file:
        file.write("x")
        file.flush()
        shutil.copy2(file.name, "copied")
        for kind, name in (("zip", "packed.zip"), ("gztar", "packed.tar.gz")):
            shutil.make_archive("packed", kind, directory)
            shutil.unpack_archive(name, "unpacked")
            assert pathlib.Path("unpacked/x").read_text() == "x"
            shutil.rmtree("unpacked")
    for _ in range(2):
        pathlib.Path("touched").touch()
    assert pathlib.Path("touched").stat().st_size == 0
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
