"""
What every peer's worker runs, and how its jobs are sent: the same for all.

Runs with the peers' interpreter; needs nothing but the standard library. A job notes when it was sent and when it
started in a file that is only appended to (16 bytes; one or two microseconds).
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import struct
import sys
import time

RECORD = struct.Struct("=qq")
PAYLOAD = {
    "metric": {"name": "meter-0042", "unit": "V", "tags": ["north", "substation", "phase-a"]},
    "results": [{"ts": "2026-01-02T03:04:05Z", "value": 230.1, "anomaly": 0.02}] * 2,
    "source": "benchmark",
}


def ran(sent_ns: int) -> None:
    """Note that a job started."""
    os.write(_file(), RECORD.pack(sent_ns, time.time_ns()))


@functools.cache
def _file() -> int:
    return os.open(os.environ["BENCH_OUT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def main() -> None:
    """`APP enqueue N` sends N jobs as fast as possible; `APP pace N RATE` sends them one by one in even time."""
    send = importlib.import_module(sys.argv[1]).send
    action, count = sys.argv[2], int(sys.argv[3])
    pause = 1 / float(sys.argv[4]) if action == "pace" else 0.0
    begun = time.perf_counter()
    for number in range(count):
        if pause:
            time.sleep(max(0.0, begun + number * pause - time.perf_counter()))
        send(time.time_ns(), PAYLOAD)
    print(json.dumps({"seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main()
