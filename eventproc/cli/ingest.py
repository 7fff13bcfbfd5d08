"""`eventproc ingest`."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from eventproc.cli import output
from eventproc.cli.base import Group, split_tags, state
from eventproc.cli.remote import connect
from eventproc.errors import IngressError, from_wire


@click.group(cls=Group)
def ingest() -> None:
    """Import recordings."""


@ingest.command("comtrade")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--tag", "-t", "tags", multiple=True, help="A tag for the event; may be repeated.")
def comtrade(path: Path, tags: tuple[str, ...]) -> int:
    """Import a COMTRADE archive (zip, tar), record or folder; `ctingress.on_complete` follows."""
    remote = connect()
    with _archive(path) as (file, name):
        params = {"tag": split_tags(tags), "name": name}
        with remote.stream("/ingest/comtrade", file, params=params) as lines:
            result = _follow(lines)
    payload = result.get("payload") or {}
    output.show(result, lambda: _summary(result, payload))
    return 0 if any(item.get("Success") for item in payload.get("DataSets", [])) else IngressError.exit_code


class _archive:  # noqa: N801  # used as a context manager, read as a verb
    """The archive to send: the file itself, or a zip of the folder made on the fly."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def __enter__(self) -> tuple[BinaryIO, str]:
        if self._path.is_file():
            self._file = self._path.open("rb")
            return self._file, self._path.name
        self._file = tempfile.TemporaryFile()
        files = sorted(file for file in self._path.rglob("*") if file.is_file() and not file.is_symlink())
        if not files:
            raise IngressError(f"{self._path}: the folder holds no files")
        with zipfile.ZipFile(self._file, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for file in files:
                archive.write(file, file.relative_to(self._path).as_posix())
        self._file.seek(0)
        return self._file, f"{self._path.absolute().name}.zip"

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _follow(lines: Iterator[str]) -> dict[str, Any]:
    """Show the progress that the server reports, and return its last word."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    result: dict[str, Any] | None = None
    columns = (
        TextColumn("importing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=state().json or not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        for line in lines:
            if not line.strip():
                continue
            step = json.loads(line)
            if "error" in step:
                error = step["error"]
                raise from_wire(error.get("code", "ingress"), error.get("message", ""), error.get("details"))
            if "result" in step:
                result = step["result"]
                continue
            mark = "" if step.get("ok", True) else " (refused)"
            progress.update(
                task,
                completed=step.get("done"),
                total=step.get("total"),
                description=output.plain(step.get("name", "")) + mark,
            )
    if result is None:
        raise IngressError("the server broke off before the import was complete; nothing of it counts")
    return result


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
    click.echo(f"{good} of {len(rows)} records imported; event {result.get('event_id')}")
