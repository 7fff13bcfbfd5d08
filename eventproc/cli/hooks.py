"""`eventproc hooks`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group
from eventproc.cli.remote import connect
from eventproc.client.paths import segment


@click.group(cls=Group)
def hooks() -> None:
    """Hooks: the named points that handlers register on."""


@hooks.command("list")
def list_() -> None:
    """List the hooks."""
    items = list(connect().pages("/hooks"))
    output.show(items, lambda: output.table(items, ["name", "summary", "source", "paused"]))


@hooks.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show a hook's schema and sample."""
    found = connect().get(f"/hooks/{segment(name)}")
    output.show(found, lambda: output.record(found))


@hooks.command("add")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def add(file: Path) -> None:
    """Add or replace the hooks that a YAML or JSON file states."""
    specs = read_specs(file)
    remote = connect()
    done = [
        remote.put(f"/hooks/{segment(spec['name'])}", {key: value for key, value in spec.items() if key != "name"})
        for spec in specs
    ]
    output.show(done, lambda: click.echo("\n".join(f"hook {output.plain(spec['name'])} is there" for spec in specs)))


def read_specs(file: Path) -> list[dict[str, Any]]:
    """Read the hook specs of a file, in the form in which the API takes them."""
    from eventproc.errors import PluginError
    from eventproc.registry.specs import load_specs

    specs, problems = load_specs([file])
    if problems or not specs:
        raise PluginError("; ".join(problem.message for problem in problems) or f"{file}: holds no hooks")
    return [
        {
            "name": spec.name,
            "summary": spec.summary,
            "schema": dict(spec.schema),
            "sample": dict(spec.sample),
            "keep_s": spec.keep_s,
            "keep_idle_s": spec.keep_idle_s,
        }
        for spec in specs
    ]


@hooks.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Even when handlers use it: they are deregistered.")
def delete(name: str, *, force: bool) -> None:
    """Delete a hook of your own."""
    done = connect().delete(f"/hooks/{segment(name)}", params={"force": "true"} if force else None)
    output.show(done, lambda: click.echo(f"hook {name} is gone"))


def _switch(name: str, action: str) -> None:
    done = connect().post(f"/hooks/{segment(name)}/{action}")
    output.show(done, lambda: click.echo(f"hook {name}: {action}d"))


@hooks.command("pause")
@click.argument("name")
def pause(name: str) -> None:
    """Let the hook's runs wait; events are still accepted."""
    _switch(name, "pause")


@hooks.command("resume")
@click.argument("name")
def resume(name: str) -> None:
    """Let the hook's runs go on."""
    _switch(name, "resume")
