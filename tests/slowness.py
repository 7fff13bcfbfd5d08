"""
How many times slower this machine is than those that the limits of hostile handlers are meant for.

`EVENTPROC_TEST_SLOWER=15` is about right for a kernel in qemu without KVM: attacks then have the time to reach the
limit that must hold them, and random system calls are made for longer.
"""

from __future__ import annotations

import os

SLOWER = float(os.environ.get("EVENTPROC_TEST_SLOWER", "1"))
