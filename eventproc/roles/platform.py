"""The whole platform in one supervised tree of processes: `eventproc serve`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import structlog

from eventproc import __version__, config
from eventproc.config import Settings
from eventproc.datadir import make_private
from eventproc.roles import ROLES, files, logs
from eventproc.roles.supervisor import Supervisor
from eventproc.wiring import Platform

log = structlog.get_logger(__name__)

OTHERS = ("https", "grpc", "graphite")  # endpoints that are shown beside the API's


def run_platform(settings: Settings) -> int:
    """Prepare the data directory and run all roles until a signal; return the exit status."""
    logs.configure(settings, "serve")
    for name in config.unknown_environment():
        log.warning("environment variable is not read by anything; misspelt?", name=name)
    make_private(settings)
    with files.locked(settings.run_dir / "serve.lock", "eventproc serve"):
        with Platform(settings) as platform:
            for problem in platform.prepare():
                log.warning(problem)
        return Supervisor(settings, ROLES).run(lambda endpoints: announce(settings, endpoints))


def announce(settings: Settings, endpoints: Mapping[str, str]) -> None:
    """Say where things are and what to try, then the one line that scripts wait for."""
    url = endpoints["http"]
    eventproc = command()
    others = [f"  {name.ljust(8)}  {endpoints[name]}" for name in OTHERS if name in endpoints]
    say(
        f"eventproc {__version__}: data in {settings.data}",
        f"  API       {url}/api/v1 (documentation: {url}/docs)",
        *others,
        f"  key       {settings.admin_key_file}",
        "Try, in another terminal:",
        f"  export EVENTPROC_DATA={shlex.quote(str(settings.data))}",
        f"  {eventproc} hooks list",
        f"  {eventproc} handlers available",
        f"  {eventproc} emit schedule.tick --sample",
        f"  {eventproc} runs list",
        "ready",
    )


def command() -> str:
    """Return the command `eventproc` as a shell finds it: its whole path where PATH does not lead to this one."""
    script = Path(sys.executable).with_name("eventproc")
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m eventproc"
    on_path = shutil.which("eventproc")
    return "eventproc" if on_path and script.samefile(on_path) else shlex.quote(str(script))


def say(*lines: str) -> None:
    """Write lines to the standard output; where nobody reads that, or its disk is full, the platform goes on."""
    try:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except OSError as error:
        log.warning("where things are could not be written to the standard output", error=str(error))
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:  # what is still buffered would fail at the end
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
