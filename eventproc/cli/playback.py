"""`eventproc playback`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

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


@contextlib.contextmanager
def bar(file: Path) -> Iterator[Bar]:
    """Show on a terminal how far a file was read, and how many events there were; elsewhere nothing."""
    if state().json or not sys.stderr.isatty():
        yield Bar(lambda **_: None)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[events]:,} events"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    size = None if str(file) == "-" else file.stat().st_size
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(file.name, total=size, events=0)
        yield Bar(lambda **what: shown.update(task, **what))


class Bar:
    """How far a playback is."""

    def __init__(self, update: Callable[..., None]) -> None:
        self._update = update
        self._events = 0

    def count(self, events: int) -> None:
        """Say how many more events were played."""
        self._events += events
        self._update(events=self._events)

    def at(self, position: int) -> None:
        """Say how many bytes were read."""
        self._update(completed=position)


@click.command("playback", cls=Command)
@click.argument("file", type=RECORDING, required=False)
@click.option("--triggers", type=FILE, help="Play here, with this triggers.yaml, and not into the platform.")
@click.option("--pipelines", type=FILE, help="A pipelines.yaml whose handlers are module:Class (else none run).")
@click.option("--handler-path", multiple=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--speed", default="max", show_default=True, callback=_speed, help="Times real time, or max.")
@click.option("--database", metavar="URL", help="With --triggers: keep events and streams there (else in memory).")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the streams there, as JSON.")
@click.option("--no-expire", is_flag=True, help="Leave what is due after the last event.")
@click.option(
    "--end", is_flag=True, help="End a playback that was stopped: the platform goes by the world's time again."
)
def playback(**how: Any) -> int:
    """
    Play the recorded events of FILE at their own times.

    `playback day.jsonl.gz` plays into the running platform of EVENTPROC_DATA, with the triggers, pipelines and handlers
    that it has; all its events and streams go by the recording's time meanwhile. After Ctrl-C the same command goes on.
    `playback day.jsonl.gz --triggers triggers.yaml --pipelines pipelines.yaml` plays here, without a server.

    FILE holds JSON lines or an array, also gzipped; - is the standard input. Each is an event: hook, payload, id, time.
    What fires or expires does so between the events that it lies between.
    """
    if how["end"]:
        _refuse_more(how)
        return _end()
    if how["file"] is None:
        raise click.UsageError("name the recording: eventproc playback FILE")
    if how["triggers"] is None:
        wrong = [name for name in ("pipelines", "handler_path", "database", "report") if how[name]]
        if wrong:
            options = ", ".join("--" + name.replace("_", "-") for name in wrong)
            raise click.UsageError(f"{options}: only with --triggers; without it the platform's own are used")
    file, shared = how["file"], {"speed": how["speed"], "expire": not how["no_expire"]}
    with bar(file) as shown:
        shared |= {"on_progress": shown.count, "watch": shown.at}
        found = _into_platform(file, shared) if how["triggers"] is None else _here(file, how, shared)
    output.show(found, lambda: _played(found))
    if found["cut"] is not None and not state().json:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {output.plain(found['cut'])}", err=True)
    return 0 if found["cut"] is None else 1


def _refuse_more(how: Mapping[str, Any]) -> None:
    """Raise UsageError where more is said than --end, which would not be done."""
    context = click.get_current_context()
    typed = [name for name in sorted(how) if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    more = ["FILE" if name == "file" else "--" + name.replace("_", "-") for name in typed if name != "end"]
    if more:
        raise click.UsageError(f"--end goes without {', '.join(more)}: it ends the playback that was stopped")


def _here(file: Path, how: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    import json

    from eventproc.playback import Player

    with Player(database=how["database"], handler_path=how["handler_path"]) as player:
        if how["pipelines"] is not None:
            player.add_pipelines(how["pipelines"])
        player.add_triggers(how["triggers"], with_pipelines=how["pipelines"] is not None)
        found = player.play(file, **shared)
        if how["report"] is not None:
            how["report"].write_text(json.dumps(player.report(), indent=1), encoding="utf-8")
    return found


def _into_platform(file: Path, shared: Mapping[str, Any]) -> dict[str, Any]:
    from eventproc.config import load
    from eventproc.datadir import make_private
    from eventproc.playback.place import END, describe
    from eventproc.playback.platform import play_into
    from eventproc.wiring import Platform

    if str(file) == "-":
        raise click.UsageError("a playback into the platform needs a file: it may have to go on in it")
    settings = load(config=state().config)
    make_private(settings)
    with Platform(settings) as platform:
        try:
            return play_into(
                file, store=platform.store, cache=platform.cache, clock=platform.clock, bus=platform.bus, **shared
            )
        finally:
            with platform.store.read() as tx:
                left = tx.playback.get()
            if left is not None and left.seen_us == 0:
                hint = "the next playback goes on from there" if left.whole else "the same command goes on there"
                click.echo(f"{describe(left)}; {hint}; {END}", err=True)


def _end() -> int:
    from eventproc.config import load
    from eventproc.datadir import make_private
    from eventproc.playback.place import end
    from eventproc.wiring import Platform

    settings = load(config=state().config)
    make_private(settings)
    with Platform(settings) as platform:
        ended = end(platform.store, platform.clock)
    told = {"ended": None if ended is None else ended.file, "position": None if ended is None else ended.position}
    text = "there is no playback to end" if ended is None else f"the playback of {ended.file} has ended"
    output.show(told, lambda: click.echo(text))
    return 0


def _played(found: dict[str, Any]) -> None:
    behind = f" (behind event {found['from']:,})" if found["from"] else ""
    click.echo(f"{found['events']} events{behind}, {found['duplicates']} duplicates, {len(found['refused'])} refused")
    for line in found["refused"][:10]:
        click.echo(output.plain(f"  event {line['line']}: {line['error']}"))
    click.echo(f"{found['fired']} streams fired, {found['expired']} expired")
    for name, number in found.get("states", {}).items():
        click.echo(f"  {name}: {number}")
