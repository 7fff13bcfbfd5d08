"""The public API's types, checked as a user's type checker checks them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_public_api_is_typed_from_outside(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", "--explicit-package-bases"),
            *("--cache-dir", str(ROOT / ".mypy_cache"), "--config-file", str(ROOT / "setup.cfg")),
            str(ROOT / "tests" / "typing" / "public_api.py"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
