"""`eventproc models`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from eventproc.cli import output
from eventproc.cli.base import Group
from eventproc.cli.emit import read_json
from eventproc.cli.metrics import end_option, start_option
from eventproc.cli.priming import params, prime
from eventproc.cli.remote import connect
from eventproc.errors import EventprocError, InvalidInput, NotFound

if TYPE_CHECKING:
    from eventproc.client import Connection

COLUMNS = ["name", "status", "last_rowid", "scored_rowid", "waiting", "last_timestamp", "message"]


@click.group(cls=Group)
def models() -> None:
    """Anomaly models of metrics."""


models.add_command(params)
models.add_command(prime)


@models.command("list")
@click.option("--status", help="ACTIVE, ERROR, PENDING_DATA, …")
@click.option("--name", metavar="GLOB", help="Such as 'web.*'.")
@click.option("--limit", "-n", type=click.IntRange(1))
def list_(status: str | None, name: str | None, limit: int | None) -> None:
    """List the monitored metrics, for example `models list --status ERROR`."""
    items = connect().connection.models(status=status, name=name, limit=limit)
    output.show(items, lambda: output.table(items, COLUMNS, empty="no metric is monitored"))


@models.command("status")
def status_() -> None:
    """Show all models at a glance: metrics by status, samples that wait, workers."""
    found = connect().connection.models_status()
    output.show(found, lambda: output.record(found))


@models.command("show")
@click.argument("metric")
def show(metric: str) -> None:
    """Show a METRIC (name or uid) and its model."""
    found = connect().connection.model(metric)
    output.show(found, lambda: output.record(found))


@models.command("create")
@click.argument("name")
@click.option("--resource", help="What the metric belongs to (else its name).")
def create(name: str, resource: str | None) -> None:
    """Create the metric NAME before its first sample."""
    done = connect().connection.create_metric(name, resource=resource)
    output.show(done, lambda: click.echo(f"created {done['name']} {done['uid']}"))


@models.command("monitor")
@click.argument("metrics", nargs=-1, metavar="[METRIC]...")
@click.option("--min", "minimum", type=float, help="Smallest value to expect; with --max.")
@click.option("--max", "maximum", type=float, help="Largest value to expect.")
@click.option("--min-resolution", type=float, help="Values nearer to each other than this are the same.")
@click.option("--predictions", is_flag=True, help="Store the predicted next value with each score.")
@click.option("--resource", help="What the metric belongs to.")
@click.option("--detector", help="default, statistics, htm, numenta_cpp, …; or user:NAME, one that was pushed.")
@click.option("--likelihood", help="default, table, one_sided or two_sided.")
@click.option("--range", type=click.Choice(["estimated", "learnt"]), help="Without --min and --max: estimated from 288 "
              "samples before there is a model (as htmengine does), or learnt by the model.")  # fmt: skip
@click.option("--timezone", help="An IANA name such as Europe/Berlin, for hours and weekdays.")
@click.option("--time-of-day/--no-time-of-day", default=None, help="Whether the memory knows the hour.")
@click.option("--day-of-week/--no-day-of-week", default=None, help="Whether the memory knows the weekday.")
@click.option("--spec", metavar="JSON|@FILE|-", help="A whole model specification instead.")
def monitor(metrics: tuple[str, ...], spec: str | None, **given: Any) -> int | None:
    """
    Give METRICs a model, for example `models monitor web.requests --min 0 --max 1000`.

    A pattern such as 'collectd.*' takes all metrics of such names that have none, unless a metric has just that name.
    Without --min and --max the range is estimated once there are 288 samples; `models activate` does not wait.
    """
    if bool(metrics) == (spec is not None):
        raise click.UsageError("name METRICs, or give --spec")
    connection = connect().connection
    if spec is not None:
        _said(connection.monitor(spec=read_json(spec)))
        return None
    options = _monitoring(given)
    if len(metrics) == 1 and not _is_pattern(connection, metrics[0]):
        _said(connection.monitor(metrics[0], **options))
        return None
    done: list[dict[str, Any]] = []
    failed: EventprocError | None = None
    for name in _unmonitored(connection, metrics):
        try:
            done.append(connection.monitor(name, **options))
        except EventprocError as error:  # one that can not have it is no other's fault
            failed = failed or error
            done.append({"name": name, "status": "", "message": error.message})
    output.show(done, lambda: output.table(done, ["name", "status", "message"], empty="all of them have a model"))
    return None if failed is None else failed.exit_code


def _monitoring(given: dict[str, Any]) -> dict[str, Any]:
    names = {"time_of_day": "timeOfDay", "day_of_week": "dayOfWeek"}
    options = {
        names.get(key, key): given[key]
        for key in ("detector", "likelihood", "range", "timezone", "time_of_day", "day_of_week")
        if given[key] is not None
    }
    return {
        "min": given["minimum"],
        "max": given["maximum"],
        "min_resolution": given["min_resolution"],
        "predictions": given["predictions"],
        "resource": given["resource"],
        **options,
    }


def _is_pattern(connection: Connection, name: str) -> bool:
    """Tell whether metrics are meant that have such names; a metric of just that name is meant before them."""
    if not any(letter in name for letter in "*?"):  # [ alone is more often part of a name
        return False
    try:
        connection.metric(name)
    except NotFound:
        return True
    return False


def _unmonitored(connection: Connection, given: Sequence[str]) -> list[str]:
    """Return the names that are none but names, and of patterns those of metrics without a model."""
    found: dict[str, None] = {}
    for name in given:
        if not _is_pattern(connection, name):
            found[name] = None
            continue
        matching = connection.metrics(name)
        if not matching:
            raise NotFound(
                f"no metric has a name like {name!r}: `eventproc metrics list` shows those there are; --spec takes a "
                "name literally, also of a metric that is not there yet"
            )
        found.update((one["name"], None) for one in matching if one["status"] == "UNMONITORED")
    return list(found)


def _said(done: dict[str, Any]) -> None:
    output.show(done, lambda: click.echo(f"{done['name']} {done['uid']}: {done['status']}"))


@models.command("unmonitor")
@click.argument("metric")
def unmonitor(metric: str) -> None:
    """Take METRIC's model and its scores away; the samples stay."""
    _said(connect().connection.unmonitor(metric))


@models.command("delete")
@click.argument("metric")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(metric: str, *, yes: bool) -> None:
    """Delete METRIC with its model and all of its samples."""
    if not yes:
        click.confirm(f"delete {metric} and all of its samples?", abort=True)
    connect().connection.delete_metric(metric)
    output.show({"deleted": metric}, lambda: click.echo(f"{metric} is gone"))


@models.command("activate")
@click.argument("metric")
def activate(metric: str) -> None:
    """Estimate METRIC's range of values now, from the samples that there are."""
    _said(connect().connection.activate(metric))


@models.command("retry")
@click.argument("metrics", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All metrics in ERROR.")
@click.option("--fresh", is_flag=True, help="Give up what the models have learnt and train new ones.")
def retry(metrics: tuple[str, ...], *, everything: bool, fresh: bool) -> None:
    """Take METRICS out of ERROR; what arrived meanwhile is scored."""
    connection = connect().connection
    if bool(metrics) == everything:
        raise click.UsageError("name METRICS, or say --all")
    names = [one["uid"] for one in connection.models(status="ERROR")] if everything else list(metrics)
    done = [connection.retry_model(name, fresh=fresh) for name in names]
    output.show(done, lambda: output.table(done, ["name", "status"], empty="no metric is in ERROR"))


@models.command("export")
@click.argument("metrics", nargs=-1, required=True)
@click.option("--days", type=click.FloatRange(0), help="Before now: 14 if no start or end is given. 0: all samples.")
@start_option
@end_option
@click.option("--out", "-o", type=click.File("w"), default="-", help="A file, else standard output.")
def export(metrics: tuple[str, ...], days: float | None, start: str | None, end: str | None, out: Any) -> None:
    """
    Write METRICS' specifications and samples as JSON, for `models import`.

    The samples are those of the last 14 days before now, unless --days, --start or --end say otherwise:
    `models export web.requests --days 0 -o web.json` writes all of them.
    """
    connection = connect().connection
    found = [connection.export_model(metric, days=days, start=start, end=end) for metric in metrics]
    json.dump(found[0] if len(found) == 1 else found, out, ensure_ascii=False, indent=1)
    out.write("\n")
    limited = days is None and start is None and end is None
    for metric, exported in zip(metrics, found, strict=True):
        output.note(_of_when(metric, exported["data"]) + (" (the last 14 days; --days 0: all)" if limited else ""))


def _of_when(metric: str, data: list[Any]) -> str:
    span = f" from {data[0][1]} to {data[-1][1]}" if data else ""
    return output.plain(f"{metric}: {len(data):,} samples{span}")


@models.command("import")
@click.argument("file", type=click.File("rb"))
def import_(file: BinaryIO) -> None:
    """Make models of an export (FILE or -); metrics that are monitored already are left alone."""
    connection = connect().connection
    done = [connection.import_model(one) for one in _exports(file)]
    output.show(done, lambda: output.table(done, ["name", "uid", "status"]))


def _exports(file: BinaryIO) -> list[dict[str, Any]]:
    try:
        read: Callable[[BinaryIO], Any] = json.load
        found = read(file)
    except ValueError as error:
        raise InvalidInput(f"{file.name} is no JSON: {error}") from error
    return found if isinstance(found, list) else [found]
