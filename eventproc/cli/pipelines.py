"""`eventproc pipelines`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group
from eventproc.cli.remote import connect, quote
from eventproc.errors import InvalidInput


@click.group(cls=Group)
def pipelines() -> None:
    """Pipelines: ordered handlers that work on the events of a whole stream."""


@pipelines.command("push")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
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
    found = connect().get(f"/pipelines/{quote(name)}")
    output.show(found, lambda: output.record(found))


@pipelines.command("pause")
@click.argument("name")
def pause(name: str) -> None:
    """Let a pipeline's runs wait; streams go on firing."""
    done = connect().post(f"/pipelines/{quote(name)}/pause")
    output.show(done, lambda: click.echo(f"pipeline {name} is paused"))


@pipelines.command("resume")
@click.argument("name")
def resume(name: str) -> None:
    """Let a pipeline's runs go on."""
    done = connect().post(f"/pipelines/{quote(name)}/resume")
    output.show(done, lambda: click.echo(f"pipeline {name} goes on"))


@pipelines.command("delete")
@click.argument("name")
def delete(name: str) -> None:
    """Deregister a pipeline; streams that wait for it end in error until they are reset."""
    done = connect().delete(f"/pipelines/{quote(name)}")
    output.show(done, lambda: click.echo(f"pipeline {name} is gone"))
