"""A virtual environment for the peers, outside the project's own: made once, kept in the cache directory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"


def cache_directory() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "eventproc-benchmarks"


def peers_python() -> Path:
    """Return the interpreter that has the peers installed."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + version.encode()).hexdigest()[:12]
    home = cache_directory() / f"venv-{version}-{digest}"
    python = home / "bin" / "python"
    done = home / "complete"
    if not done.exists():
        print(f"installing the peers into {home} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", REQUIREMENTS], check=True)
        done.touch()
    return python
