"""`eventproc annotations`, `eventproc aggregates` and `eventproc anomalies`."""

import datetime as dt
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Command, Group, split_tags
from eventproc.cli.emit import read_json
from eventproc.cli.remote import connect
from eventproc.client.paths import segment
from eventproc.errors import InvalidInput

NOTE_COLUMNS = ["uid", "timestamp", "server", "user", "device", "message"]
AGGREGATE_COLUMNS = [
    "name",
    "function",
    "period_s",
    "pattern",
    "tags",
    "members",
    "periods",
    "next_at",
    "paused",
    "message",
]
RANKED_COLUMNS = ["name", "resource", "anomaly", "rows", "score", "last_at"]


@click.group(cls=Group)
def annotations() -> None:
    """Notes about times, servers and metrics."""


@annotations.command("list")
@click.option("--server")
@click.option("--user")
@click.option("--device")
@click.option("--metric", metavar="NAME|UID")
@click.option("--from", "start", metavar="ISO", help="Not before.")
@click.option("--to", "end", metavar="ISO", help="Before.")
@click.option("--limit", "-n", default=100, show_default=True, type=click.IntRange(1))
def list_annotations(limit: int, start: str | None, end: str | None, **which: str | None) -> None:
    """List annotations, the latest first, for example `annotations list --server web-1`."""
    items = list(connect().pages("/annotations", {**which, "from": start, "to": end}, limit=limit))
    output.show(items, lambda: output.table(items, NOTE_COLUMNS, empty="no annotations"))


@annotations.command("add")
@click.argument("server")
@click.argument("message", required=False)
@click.option("--at", metavar="ISO", help="When it was (else now).")
@click.option("--device")
@click.option("--user", help="Who says so (else you).")
@click.option("--metric", metavar="NAME|UID")
@click.option("--data", metavar="JSON|@FILE|-", help="Data instead of a message, or beside it.")
def add_annotation(server: str, message: str | None, *, at: str | None, data: str | None, **more: str | None) -> None:
    """Note MESSAGE about SERVER, for example `annotations add web-1 "new release"`."""
    body: dict[str, Any] = {name: value for name, value in more.items() if value is not None}
    body |= {"server": server, "timestamp": at or dt.datetime.now(dt.UTC).isoformat()}
    body |= {"message": message} if message else {}
    body |= {"data": read_json(data)} if data else {}
    done = connect().post("/annotations", body)
    output.show(done, lambda: click.echo(f"annotation {done['uid']}"))


@annotations.command("show")
@click.argument("uid")
def show_annotation(uid: str) -> None:
    """Show one annotation."""
    found = connect().get(f"/annotations/{segment(uid)}")
    output.show(found, lambda: output.record(found))


@annotations.command("change")
@click.argument("uid")
@click.option("--message")
@click.option("--server")
@click.option("--at", metavar="ISO")
def change_annotation(uid: str, *, at: str | None, **changes: str | None) -> None:
    """Change what is given of an annotation of your own."""
    body = {name: value for name, value in {**changes, "timestamp": at}.items() if value is not None}
    if not body:
        raise click.UsageError("say what to change: --message, --server or --at")
    done = connect().patch(f"/annotations/{segment(uid)}", body)
    output.show(done, lambda: output.record(done))


@annotations.command("delete")
@click.argument("uid")
def delete_annotation(uid: str) -> None:
    """Delete an annotation of your own."""
    done = connect().delete(f"/annotations/{segment(uid)}")
    output.show(done, lambda: click.echo(f"annotation {output.plain(uid)} is gone"))


@click.group(cls=Group)
def aggregates() -> None:
    """Metrics that are made of others: mean, sum, count, min or max, period by period."""


def _selector(pattern: str | None, tags: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, str] = {}
    for tag in split_tags(tags):
        name, sign, value = tag.partition("=")
        if not sign or not name:
            raise InvalidInput(f"--tag {tag!r}: write NAME=VALUE; a value may be a glob such as e*")
        found[name] = value
    return {"pattern": pattern, "tags": found}


@aggregates.command("list")
def list_aggregates() -> None:
    """List the aggregates and how far they are."""
    items = list(connect().pages("/aggregates"))
    output.show(items, lambda: output.table(items, AGGREGATE_COLUMNS, empty="no aggregates"))


@aggregates.command("show")
@click.argument("name")
def show_aggregate(name: str) -> None:
    """Show one aggregate."""
    found = connect().get(f"/aggregates/{segment(name)}")
    output.show(found, lambda: output.record(found))


@aggregates.command("add")
@click.argument("name")
@click.option("--pattern", metavar="GLOB", help="Over the names of metrics, such as 'web.*.cpu'.")
@click.option("--tag", "-t", "tags", multiple=True, metavar="NAME=GLOB", help="A tag of metrics; may be repeated.")
@click.option("--function", default="mean", show_default=True, help="mean, sum, count, min or max.")
@click.option("--period", default="5m", show_default=True)
@click.option("--wait", help="For members that are late (else a fifth of the period).")
def add_aggregate(
    name: str, *, pattern: str | None, tags: tuple[str, ...], function: str, period: str, wait: str | None
) -> None:
    """
    Make the metric NAME of others, for example `aggregates add web.cpu --pattern 'web.*.cpu' --tag dc=e*`.

    Monitor it like any metric: `eventproc models monitor NAME`.
    """
    body = {**_selector(pattern, tags), "function": function, "period": period}
    body |= {"wait": wait} if wait else {}
    done = connect().put(f"/aggregates/{segment(name)}", body)
    output.show(done, lambda: output.record(done))


@aggregates.command("preview")
@click.option("--pattern", metavar="GLOB")
@click.option("--tag", "-t", "tags", multiple=True, metavar="NAME=GLOB")
def preview(*, pattern: str | None, tags: tuple[str, ...]) -> None:
    """List the metrics that an aggregate would be made of."""
    items = connect().post("/aggregate-previews", _selector(pattern, tags))["items"]
    output.show(items, lambda: output.table(items, ["name", "resource", "uid"], empty="no metric matches"))


@aggregates.command("pause")
@click.argument("name")
def pause(name: str) -> None:
    """Stop making samples for now; what is missed is made up for later."""
    _pause(name, paused=True)


@aggregates.command("resume")
@click.argument("name")
def resume(name: str) -> None:
    """Go on making samples."""
    _pause(name, paused=False)


def _pause(name: str, *, paused: bool) -> None:
    done = connect().patch(f"/aggregates/{segment(name)}", {"paused": paused})
    output.show(done, lambda: click.echo(f"aggregate {name} {'is paused' if paused else 'goes on'}"))


@aggregates.command("delete")
@click.argument("name")
def delete_aggregate(name: str) -> None:
    """Delete an aggregate; the metric that it made stays."""
    done = connect().delete(f"/aggregates/{segment(name)}")
    output.show(done, lambda: click.echo(f"aggregate {name} is gone; its metric stays"))


@click.command(cls=Command)
@click.option("--hours", default=24.0, show_default=True, type=click.FloatRange(0, min_open=True), help="2, 24, 192, …")
@click.option("--by", type=click.Choice(["metric", "resource"]), default="metric", show_default=True)
@click.option("--end", metavar="ISO", help="Up to then (else up to the newest sample).")
@click.option("--limit", "-n", default=20, show_default=True, type=click.IntRange(1, 1000))
def anomalies(hours: float, by: str, end: str | None, limit: int) -> None:
    """
    Rank the metrics that were most unusual, for example `anomalies --hours 2`.

    Only samples with an anomaly likelihood of 0.9 or more count.
    """
    found = connect().get("/anomalies", {"hours": hours, "by": by, "end": end, "limit": limit})
    output.show(found, lambda: output.table(found["items"], RANKED_COLUMNS, empty="nothing was unusual"))
