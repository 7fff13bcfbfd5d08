"""`eventproc playback`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Command, state

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
RECORDING = click.Path(exists=True, dir_okay=False, path_type=Path, allow_dash=True)


@contextlib.contextmanager
def progress(label: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many there were so far; elsewhere nothing."""
    if state().json or not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,.0f}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None)
        yield lambda count: bar.advance(task, count)


def _speed(_ctx: click.Context, _param: click.Parameter, value: str) -> float | None:
    if value == "max":
        return None
    try:
        speed = float(value)
    except ValueError:
        speed = 0.0
    if speed <= 0:
        raise click.BadParameter("a number above 0 (times real time), or max")
    return speed


@click.command("playback", cls=Command)
@click.argument("file", type=RECORDING)
@click.option("--triggers", required=True, type=FILE, help="A triggers.yaml.")
@click.option("--pipelines", type=FILE, help="A pipelines.yaml whose handlers are module:Class (else none run).")
@click.option("--handler-path", multiple=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--speed", default="max", show_default=True, callback=_speed, help="Times real time, or max.")
@click.option("--database", metavar="URL", help="Keep events and streams there (else in memory).")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the streams there, as JSON.")
@click.option("--no-expire", is_flag=True, help="Leave what is due after the last event.")
def playback(**how: Any) -> None:
    """
    Play the recorded events of FILE at their own times, without a server.

    For example `playback day.jsonl.gz --triggers triggers.yaml --pipelines pipelines.yaml`. FILE holds JSON lines or an
    array, also gzipped; - is the standard input. Each is an event: hook, payload, id, time. What fires or expires
    does so between the events that it lies between.
    """
    found = _play(**how)
    output.show(found, lambda: _played(found))


def _play(
    *,
    file: Path,
    triggers: Path,
    pipelines: Path | None,
    handler_path: tuple[Path, ...],
    speed: float | None,
    database: str | None,
    report: Path | None,
    no_expire: bool,
) -> dict[str, Any]:
    import json

    from eventproc.playback import Player

    with Player(database=database, handler_path=handler_path) as player, progress(f"{file.name}: events") as count:
        if pipelines is not None:
            player.add_pipelines(pipelines)
        player.add_triggers(triggers, with_pipelines=pipelines is not None)
        found = player.play(file, speed=speed, expire=not no_expire, on_progress=count)
        if report is not None:
            report.write_text(json.dumps(player.report(), indent=1), encoding="utf-8")
    return found


def _played(found: dict[str, Any]) -> None:
    click.echo(f"{found['events']} events, {found['duplicates']} duplicates, {len(found['refused'])} refused")
    for line in found["refused"][:10]:
        click.echo(output.plain(f"  event {line['line']}: {line['error']}"))
    click.echo(f"{found['fired']} streams fired, {found['expired']} expired")
    for name, number in found["states"].items():
        click.echo(f"  {name}: {number}")
