"""`eventproc ingest`."""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group, split_tags, state
from eventproc.cli.remote import connect
from eventproc.errors import IngressError


@click.group(cls=Group)
def ingest() -> None:
    """Import recordings."""


@ingest.command("comtrade")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--tag", "-t", "tags", multiple=True, help="A tag for the event; may be repeated.")
def comtrade(path: Path, tags: tuple[str, ...]) -> int:
    """Import a COMTRADE archive (zip, tar), record or folder; `ctingress.on_complete` follows."""
    remote = connect()
    with archive_of(path) as (file, name), progress_bar() as progress:
        result = remote.connection.ingest_comtrade(file, split_tags(tags), progress=progress, name=name)
    payload = result.get("payload") or {}
    output.show(result, lambda: _summary(result, payload))
    return 0 if any(item.get("Success") for item in payload.get("DataSets", [])) else IngressError.exit_code


@contextlib.contextmanager
def archive_of(path: Path) -> Iterator[tuple[Path, str]]:
    """Return the archive to send and its name: the file itself, or a zip of the folder that is made on the fly."""
    if path.is_file():
        yield path, path.name
        return
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    if not files:
        raise IngressError(f"{path}: the folder holds no files")
    with tempfile.TemporaryDirectory(prefix="eventproc-") as directory:
        made = Path(directory) / "folder.zip"
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for file in files:
                archive.write(file, file.relative_to(path).as_posix())
        yield made, f"{path.absolute().name}.zip"


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show the progress that the server reports, where there is a terminal to show it on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("importing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, disable=state().json or not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def step(said: dict[str, Any]) -> None:
            mark = "" if said.get("ok", True) else " (refused)"
            name = f"{output.plain(said.get('name', ''))}{mark}"
            bar.update(task, completed=said.get("done"), total=said.get("total"), description=name)

        yield step


def _summary(result: dict[str, Any], payload: dict[str, Any]) -> None:
    rows = [
        {
            "record": item.get("Name"),
            "ok": item.get("Success"),
            "streams": len(item.get("Streams") or []),
            "error": item.get("Error"),
        }
        for item in payload.get("DataSets", [])
    ]
    output.table(rows, ["record", "ok", "streams", "error"], empty="the archive holds no records")
    good = sum(bool(row["ok"]) for row in rows)
    click.echo(f"{good} of {len(rows)} records imported; event {output.plain(result.get('event_id'))}")
