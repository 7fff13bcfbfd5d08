"""A real `eventproc serve` in its own processes, on its own data directory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from waiting import wait_until

from eventproc import Connection

READY_S = 120.0


class Served:
    """One platform; it can be started, killed in parts or whole, and started again."""

    def __init__(self, data: Path, **environ: str) -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EVENTPROC_")},
            "EVENTPROC_DATA": str(data),
            "EVENTPROC_HTTP": "127.0.0.1:0",
            "EVENTPROC_GRAPHITE": "127.0.0.1:0",
            "EVENTPROC_GRAPHITE_PICKLE": "127.0.0.1:0",
            "EVENTPROC_WORKER__LEASE": "2s",
            "EVENTPROC_WORKER__POLL": "0.3s",
            "EVENTPROC_WORKER__MAX_INTERRUPTIONS": "1000",
            **environ,
        }
        self.command = [sys.executable, "-m", "eventproc"]
        self.account: dict[str, Any] = {}  # whose processes they are, as subprocess.Popen has it
        self.process: subprocess.Popen[str] | None = None
        self.said: list[str] = []
        self._reader: threading.Thread | None = None
        self._connections: list[Connection] = []

    # ------------------------------------------------------------------------------------------- life

    def start(self, *arguments: str, wait: bool = True) -> Served:
        """Start `eventproc serve`, and wait for its line `ready`."""
        self.said = []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "serve", *arguments],
                env=self.environ,
                cwd=self.data.parent,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                **self.account,
            )
        self._reader = threading.Thread(target=self._read, args=(self.process, self.said), daemon=True)
        self._reader.start()
        if wait:
            wait_until(self._ready, timeout_s=READY_S, what=f"the line `ready`; the log ends with\n{self.tail()}")
        return self

    @staticmethod
    def _read(process: subprocess.Popen[str], said: list[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            said.extend(line.rstrip("\n") for line in process.stdout)

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"serve ended with {self.process.returncode}:\n{self.tail()}")
        return "ready" in self.said

    def tail(self, count: int = 4000) -> str:
        return self.log.read_text(errors="replace")[-count:] if self.log.exists() else ""

    def stop(self, *, timeout_s: float = 60.0) -> int:
        """Stop in good order; return the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s=timeout_s)

    def wait(self, *, timeout_s: float = 60.0) -> int:
        """Wait for the end; return the exit status."""
        assert self.process is not None
        status = self.process.wait(timeout_s)
        if self._reader is not None:
            self._reader.join(60)
        return status

    def close(self) -> None:
        """Leave nothing running and nothing open."""
        while self._connections:
            self._connections.pop().close()
        if self.process is not None:
            tree = self.tree()
            self.process.kill()
            self.process.wait()
            for pid in tree:
                kill(pid)

    # ------------------------------------------------------------------------------------------- processes

    def tree(self) -> list[int]:
        """Return the pids of all processes below the supervisor."""
        assert self.process is not None
        parents = parents_of_all()
        found = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found - {self.process.pid})

    def pid_of(self, role: str) -> int | None:
        """Return the pid of a role's process."""
        assert self.process is not None
        for pid, parent in parents_of_all().items():
            if parent == self.process.pid and command_line(pid)[-2:] == ["--role", role]:
                return pid
        return None

    def kill_role(self, role: str) -> int:
        """kill -9 a role's process, waiting for it to be there first."""
        pid = wait_until(lambda: self.pid_of(role), what=f"a process of the role {role}")
        kill(pid)
        return pid

    def kill_all(self) -> None:
        """kill -9 the supervisor; everything must go down with it."""
        assert self.process is not None
        tree = self.tree()
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not any(alive(pid) for pid in tree), what="the processes below the supervisor to be gone")

    # ------------------------------------------------------------------------------------------- use

    @property
    def endpoints(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.data / "endpoints.json").read_text())
        return found

    @property
    def key(self) -> str:
        return (self.data / "admin.key").read_text().strip()

    def connect(self) -> Connection:
        """Connect as the admin; the connection is closed with the platform."""
        made = Connection(self.endpoints["http"], self.key)
        self._connections.append(made)
        return made

    def cli(self, *arguments: str, stdin: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the CLI against this platform."""
        return subprocess.run(
            [sys.executable, "-m", "eventproc", *arguments],
            env={**self.environ, **environ},
            cwd=self.data.parent,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """Run a command with --json and return what it printed."""
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def parents_of_all() -> dict[int, int]:
    """Return the parent of each living process; zombies are left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (state := _state(int(entry.name))) is not None and state[0] != "Z":
            found[int(entry.name)] = state[1]
    return found


def _state(pid: int) -> tuple[str, int] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # gone meanwhile
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


def command_line(pid: int) -> list[str]:
    """Return a process's arguments; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Tell whether a process still lives; a zombie does not."""
    state = _state(pid)
    return state is not None and state[0] != "Z"


def kill(pid: int) -> None:
    """kill -9 what may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
