"""`eventproc schedules`."""

from __future__ import annotations

import click

from eventproc.cli import output
from eventproc.cli.base import Group, split_tags
from eventproc.cli.emit import read_json
from eventproc.cli.remote import connect
from eventproc.client.paths import segment


@click.group(cls=Group)
def schedules() -> None:
    """Schedules: cron expressions that emit an event."""


@schedules.command("list")
def list_() -> None:
    """List the schedules."""
    items = list(connect().pages("/schedules"))
    columns = ["name", "cron", "timezone", "hook", "tags", "next_at", "paused"]
    output.show(items, lambda: output.table(items, columns, empty="no schedules"))


@schedules.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show one schedule."""
    found = connect().get(f"/schedules/{segment(name)}")
    output.show(found, lambda: output.record(found))


@schedules.command("set")
@click.argument("name")
@click.argument("cron")
@click.option("--timezone", help="An IANA name such as Europe/Berlin (else UTC).")
@click.option("--hook", help="The hook to emit (else schedule.tick).")
@click.option("--tag", "-t", "tags", multiple=True)
@click.option("--payload", "-p", metavar="JSON|@FILE|-")
def set_(
    name: str, cron: str, *, timezone: str | None, hook: str | None, tags: tuple[str, ...], payload: str | None
) -> None:
    """Add or replace the schedule NAME, for example `schedules set nightly "0 3 * * *"`."""
    body = {
        "cron": cron,
        "timezone": timezone,
        "hook": hook,
        "tags": split_tags(tags) or None,
        "payload": read_json(payload) if payload else None,
    }
    done = connect().put(
        f"/schedules/{segment(name)}", {key: value for key, value in body.items() if value is not None}
    )
    output.show(done, lambda: output.record(done))


@schedules.command("delete")
@click.argument("name")
def delete(name: str) -> None:
    """Delete a schedule."""
    done = connect().delete(f"/schedules/{segment(name)}")
    output.show(done or {"deleted": name}, lambda: click.echo(f"schedule {name} is gone"))
