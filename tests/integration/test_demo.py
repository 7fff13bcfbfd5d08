"""`scripts/run --demo` does the main job, checks it, and says so by its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import eventproc

ROOT = Path(eventproc.__file__).parents[1]
DEMO = ROOT / "scripts" / "demo.py"

pytestmark = pytest.mark.skipif(not DEMO.is_file(), reason="the demo is part of the source tree, not of the package")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(DEMO.parent)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=240, env=environ, check=False
    )


def assert_everything_was_shown(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Mail: [eventproc] waveform-report succeeded on ctingress.on_complete" in done.stdout
    assert "Mail: [eventproc] fault-locator failed on ctingress.on_complete" in done.stdout
    assert "the .cfg announces 800: it seems cut off" in done.stdout
    assert "did not run, as it should" in done.stdout
    assert "water-report" in done.stdout
    assert "2022-03-24 found, 2022-03-29 found, 2022-04-03 found, 2022-04-27 found" in " ".join(done.stdout.split())
    assert "All of it was checked" in done.stdout


@pytest.mark.slow
def test_the_demo_passes_from_beginning_to_end() -> None:
    assert_everything_was_shown(run(str(DEMO)))


@pytest.mark.slow
def test_the_demo_passes_without_the_records_from_the_network() -> None:
    nowhere = "demo.SAMPLES = demo.demo_metrics.SERIES = pathlib.Path('/none')"
    done = run("-c", f"import demo, pathlib, sys; {nowhere}; sys.exit(demo.main())")
    assert_everything_was_shown(done)
    assert "2 generated" in done.stdout


@pytest.mark.slow
def test_a_demo_that_goes_wrong_says_why_and_fails() -> None:
    done = run("-c", "import demo, sys; demo.PATIENCE_S = 0.0; sys.exit(demo.main())")
    assert done.returncode == 1
    assert "The demonstration failed: eventproc serve did not become ready" in done.stdout
