"""
Make a virtual environment where Python has neither ensurepip nor pip: with virtualenv's wheels from PyPI.

Usage: get_virtualenv.py DOWNLOAD_DIRECTORY VENV. Only the standard library is at hand here.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

WHEELS = {
    "distlib-0.4.4-py2.py3-none-any.whl": "cf09d55b1e85a89576b036aeb71550bfd68320f3f21761ca329eadadad918638",
    "filelock-4.2.12-py3-none-any.whl": "21decfec02f116ed4c954433cdb31f28c3b346b784543177b6d7059da2702ee9",
    "packaging-26.3-py3-none-any.whl": "d7193f7c8e4e93f444fde0262bf90af30e16fa0ad0ad44cb553c87339b23cd1c",
    "platformdirs-4.14.7-py3-none-any.whl": "391513b74707c42335fff3ea17eaac657a7ee9ffcadd809634d34ea594d0122c",
    "python_discovery-1.9.5-py3-none-any.whl": "a1fae8fca11e4bc61e38491c2aafff29e430b3c5e272d51ae52fb895bc4c0fac",
    "virtualenv-21.15.8-py3-none-any.whl": "e4cb274633d6f3ddb19f535a3be7539ce8fe34fc7aa2b0c417ff6e96c3cf67dc",
}
INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
TIMEOUT_S = 60


def fetch(url: str, accept: str = "*/*") -> bytes:
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return bytes(answer.read())


def download(wheel: str, sha256: str, directory: Path) -> Path:
    """Download a wheel named in the index, or keep the copy that is there; a wrong digest is an error."""
    target = directory / wheel
    if not target.exists():
        page = f"{INDEX.rstrip('/')}/{wheel.split('-', maxsplit=1)[0].replace('_', '-')}/"
        files = json.loads(fetch(page, "application/vnd.pypi.simple.v1+json"))["files"]
        url = next(file["url"] for file in files if file["filename"] == wheel)
        target.write_bytes(fetch(urllib.parse.urljoin(page, url)))
    if hashlib.sha256(target.read_bytes()).hexdigest() != sha256:
        target.unlink()
        sys.exit(f"{wheel}: the download does not have the expected digest; try again")
    return target


def main() -> None:
    directory, venv = Path(sys.argv[1]), sys.argv[2]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        wheels = [download(name, sha256, directory) for name, sha256 in WHEELS.items()]
    except OSError as error:
        sys.exit(f"{INDEX} can not be reached: {error}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, wheels))}
    subprocess.run([sys.executable, "-m", "virtualenv", "--quiet", "--no-download", venv], env=environment, check=True)


if __name__ == "__main__":
    main()
