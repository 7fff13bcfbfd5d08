"""Running a handler's blob as a worker does: a clean interpreter, an empty directory, none of the user's files."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from typing import Any

_PROGRAM = """
import asyncio, builtins, inspect, json, sys
import dill

class Ep:
    event = {"key": "from-ep"}

builtins.ep = Ep()
handler = dill.loads(sys.stdin.buffer.read())
calls = json.loads(sys.argv[1])
results = []
for payload in calls:
    if inspect.isclass(handler):
        instance = handler()
        value = [instance.handle_events([payload], {}), instance.commit()]
    else:
        value = handler(None, **payload)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
    results.append(value)
print(json.dumps({"results": results, "modules": sorted(sys.modules)}))
"""


def call_blob(blob: bytes, *payloads: dict[str, Any]) -> list[Any]:
    """Load a blob and call it with each payload in turn; return the results as JSON gives them back."""
    return run_blob(blob, *payloads)["results"]


def run_blob(blob: bytes, *payloads: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PROGRAM, json.dumps(payloads or ({},))],
            input=blob,
            capture_output=True,
            cwd=empty,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.decode().strip().splitlines()[-1])


def made(source, **names):
    """Define `handler` as in a script or notebook: in `__main__`, beside these names."""
    namespace = {"__name__": "__main__", **names}
    exec(textwrap.dedent(source), namespace)
    return namespace["handler"]
