"""The unmodified PyPI package btrdbextras, and other Pythons with dill, each in a virtual environment of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from servers import missing
from serving import Served

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "btrdbextras"
SHARED = (
    "btrdb==5.11.7",
    "btrdbextras==5.11.9",
    "certifi==2026.10.18",
    "grpcio==1.78.2",
    "pytz==2026.6",
    "PyYAML==6.0.3",
    "tabulate==0.8.9",
    "typing_extensions==4.16.0",
)
# What setup.py of the package asks for; its old generated code then needs the variable.
STRICT = (*SHARED, "dill==0.3.2", "grpcio-tools==1.78.2", "protobuf==6.33.6", "sphinx_glpi_theme==0.6")
STRICT_ENVIRON = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
# What works best.
RUNNABLE = (*SHARED, "dill==0.4.1", "protobuf==3.20.3")


def environment(python: str, pins: Sequence[str]) -> Path:
    """Return the interpreter of a virtual environment with exactly those packages, made once and kept."""
    digest = hashlib.sha256("\n".join([python, *pins]).encode()).hexdigest()[:12]
    place = CACHE / digest
    interpreter = place / "bin" / "python"
    if (place / "complete").exists():
        return interpreter
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([python, "-m", "venv", place], check=True, capture_output=True)
    command = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *pins]
    if any(pin in ("dill==0.3.2", "PyYAML==6.0.3") for pin in pins):
        command[4:4] = ["--prefer-binary"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        missing(f"the client (pip says: {done.stderr.strip()[-300:]})", " ".join(command))
    (place / "complete").touch()
    return interpreter


def find_python(version: str) -> str | None:
    """Return an interpreter of that version, from PATH or from pyenv."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    homes = [Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"]
    candidates = [str(path) for home in homes for path in sorted(home.glob(f"{version}.*/bin/python"), reverse=True)]
    for candidate in [*candidates, shutil.which(f"python{version}")]:
        if (
            candidate
            and not subprocess.run([candidate, "-c", "import venv"], capture_output=True, check=False).returncode
        ):
            return candidate
    return None


@dataclass
class Client:
    """A user of btrdbextras, pointed at a running platform."""

    python: Path
    served: Served
    endpoint: str = ""
    key: str = ""
    environ: dict[str, str] = field(default_factory=dict)

    def run(self, program: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a program as `python FILE` does."""
        port = self.served.endpoints["grpc"].rpartition(":")[2]
        file = self.served.data.parent / f"program-{hashlib.sha256(program.encode()).hexdigest()[:8]}.py"
        file.write_text(program)
        return subprocess.run(
            [self.python, file],
            env={
                "PATH": os.environ["PATH"],
                "BTRDB_ENDPOINTS": self.endpoint or f"localhost:{port}",
                "BTRDB_API_KEY": self.key or self.served.key,
                "BTRDB_CA_BUNDLE": str(self.served.data / "certs" / "ca.pem"),
                **self.environ,
                **environ,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def output(self, program: str, **environ: str) -> str:
        """Run a program that must work; return what it printed."""
        done = self.run(program, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout
