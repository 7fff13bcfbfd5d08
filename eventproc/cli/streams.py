"""`eventproc streams`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group
from eventproc.cli.hints import show_hints
from eventproc.cli.remote import connect

STATES = click.Choice(
    [
        "active",
        "firing",
        "expiring",
        "error",
        "expire_error",
        "completed",
        "retry_fire",
        "retry_expire",
        "commit_error",
    ]
)


@click.group(cls=Group)
def streams() -> None:
    """Streams: the events that triggers have collected."""


@streams.command("list")
@click.option("--trigger", help="Of this trigger.")
@click.option("--state", "-s", multiple=True, type=STATES)
@click.option("--trait", "-t", multiple=True, metavar="NAME:VALUE", help="Of a distinguishing trait; repeatable.")
@click.option("--older-than", metavar="ISO", help="The first event is older.")
@click.option("--younger-than", metavar="ISO", help="The last event is younger.")
@click.option("--limit", "-n", default=50, show_default=True, type=click.IntRange(1))
def list_(limit: int, **which: Any) -> None:
    """List streams, newest first, for example `streams list --state error`."""
    given = {**which, "state": list(which["state"]), "trait": list(which["trait"])}
    items = list(connect().pages("/streams", given, limit=limit))
    columns = ["id", "trigger", "state", "distinguished_by", "events", "first_event", "last_event", "run"]
    output.show(items, lambda: output.table(items, columns, empty="no streams"))
    if not items:
        show_hints(which["trait"], which["trigger"])


@streams.command("counts")
def counts() -> None:
    """Say how many streams are in each state but completed."""
    found = connect().get("/streams/counts")
    output.show(found, lambda: output.record(found) if found else click.echo("no streams"))


@streams.command("show")
@click.argument("stream_id", type=click.IntRange(0))
@click.option("--events", is_flag=True, help="With all that it holds.")
def show(stream_id: int, *, events: bool) -> None:
    """Show one stream: what it waits for, or what went wrong."""
    found = connect().get(f"/streams/{stream_id}", {"events": "true"} if events else None)
    output.show(found, lambda: _shown(found))


def _shown(found: dict[str, Any]) -> None:
    held = found.pop("held", [])
    output.record(found)
    if held:
        click.echo()
        output.table(held, ["time", "hook", "id"], empty="")


def _ids_or_filter(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option("--all", "everything", is_flag=True, help=f"{what} all there are."),
            click.option("--trait", "-t", multiple=True, metavar="NAME:VALUE"),
            click.option("--state", "-s", multiple=True, type=STATES),
            click.option("--trigger", help=f"{what} all of this trigger."),
            click.argument("ids", nargs=-1, type=click.IntRange(0)),
        ):
            function = option(function)
        return function

    return decorate


def _body(
    ids: tuple[int, ...], *, trigger: str | None, state: tuple[str, ...], trait: tuple[str, ...], everything: bool
) -> dict[str, Any]:
    from eventproc.registry.traits import parse_trait

    restricted = bool(trigger or state or trait)
    if not (ids or restricted or everything):
        raise click.UsageError("say which streams: IDS, --trigger, --state, --trait or --all")
    if bool(ids) + restricted + everything > 1:
        raise click.UsageError("say which streams by ids, by a filter or by --all: one of these")
    if ids:
        return {"ids": list(ids)}
    if everything:
        return {"all": True}
    return {
        "trigger": trigger,
        "state": list(state) or None,
        "traits": dict(parse_trait(text) for text in trait) or None,
    }


@streams.command("reset")
@_ids_or_filter("Reset")
def reset(ids: tuple[int, ...], **which: Any) -> None:
    """
    Send streams in error through their pipeline again, for example `streams reset 12`.

    `streams reset --trigger usage` takes all of a trigger.
    Of a stream in commit_error only the commits that failed are repeated.
    """
    _change("reset", ids, which)


@streams.command("delete")
@_ids_or_filter("Delete")
def delete(ids: tuple[int, ...], **which: Any) -> None:
    """Delete streams that no run works on; their events stay."""
    _change("delete", ids, which)


def _change(action: str, ids: tuple[int, ...], which: dict[str, Any]) -> None:
    done = connect().post(f"/streams/{action}", _body(ids, **which))
    output.show(done, lambda: _changed(action, done))
    if not (done["count"] or done["refused"]):
        show_hints(which["trait"], which["trigger"])
    if done["refused"]:
        raise click.exceptions.Exit(5)


def _changed(action: str, done: dict[str, Any]) -> None:
    click.echo(f"{done['count']} streams {'reset' if action == 'reset' else 'deleted'}")
    for refused in done["refused"]:
        click.echo(output.plain(f"  {refused['reason']}"), err=True)
