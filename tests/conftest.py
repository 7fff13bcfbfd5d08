"""What all tests share."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# tests/ is no package (importlib mode); this lets tests import the helper modules that stand beside this file.
sys.path.insert(0, str(Path(__file__).parent))

# What a shell runs in the background ignores Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more of what else the machine does than of us.
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may pass or fail by what the developer's shell has set."""
    for name in list(os.environ):
        if name.startswith(("EVENTPROC_", "BTRDB_")) and not name.startswith("EVENTPROC_TEST_"):
            monkeypatch.delenv(name)
