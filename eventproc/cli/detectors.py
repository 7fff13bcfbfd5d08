"""`eventproc detectors`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group
from eventproc.cli.remote import connect
from eventproc.client.paths import segment
from eventproc.errors import InvalidInput
from eventproc.model import DETECTOR_METHODS

COLUMNS = ["id", "name", "version", "updated_at", "updated_by"]


@click.group(cls=Group)
def detectors() -> None:
    """Detectors of one's own: classes that score metrics, in a sandbox."""


@detectors.command("push")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="What models call it, after `user:` (else the class's name).")
@click.option("--class", "wanted", metavar="CLASS", help="Which class of FILE, where there are several.")
@click.option("--timeout", help="For one call with at most some thousand samples (else 30s).")
@click.option("--memory", help="For example 512MiB.")
@click.option("--requires", "requirements", multiple=True, metavar="PACKAGE", help="Such as 'river==0.21'; repeatable.")
def push(
    file: Path, name: str | None, wanted: str | None, *, requirements: tuple[str, ...], **limits: str | None
) -> None:
    """
    Register the class in FILE that has score_one and learn_one, for example `detectors push level.py --name level`.

    Then `models monitor METRIC --detector user:level` scores a metric with it.
    """
    found = class_in(file, wanted, how="say --class")
    options: dict[str, Any] = {**limits, "requirements": list(requirements) or None}
    given = {key: value for key, value in options.items() if value is not None}
    done = connect().connection.register_detector(found, name, **given)
    output.show(done, lambda: click.echo(f"{done['name']} version {done['version']}: --detector user:{done['name']}"))


def class_in(file: Path, wanted: str | None, *, how: str) -> type:
    """Execute the file and return its class with score_one and learn_one; `how` says how to choose one of several."""
    from eventproc.plugins import load

    module = load(file)
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and all(callable(getattr(value, method, None)) for method in DETECTOR_METHODS)
    }
    if wanted is not None and wanted in found:
        return found[wanted]
    if wanted is not None or len(found) != 1:
        there = f"there are {', '.join(sorted(found))}: {how}" if found else "there is none"
        named = f"a class {wanted}" if wanted else "one class"
        raise InvalidInput(f"{file}: expected {named} with score_one and learn_one; {there}")
    [only] = found.values()
    return only


@detectors.command("list")
def list_() -> None:
    """List the detectors that were registered."""
    items = connect().connection.list_detectors()
    output.show(items, lambda: output.table(items, COLUMNS, empty="no detector is registered"))


@detectors.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show one detector; `handlers versions ID`, `diff` and `use` know its versions by its id."""
    found = connect().get(f"/detectors/{segment(name)}")
    output.show(found, lambda: output.record(found))


@detectors.command("delete")
@click.argument("name")
def delete(name: str) -> None:
    """Let no new model have the detector NAME; those that have it go on."""
    connection = connect().connection
    connection.deregister_detector(name)
    output.show({"name": name}, lambda: click.echo(f"detector {name} is gone"))
