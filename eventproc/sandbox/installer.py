"""
From requirements to a lock, and from a lock to a directory of packages, with uv.

Wheels are unpacked and nothing of them is executed. Source archives would have to be built, which executes what is in
them with this user's rights: they are refused unless the operator permits it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from eventproc.errors import RequirementsError, SandboxError
from eventproc.sandbox.interpreters import Interpreter

log = structlog.get_logger(__name__)

LAST_LINES = 12  # of the installer's words that people are told
MAX_WORDS = 3000  # characters
LOOK_S = 0.25
PASSED = (  # of our own environment: how the network is reached, and where people have their configuration
    "HOME", "PATH", "XDG_CONFIG_HOME", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy",
    "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC", "UV_DEFAULT_INDEX", "UV_INDEX",
    "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_CONFIG_FILE",
    "UV_INSECURE_HOST",
)  # fmt: skip
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")  # up to the last one: a password may have one itself


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallSettings:
    """Where packages come from, and what may be done for them."""

    index_url: str | None = None  # PyPI, or what uv is configured for
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()  # directories or pages with wheels
    offline: bool = False  # no index at all: find_links only
    build_sdists: bool = False
    timeout_s: float = 600.0
    max_bytes: int = 5 << 30


def find_uv() -> str | None:
    """Return the installer's path: the one that was installed with us, else one on PATH."""
    if importlib.util.find_spec("uv") is not None:
        from uv import find_uv_bin  # noqa: PLC0415  only workers need it

        with contextlib.suppress(FileNotFoundError):  # a distribution that keeps the program elsewhere
            return str(find_uv_bin())
    return shutil.which("uv")


class Installer:
    """Runs uv, one command at a time in each thread; `cache` is its own directory."""

    def __init__(self, settings: InstallSettings, cache: Path) -> None:
        self.settings = settings
        self.cache = cache
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End what is under way: its callers get a SandboxError."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def describe(self) -> str:
        """Say where packages come from."""
        given = self.settings
        places = [] if given.offline else [*filter(None, [given.index_url]), *given.extra_index_urls]
        places = places or ([] if given.offline else ["PyPI, or what uv is configured for"])
        return ", ".join(_CREDENTIALS.sub("", place) for place in [*places, *given.find_links]) or "nowhere"

    def lock(self, interpreter: Interpreter, requirements: Sequence[str]) -> str:
        """Return the lock of these requirements for that interpreter. Raises RequirementsError with uv's words."""
        with tempfile.TemporaryDirectory(prefix="eventproc-lock-") as directory:
            wanted, found = Path(directory, "requirements.in"), Path(directory, "requirements.txt")
            wanted.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
            options = ["--no-header", "--no-annotate", "--generate-hashes", "--output-file", str(found), str(wanted)]
            self._run(["compile", *options], interpreter, "the requirements can not be resolved")
            return found.read_text(encoding="utf-8")

    def install(self, interpreter: Interpreter, lock: str, target: Path, *, held_fd: int, hashes: bool = True) -> None:
        """
        Unpack what the lock names into `target`. Raises RequirementsError with uv's words.

        `held_fd` is a locked file that uv inherits: should we be killed, the lock lasts until uv has ended too.
        """
        with tempfile.TemporaryDirectory(prefix="eventproc-lock-") as directory:
            file = Path(directory, "requirements.txt")
            file.write_text(lock, encoding="utf-8")
            options = ["--target", str(target), "--compile-bytecode", "--requirements", str(file)]
            if hashes:
                options += ["--require-hashes", "--no-deps"]
            self._run(
                ["install", *options],
                interpreter,
                "the packages can not be installed",
                pass_fds=[held_fd],
                watch=lambda: self._check_size(target),
            )
        self._check_size(target)

    def clean(self) -> None:
        """Forget what was downloaded."""
        uv = find_uv()
        if uv is not None and self.cache.exists():
            with contextlib.suppress(OSError, subprocess.SubprocessError):  # a build under way keeps it
                subprocess.run(  # noqa: S603  our own program
                    [uv, "cache", "clean", "--quiet"], env=self._environ(), capture_output=True, timeout=60, check=False
                )

    # ------------------------------------------------------------------------------------------- uv

    def _run(
        self,
        arguments: Sequence[str],
        interpreter: Interpreter,
        what: str,
        *,
        pass_fds: Sequence[int] = (),
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        uv = find_uv()
        if uv is None:
            raise SandboxError("packages can not be installed: there is no uv on this host; `pip install uv`")
        self.cache.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the data directory
        self.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [uv, "pip", *arguments, "--python", interpreter.path, "--quiet", *self._sources()]
        with tempfile.TemporaryFile() as words:
            process = subprocess.Popen(  # noqa: S603  a well-known program; requirements were checked, and are in a file
                command,
                env=self._environ(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                pass_fds=pass_fds,
                start_new_session=True,
            )
            try:
                self._wait(process, watch)
            finally:
                with contextlib.suppress(ProcessLookupError):  # what it started ends with it
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            words.seek(0)
            said = words.read().decode("utf-8", "replace")
        if process.returncode:
            raise RequirementsError(f"{what}: {told(said)}", output=told(said))

    def _wait(self, process: subprocess.Popen[bytes], watch: Callable[[], None]) -> None:
        until = time.monotonic() + self.settings.timeout_s
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_S)
                return
            if self._stopping.is_set():
                raise SandboxError("the worker was stopped while it installed packages; try again")
            if time.monotonic() > until:
                raise RequirementsError(
                    f"the packages could not be had within {self.settings.timeout_s:g} s "
                    "(the operator's setting environments.timeout)"
                )
            watch()

    def _check_size(self, target: Path) -> None:
        if size_of(target) > self.settings.max_bytes:
            raise RequirementsError(
                f"the packages need more than {self.settings.max_bytes:,} bytes "
                "(the operator's setting environments.max_size)"
            )

    def _sources(self) -> list[str]:
        given = self.settings
        options = ["--no-index"] if given.offline else []
        for place in given.find_links:
            options += ["--find-links", place]
        return options if given.build_sdists else [*options, "--only-binary", ":all:"]

    def _environ(self) -> Mapping[str, str]:
        environ = {name: os.environ[name] for name in PASSED if name in os.environ}
        timeout_s = os.environ.get("UV_HTTP_TIMEOUT", "30")
        given = self.settings
        if given.index_url:  # in variables: everybody on this host may read a command line, with the passwords in it
            environ["UV_DEFAULT_INDEX"] = given.index_url
        if given.extra_index_urls:
            environ["UV_INDEX"] = " ".join(given.extra_index_urls)
        return {
            **environ, "UV_CACHE_DIR": str(self.cache), "UV_HTTP_TIMEOUT": timeout_s, "UV_PYTHON_DOWNLOADS": "never",
            "NO_COLOR": "1", "LANG": "C.UTF-8", "UV_NO_PROGRESS": "1",
        }  # fmt: skip


def told(said: str) -> str:
    """Return the last lines of the installer's words, without passwords."""
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    return _CREDENTIALS.sub("", "\n".join(lines[-LAST_LINES:]))[-MAX_WORDS:] or "uv gave no reason"


def size_of(directory: Path) -> int:
    """Return the bytes on the disk below a directory, a file with many names once; what vanishes meanwhile counts 0."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for path, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(f"{path}/{name}")
                if found.st_nlink < 2 or (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * 512
    return total
