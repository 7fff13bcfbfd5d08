"""`eventproc pipelines`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group
from eventproc.cli.changing import add_change
from eventproc.cli.playback import RECORDING
from eventproc.cli.remote import connect
from eventproc.cli.runs import show_trial
from eventproc.client.paths import segment
from eventproc.errors import InvalidInput

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=Group)
def pipelines() -> None:
    """Pipelines: ordered handlers that work on the events of a whole stream."""


@pipelines.command("push")
@click.argument("file", type=FILE)
@click.option("--isolation", type=click.Choice(["run", "cell", "batch"]), help="How runs share processes (else run).")
@click.option("--notify-on-success", metavar="MAILS")
@click.option("--notify-on-failure", metavar="MAILS")
@click.option("--naive", is_flag=True, help="Handlers see naive datetimes, in UTC.")
def push(
    file: Path,
    isolation: str | None,
    notify_on_success: str | None,
    notify_on_failure: str | None,
    *,
    naive: bool,
) -> None:
    """
    Register the pipelines of FILE, for example `pipelines push pipelines.yaml`.

    The file maps each pipeline to its handlers: names of registered handlers, or `module:Class` from the operator's
    handler_path; `{name: ..., params: {...}}` gives parameters.
    """
    from eventproc.registry.documents import read_document

    listed = read_document(file).value
    if not isinstance(listed, Mapping):
        raise InvalidInput(f"{file}: expected a mapping of pipelines to lists of handlers")
    connection = connect().connection
    done = []
    for name, handlers in listed.items():
        if not isinstance(handlers, list):
            raise InvalidInput(f"{file}: pipeline {name!r} is not a list of handlers")
        options: dict[str, Any] = {"isolation": isolation} if isolation else {}
        done.append(
            connection.register_pipeline(
                str(name),
                handlers,
                notify_on_success=notify_on_success,
                notify_on_failure=notify_on_failure,
                naive=naive,
                **options,
            )
        )
    output.show(done, lambda: output.table(done, ["name", "version"]))


@pipelines.command("list")
def list_() -> None:
    """List the pipelines."""
    items = list(connect().pages("/pipelines"))
    output.show(items, lambda: output.table(items, ["id", "name", "version", "paused"], empty="no pipelines"))


@pipelines.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show one pipeline with its handlers and their parameters."""
    found = connect().get(f"/pipelines/{segment(name)}")
    output.show(found, lambda: output.record(found))


@pipelines.command("dry-run")
@click.argument("name")
@click.option("--stream", type=int, metavar="ID", help="A stored stream.")
@click.option("--events", type=RECORDING, help="Or a recording of events; - for the standard input.")
def dry_run(name: str, *, stream: int | None, events: Path | None) -> int:
    """
    Run the pipeline NAME on one stream with nothing committed; its commit() is not called, its rollback() is.

    For example `pipelines dry-run usage --stream 12`, or `pipelines dry-run usage --events day.jsonl.gz`.
    """
    if (stream is None) == (events is None):
        raise click.UsageError("give either --stream ID or --events FILE")
    body = {"stream": stream} if events is None else {"events": _events(events)}
    found = connect().post(f"/pipelines/{segment(name)}/dry-run", body)
    output.show(found, lambda: show_trial(found))
    return 1 if found.get("failure") else 0


def _events(path: Path) -> list[Any]:
    import json

    from eventproc.codec.records import open_records

    found = []
    with open_records(path) as records:
        for number, text in records:
            try:
                found.append(json.loads(text))
            except ValueError as error:
                raise InvalidInput(f"{path}, line {number}: not JSON: {error}") from error
    return found


@pipelines.command("test")
@click.argument("file", type=FILE)
@click.argument("events", type=RECORDING)
@click.option("--name", help="Of several pipelines in FILE, this one.")
@click.option("--handler-path", multiple=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--naive", is_flag=True, help="Handlers see naive datetimes, in UTC.")
def test(file: Path, events: Path, *, name: str | None, handler_path: tuple[Path, ...], naive: bool) -> int:
    """
    Run the pipelines of FILE here on the recorded EVENTS as one stream, in a sandbox, without a server.

    For example `pipelines test pipelines.yaml events.json --handler-path handlers`. Nothing is kept or sent: the events
    that it would make, and the messages, are shown. Handlers are names to import, `module:Class`.
    """
    from eventproc.playback import Player
    from eventproc.playback.recording import read_recording

    output.quiet()
    held = list(read_recording(events))
    with Player(handler_path=handler_path) as player:
        player.add_pipelines(file, naive=naive)
        use, admin = player.harness.use, player.harness.admin
        names = [record.name for record in use.pipelines.all(admin)]
        if name is not None and name not in names:
            raise InvalidInput(f"{file}: there is no pipeline {name!r}; there are {', '.join(names)}")
        found = [
            {"pipeline": each, **use.trials.dry_run_pipeline(admin, each, events=held).to_json()}
            for each in names
            if name in (None, each)
        ]
    output.show(found, lambda: _tried(found))
    return 1 if any(each["failure"] for each in found) else 0


def _tried(found: list[dict[str, Any]]) -> None:
    for each in found:
        click.echo(output.style(output.plain(each["pipeline"]), bold=True))
        show_trial(each)


add_change(
    pipelines,
    "pause",
    "/pipelines/{name}/pause",
    help="Let a pipeline's runs wait; streams go on firing.",
    said="pipeline {name} is paused",
)
add_change(
    pipelines,
    "resume",
    "/pipelines/{name}/resume",
    help="Let a pipeline's runs go on.",
    said="pipeline {name} goes on",
)
add_change(
    pipelines,
    "delete",
    "/pipelines/{name}",
    method="DELETE",
    help="Deregister a pipeline; streams that wait for it end in error until they are reset.",
    said="pipeline {name} is gone",
)
