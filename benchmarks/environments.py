"""
What packages of a handler's own cost: installing pandas and running with it, against a plain virtual environment.

    python benchmarks/environments.py [--package pandas==2.2.*] [--runs 20]

`cold` locks and installs with nothing downloaded yet, until the first run has ended; its peer is `uv venv` and
`uv pip install --compile-bytecode` with an empty cache, and one start of that Python. `again` is another host or a
removed environment, with the downloads at hand. `run`, `batch` and `cell` are runs of a handler that imports the
package, against a fresh interpreter of the virtual environment that does the same. Memory is what a zygote that waits
costs by itself (USS: pages that nobody shares). Needs a package index. Figures are wall time; the load average is
printed with them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
from sandbox_spawn import NoSession, call, program

from eventproc.model import Limits
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.sandbox.installer import find_uv
from eventproc.sandbox.interpreters import RUNNING
from eventproc.sandbox.provider import Provider


def importing(module: str) -> Callable[..., str]:
    names: dict[str, Callable[..., str]] = {}
    exec(f"def handler(_db):\n    import {module}\n    return {module}.__name__", names)
    return names["handler"]


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


class Bench:
    """Ours and the peer, below one temporary directory."""

    def __init__(self, root: Path, package: str, runs: int) -> None:
        self.root, self.package, self.runs = root, package, runs
        self.module = package.partition("=")[0].partition("<")[0].partition(">")[0].strip().replace("-", "_")
        self.provider = Provider(root / "data" / "environments")
        self.sandbox = ForkServerSandbox(provider=self.provider)
        self.environ = {**os.environ, "UV_CACHE_DIR": str(root / "cache")}
        self.python = root / "venv" / "bin" / "python"
        base = program()
        self.wanted = replace(base, blob=_blob(importing(self.module)))

    def install_ours(self) -> None:
        environment = self.sandbox.resolve(RUNNING, [self.package])
        self.wanted = replace(self.wanted, environment=environment)
        self.times("run", 1)

    def install_peer(self) -> None:
        uv = find_uv()
        assert uv is not None
        for arguments in (
            ["venv", "--clear", "--python", sys.executable, str(self.root / "venv")],
            ["pip", "install", "--compile-bytecode", "--python", str(self.python), self.package],
        ):
            subprocess.run([uv, *arguments, "--quiet"], env=self.environ, check=True)
        self.start_peer()

    def start_peer(self) -> None:
        subprocess.run([self.python, "-I", "-c", f"import {self.module}"], check=True)

    def forget(self) -> None:
        """Be another host, to which everything was downloaded before."""
        self.sandbox.close()
        for entry in self.provider.environments.all():
            self.provider.environments.remove(entry.name)
        self.provider = Provider(self.root / "data" / "environments")
        self.sandbox = ForkServerSandbox(provider=self.provider)

    def times(self, isolation: str, count: int) -> list[float]:
        took, child = [], None
        limits = Limits(memory_bytes=2 << 30)
        for number in range(count):
            began = time.perf_counter()
            if child is None or isolation == "run":
                child = self.sandbox.spawn(replace(self.wanted, isolation=isolation), limits)
            (outcome,) = child.execute([(call(number + 1), NoSession())])
            took.append(time.perf_counter() - began)
            assert outcome.failure is None, outcome.failure
            if isolation == "run":
                child.close()
        if child is not None:
            child.close()
        return took

    def zygote_bytes(self) -> int:
        """Return the USS of the zygote with packages, its waiting child and monitor included."""
        ours = psutil.Process()
        zygotes = [each for each in ours.children(recursive=False) if "zygote.py" in " ".join(each.cmdline())]
        found = [psutil.Process(each.pid) for zygote in zygotes for each in (zygote, *zygote.children(recursive=True))]
        sizes = []
        for each in found:
            with contextlib.suppress(psutil.Error):  # it was a run's, and has ended
                sizes.append(each.memory_full_info().uss)
        return max(sizes)


def _blob(handler: Callable[..., object]) -> bytes:
    import dill

    return dill.dumps(handler, recurse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--package", default="pandas==2.2.*")
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), given.package, given.runs)
        print(f"load average {os.getloadavg()[0]:.1f}, Python {RUNNING}, {given.package}")
        for name, ours in (("cold", bench.install_ours), ("again", lambda: (bench.forget(), bench.install_ours()))):
            report(name, seconds(ours), seconds(bench.install_peer))
        peer = statistics.median(seconds(bench.start_peer) for _ in range(given.runs))
        for isolation in ("run", "batch", "cell"):
            took = bench.times("run" if isolation == "run" else isolation, given.runs)
            report(isolation, statistics.median(took), peer, first=took[0])
        print(f"memory of an idle zygote: {bench.zygote_bytes() / (1 << 20):.1f} MiB")
        bench.sandbox.close()


def report(name: str, ours: float, peer: float, *, first: float | None = None) -> None:
    tail = "" if first is None else f"   (the first {first * 1000:.1f} ms)"
    print(f"{name:6} {ours * 1000:9.1f} ms   peer {peer * 1000:9.1f} ms   {peer / ours:6.2f} times as fast{tail}")


if __name__ == "__main__":
    main()
