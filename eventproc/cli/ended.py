"""`--wait`: stay until runs have ended, and say how."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.remote import Remote

WAIT_S = 600.0
SHOWN = 200  # characters of a result

wait_option = click.option("--wait", is_flag=True, help="Stay until the runs have ended; exit 1 unless all succeeded.")
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.0),
    metavar="SECONDS",
    default=WAIT_S,
    show_default=True,
    help="Wait no longer.",
)


def wait_for(remote: Remote, run_ids: Iterable[int], timeout_s: float) -> list[dict[str, Any]]:
    """Return the runs, each in its final state. Raises DeadlineExceeded, naming one that is not."""
    until = time.monotonic() + timeout_s
    return [remote.connection.wait(run_id, timeout=max(0.0, until - time.monotonic())) for run_id in run_ids]


def all_succeeded(runs: Iterable[dict[str, Any]]) -> bool:
    return all(run["state"] == "succeeded" for run in runs)


def show_ended(runs: Iterable[dict[str, Any]]) -> None:
    """Write one line for each run: its state, and its result or failure."""
    for run in runs:
        click.echo(f"run {run['id']} {output.state_word(run['state'])}: {output.plain(_who(run))}{_came_to(run)}")


def _who(run: dict[str, Any]) -> str:
    return f"{run.get('handler_name')} v{run.get('version')}"


def _came_to(run: dict[str, Any]) -> str:
    failure = run.get("failure")
    if failure and run["state"] != "succeeded":
        said = ": ".join(str(part) for part in (failure.get("type"), failure.get("message")) if part)
    elif run.get("result") is not None:
        said = output.cell(run["result"])
    else:
        return ""
    text = output.plain(said).replace("\n", "\\n")
    return f" → {text if len(text) <= SHOWN else text[:SHOWN] + '…'}"
