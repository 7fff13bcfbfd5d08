"""`eventproc models prime` and `eventproc models params`: a model that starts with a history, and what suits it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Command, state
from eventproc.cli.remote import Remote, connect
from eventproc.client.paths import segment
from eventproc.errors import Conflict, DeadlineExceeded, InvalidInput, NotFound

POLL_S = 0.3


@click.command("params", cls=Command)
@click.argument("metric")
def params(metric: str) -> None:
    """Find aggregation, use of the time of day and range for the stored METRIC."""
    found = connect().get(f"/parameters/{segment(metric)}")
    output.show(found, lambda: output.record(found))


@click.command("prime", cls=Command)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--detector", help="default, statistics, htm, …; or user:NAME.")
@click.option("--min", "minimum", type=float, help="Smallest value to expect (else from the file).")
@click.option("--max", "maximum", type=float)
@click.option("--timezone", default="UTC", show_default=True, help="Of times without one, and of hours and days.")
@click.option("--resource", help="What the metric belongs to (else its name).")
@click.option("--find-params", is_flag=True, help="Let the parameter finder choose the use of the time of day.")
@click.option("--timestamp-column", metavar="NAME|N")
@click.option("--value-column", metavar="NAME|N")
@click.option("--date-format", metavar="FORMAT", help="iso, day-first, month-first, epoch-s, … or a pattern.")
@click.option("--wait/--no-wait", default=True, help="Stay until all of it is scored.")
@click.option("--timeout", "timeout_s", default=600.0, show_default=True, help="Seconds to stay at most.")
def prime(
    name: str,
    file: Path,
    *,
    timezone: str,
    timestamp_column: str | None,
    value_column: str | None,
    date_format: str | None,
    wait: bool,
    timeout_s: float,
    **wanted: Any,
) -> int:
    """
    Give the metric NAME the history in FILE (a CSV) and a model that has learnt it, before its first live sample.

    Rows that do not advance in time are reported and left out, as the platform does with live samples.

    Example: eventproc models prime web.requests history.csv
    """
    from eventproc.htm.records import zone_named
    from eventproc.scoring import Columns, read_csv

    try:
        zone = zone_named(timezone)
    except ValueError as error:
        raise InvalidInput(f"--timezone: {error}") from error
    columns = Columns(timestamp=timestamp_column, value=value_column, date_format=date_format)
    table = read_csv(file, columns, zone=zone, option="--date-format")
    for row in (*table.refused, *table.odd)[:20]:
        output.note(f"{output.style('warning', fg='yellow')}: {output.plain(row)}")
    taken = table.advancing()
    spec = _spec(name, taken, timezone=timezone, **wanted)
    remote = connect()
    _check_fresh(remote, name)
    data = [[value, when] for value, when in zip(taken.values.tolist(), taken.seconds.tolist(), strict=True)]
    model = remote.post("/models/import", {**spec, "data": data})
    if model["status"] == "PENDING_DATA":
        model = remote.post(f"/models/{segment(name)}/activate")
    if wait:
        model = _until_scored(remote, name, timeout_s)
    left_out = len(table.lines) - len(taken.lines)
    summary = {
        "metric": name,
        "uid": model["uid"],
        "status": model["status"],
        "stored": len(data),
        "scored": model["scored_rowid"],
        "left_out": len(table.refused) + left_out,
        "missing": table.missing,
    }
    output.show(summary, lambda: output.record(summary))
    return 1 if model["status"] == "ERROR" else 0


def _spec(
    name: str,
    table: Any,
    *,
    timezone: str,
    detector: str | None,
    minimum: float | None,
    maximum: float | None,
    resource: str | None,
    find_params: bool,
) -> dict[str, Any]:
    from eventproc.scoring import find_parameters

    if (minimum is None) != (maximum is None):
        raise click.UsageError("give --min and --max both, or neither")
    metric = {"metric": name} | ({"resource": resource} if resource else {})
    spec: dict[str, Any] = {"datasource": "custom", "metricSpec": metric}
    options: dict[str, Any] = {"timezone": timezone} if timezone != "UTC" else {}
    if detector:
        options["detector"] = detector
    if find_params:
        found = find_parameters(table.seconds, table.values)
        for reason in found.reasons:
            output.note(f"parameter finder: {reason}")
        if found.parameters(detector or "default"):
            options["timeOfDay"] = found.time_of_day
    if minimum is not None:
        spec["modelParams"] = {"min": minimum, "max": maximum}
    if options:
        spec["options"] = options
    return spec


def _check_fresh(remote: Remote, name: str) -> None:
    try:
        found = remote.get(f"/models/{segment(name)}")
    except NotFound:
        return
    if found["status"] != "UNMONITORED":
        raise Conflict(f"the metric {name!r} is monitored already: `eventproc models unmonitor {name}` first")
    if found["last_rowid"]:
        raise Conflict(
            f"the metric {name!r} has {found['last_rowid']} samples, and a history must come before the first: prime "
            "under another name, or delete the metric"
        )


def _until_scored(remote: Remote, name: str, timeout_s: float) -> dict[str, Any]:
    until = time.monotonic() + timeout_s
    with _progress() as show:
        while True:
            model: dict[str, Any] = remote.get(f"/models/{segment(name)}")
            show(model["scored_rowid"], model["last_rowid"])
            if model["status"] == "ERROR":
                output.note(f"{output.style('error', fg='red')}: {output.plain(model['message'])}")
                return model
            if model["status"] == "ACTIVE" and not model["waiting"]:
                return model
            if time.monotonic() > until:
                raise DeadlineExceeded(
                    f"{model['scored_rowid']} of {model['last_rowid']} samples are scored after {timeout_s:g} s"
                )
            time.sleep(POLL_S)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=state().json or not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
