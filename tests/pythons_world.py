"""Other interpreters and small packages for tests: wheels made on the spot, and blobs made by another Python."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import json
import os
import socket
import subprocess
import textwrap
import zipfile
from pathlib import Path

import pytest

from eventproc.sandbox.installer import InstallSettings
from eventproc.sandbox.interpreters import RUNNING, Interpreter, Interpreters

OLD_DILL = Path(importlib.util.find_spec("dill").submodule_search_locations[0]).parent
MAKE = """
import base64, sys
sys.path.append({dill!r})
import dill
{source}
sys.stdout.write(base64.b64encode(dill.dumps(handler, recurse=True)).decode())
"""


@functools.lru_cache(maxsize=1)
def others() -> dict[str, Interpreter]:
    """Return the interpreters of this host but our own, by version."""
    return {version: found for version, found in Interpreters().usable().items() if version != RUNNING}


def another(*, oldest: str = "3.9") -> Interpreter:
    """Return one of them, a dill of today can be used with; on a host that has none the test is skipped."""
    fit = [found for version, found in others().items() if tuple(map(int, version.split("."))) >= version_of(oldest)]
    if not fit:
        message = "no second CPython 3.9 or newer is installed; `uv python install 3.12` or pyenv would give one"
        if os.environ.get("EVENTPROC_TEST_NEEDS_PYTHONS"):
            pytest.fail(message)
        pytest.skip(message)
    return fit[-1]


def version_of(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def blob_of(interpreter: Interpreter, source: str, *, dill: Path = OLD_DILL) -> bytes:
    """Have that interpreter pickle the function `handler` of a source text."""
    program = MAKE.format(dill=str(dill), source=textwrap.dedent(source))
    done = subprocess.run([interpreter.path, "-I", "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return base64.b64decode(done.stdout)


def make_wheel(
    directory: Path,
    name: str,
    version: str,
    files: dict[str, str],
    *,
    requires: tuple[str, ...] = (),
    python: str = ">=3.8",
) -> Path:
    """Write a pure wheel of these files."""
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: {python}\n"]
    metadata += [f"Requires-Dist: {each}\n" for each in requires]
    contents = {
        **files,
        f"{info}/METADATA": "".join(metadata),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = []
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for place, text in contents.items():
            data = text.encode()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{place},sha256={digest},{len(data)}\n")
            wheel.writestr(place, data)
        wheel.writestr(f"{info}/RECORD", "".join([*record, f"{info}/RECORD,,\n"]))
    return path


def make_wheels(directory: Path) -> InstallSettings:
    """Write an index of a few wheels; return settings that know nothing else."""
    make_wheel(directory, "colours", "1.0", {"colours/__init__.py": "NAME = 'red'\n"})
    make_wheel(directory, "colours", "2.0", {"colours/__init__.py": "NAME = 'blue'\n"})
    make_wheel(directory, "paint", "1.1", {"paint.py": "from colours import NAME\n"}, requires=("colours>=1",))
    return InstallSettings(find_links=(str(directory),), offline=True, timeout_s=120)


@functools.lru_cache(maxsize=1)
def pypi_is_there() -> bool:
    try:
        socket.create_connection(("pypi.org", 443), timeout=5).close()
    except OSError:
        return False
    return True


needs_pypi = pytest.mark.skipif("not __import__('pythons_world').pypi_is_there()", reason="PyPI can not be reached")


def result_of(outcome) -> object:
    assert outcome.failure is None, outcome.failure
    return json.loads(outcome.result_json)
