"""`eventproc events`."""

from __future__ import annotations

from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group
from eventproc.cli.emit import read_json
from eventproc.cli.hints import show_hints
from eventproc.cli.remote import connect, find_handler
from eventproc.client.paths import segment
from eventproc.errors import UnknownHook
from eventproc.registry.globs import is_pattern


@click.group(cls=Group)
def events() -> None:
    """Events that were accepted."""


@events.command("list")
@click.option("--hook", metavar="NAME", help="Also a pattern: 'stream.*', or '!stream.*' for all others.")
@click.option("--tag")
@click.option("--key")
@click.option("--since", metavar="ISO")
@click.option("--until", metavar="ISO")
@click.option("--trait", "-t", multiple=True, metavar="NAME:VALUE", help="A payload member's value; repeatable.")
@click.option("--limit", "-n", default=50, show_default=True, type=click.IntRange(1))
def list_(limit: int, trait: tuple[str, ...], **which: str | None) -> None:
    """
    List events, newest first, for example `events list --hook "order.closed" -t order:7`.

    A trait's value is JSON where it can be read as that: order:7 is the number, 'order:"7"' the text.
    """
    remote = connect()
    items = list(remote.pages("/events", {**which, "trait": list(trait)}, limit=limit))
    output.show(items, lambda: output.table(items, ["id", "hook", "time", "tags", "key", "source"], empty="no events"))
    if items:
        return
    show_hints(trait)
    if which.get("hook") and not is_pattern(str(which["hook"])):  # perhaps it is only mistyped
        try:
            remote.get(f"/hooks/{segment(str(which['hook']))}")
        except UnknownHook as error:
            click.echo(error.message, err=True)


events.add_command(list_, "find")


@events.command("show")
@click.argument("event_id")
def show(event_id: str) -> None:
    """Show one event with its payload."""
    found = connect().get(f"/events/{segment(event_id)}")
    output.show(found, lambda: output.record(found))


@events.command("why")
@click.argument("event_id")
@click.argument("handler_name", metavar="[HANDLER]", required=False)
@click.option("--handler", metavar="ID|NAME", help="The same as HANDLER.")
def why(event_id: str, handler_name: str | None, handler: str | None) -> None:
    """Say why HANDLER (else each that is on the event's hook) did or did not run on an event."""
    remote = connect()
    handler = handler_name or handler
    path = f"/events/{segment(event_id)}"
    if handler is None:
        from eventproc.registry.globs import matches

        hook = remote.get(path)["hook"]
        chosen = [item for item in remote.pages("/handlers") if matches(item["hook"], hook)]
    else:
        chosen = [find_handler(remote, handler)]
    found = [
        {"handler_id": item["id"], "handler": item["name"], **remote.get(f"{path}/why", {"handler": str(item["id"])})}
        for item in chosen
    ]
    # With a handler there is one answer, and no list around it.
    output.show(found if handler is None else found[0], lambda: _show_whys(found))


def _show_whys(found: list[dict[str, Any]]) -> None:
    for answer in found:
        _show_why(answer)
    if not found:
        click.echo("no handler is registered on the event's hook")


def _show_why(found: dict[str, Any]) -> None:
    click.echo(output.style(output.plain(f"{found['handler']}: {found.get('verdict')}"), bold=True))
    for reason in found.get("reasons") or []:
        mark = output.style("yes", fg="green") if reason.get("ok") else output.style("no ", fg="red")
        click.echo(f"  {mark}  {output.plain(reason.get('text'))}")


@events.command("replay")
@click.option("--hook", required=True)
@click.option("--since", metavar="ISO", required=True)
@click.option("--until", metavar="ISO", required=True)
@click.option("--filter", "pattern", metavar="JSON", help="Pattern on the payload.")
@click.option("--handler", metavar="ID|NAME", help="For this handler only.")
@click.option("--current", is_flag=True, help="With the handlers' current versions.")
def replay(hook: str, since: str, until: str, pattern: str | None, handler: str | None, *, current: bool) -> None:
    """Run handlers on past events again."""
    remote = connect()
    body: dict[str, Any] = {"hook": hook, "since": since, "until": until, "current": current}
    if pattern:
        body["filter"] = read_json(pattern)
    if handler:
        body["handler"] = find_handler(remote, handler)["id"]
    done = remote.post("/events/replay", body)
    output.show(done, lambda: click.echo(f"{done.get('events', 0)} events, {len(done.get('runs', []))} runs queued"))
