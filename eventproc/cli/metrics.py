"""`eventproc metrics`."""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group, state
from eventproc.cli.remote import connect
from eventproc.errors import ConfigError, InvalidInput, ServerUnreachable

COLUMNS = ["name", "status", "accepted", "rejected", "last_time", "uid"]
SAMPLE_COLUMNS = ["rowid", "time", "value", "raw_score", "anomaly"]
start_option = click.option("--start", metavar="TIME", help="ISO-8601 or seconds since 1970; belongs to it.")
end_option = click.option("--end", metavar="TIME", help="ISO-8601 or seconds since 1970; does not belong to it.")
to_option = click.option(
    "--to", metavar="HOST:PORT", help="A Graphite port (else that of the platform on this machine)."
)


@click.group(cls=Group)
def metrics() -> None:
    """Metrics and their samples."""


@metrics.command("list")
@click.argument("name", required=False)
@click.option("--tag", "-t", "tags", multiple=True, metavar="KEY=VALUE", help="The value may be a glob.")
@click.option("--status", help="UNMONITORED, ACTIVE, ERROR, PENDING_DATA, …")
@click.option("--limit", "-n", type=click.IntRange(1))
def list_(name: str | None, tags: tuple[str, ...], status: str | None, limit: int | None) -> None:
    """List metrics, for example `metrics list 'web.*' -t dc=eu`."""
    found = connect().connection.metrics(name, tags=_tags(tags), status=status, limit=limit)
    output.show(found, lambda: output.table(found, COLUMNS, empty="there are no metrics"))


def _tags(given: Iterable[str]) -> dict[str, str]:
    pairs = [item.partition("=") for item in given]
    for key, equal, _ in pairs:
        if not equal:
            raise click.UsageError(f"--tag must be KEY=VALUE, not {key!r}")
    return {key: value for key, _, value in pairs}


@metrics.command("show")
@click.argument("metric")
def show(metric: str) -> None:
    """Show one METRIC (name or uid)."""
    found = connect().connection.metric(metric)
    output.show(found, lambda: output.record(found))


@metrics.command("query")
@click.argument("metric")
@start_option
@end_option
@click.option("--min-score", type=click.FloatRange(0, 1), help="Only samples at least that unusual.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="The newest so many.")
@click.option("--all", "everything", is_flag=True, help="All of them, oldest first.")
@click.option("--window", metavar="SECONDS", type=click.FloatRange(min=0, min_open=True), help="Sum up stretches.")
def query(metric: str, *, everything: bool, window: float | None, limit: int, **given: Any) -> None:
    """Show samples of METRIC with their scores, for example `metrics query web.requests --min-score 0.99`."""
    connection = connect().connection
    if window is not None:
        found = connection.metric_windows(metric, window, given["start"], given["end"])
        columns = ["start", "count", "min", "mean", "max", "anomaly"]
    else:
        found = connection.samples(
            metric,
            given["start"],
            given["end"],
            min_score=given["min_score"],
            newest_first=not everything,
            limit=None if everything else limit,
        )
        columns = SAMPLE_COLUMNS
    output.show(found, lambda: output.table(found, columns, empty="there are no such samples"))


@metrics.command("dump")
@click.argument("names", nargs=-1)
@start_option
@end_option
def dump(names: tuple[str, ...], start: str | None, end: str | None) -> None:
    """
    Print `name value timestamp` lines of the metrics NAMES (globs too), else of all.

    What is printed is exact: `eventproc metrics import` and every Graphite port take it as it is.
    """
    pieces = connect().connection.dump_samples(*names, start=start, end=end)
    if not state().json:
        for piece in pieces:
            sys.stdout.write(piece)
        return
    for line in _lines(pieces):
        name, value, at = line.split()
        output.print_json({"name": name, "value": float(value), "timestamp": float(at)})


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        yield from whole


@metrics.command("export")
@click.argument("metric")
@click.option("--out", "-o", type=click.File("w"), default="-", help="A file, else standard output.")
@start_option
@end_option
def export(metric: str, out: Any, start: str | None, end: str | None) -> None:
    """Write METRIC as CSV: timestamp, value, raw_score, anomaly_score, as `eventproc score` writes and reads it."""
    found = connect().connection.samples(metric, start, end)
    if state().json:
        output.print_json(found)
        return
    out.write("timestamp,value,raw_score,anomaly_score\n")
    for one in found:
        scores = ["" if one[key] is None else repr(one[key]) for key in ("raw_score", "anomaly")]
        out.write(f"{one['time']},{one['value']!r},{scores[0]},{scores[1]}\n")


@metrics.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--name", help="The metric's name: FILE is CSV with timestamps and values.")
def import_(file: Path, name: str | None) -> int:
    """
    Send the samples of FILE (`-`: standard input): Graphite lines, JSON lines, or CSV with --name.

    Bad ones are refused singly, and shown; the others are stored.
    """
    done = connect().connection.send_sample_lines(_from_file(file) if name is None else _from_csv(file, name))
    output.show(done, lambda: _said(done))
    return 0 if not done["rejected"] else InvalidInput.exit_code


def _from_file(file: Path) -> Iterator[bytes]:
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as lines:
            yield from lines
    except OSError as error:
        raise InvalidInput(f"{file} can not be read: {error.strerror}") from error


def _from_csv(file: Path, name: str) -> Iterator[str]:
    from eventproc.scoring.table import read_csv

    table = read_csv(file)
    for refused in table.refused:
        output.note(f"line {refused.line}: {refused.reason}")
    for second, value in zip(table.seconds.tolist(), table.values.tolist(), strict=True):
        yield f"{name} {value!r} {second:.6f}"


def _said(done: dict[str, Any]) -> None:
    click.echo(f"{done['accepted']} samples stored, {done['created']} new metrics")
    for reason, count in done["rejected"].items():
        click.echo(f"{count} refused: {reason}")
    for one in done["examples"]:
        click.echo(f"  line {one['line']}: {one['reason']}: {output.plain(one['text'])}")
    first = next((one for one in done["examples"] if one["line"] == 1), None)
    if first is not None and not done["accepted"] and re.search(r"[,;\t]", first["text"]):
        output.note("this looks like a CSV file: --name METRIC says whose samples it holds")


@metrics.command("rejected")
@click.option("--reason", help="late, duplicate, 'bad value', …")
@click.option("--metric", metavar="GLOB", help="Of these metrics.")
@click.option("--source", metavar="GLOB", help="Such as 'graphite tcp 10.0.*'.")
@click.option("--since", metavar="TIME", help="Last refused at that time or later.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=100)
def rejected(**given: Any) -> None:
    """Show which samples were refused, why, where they came from, and the last examples."""
    found = connect().connection.rejected_samples(**given)
    rows = [{**one, "example": (one["examples"] or [""])[-1]} for one in found]
    columns = ["reason", "count", "metric", "source", "last_at", "example"]
    output.show(found, lambda: output.table(rows, columns, empty="nothing was refused"))


@metrics.command("delete")
@click.argument("metric")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(metric: str, *, yes: bool) -> None:
    """Delete METRIC with its model and all of its samples."""
    if not yes:
        click.confirm(f"delete {metric} and all of its samples?", abort=True)
    connect().connection.delete_metric(metric)
    output.show({"deleted": metric}, lambda: click.echo(f"{metric} is gone"))


# ------------------------------------------------------------------------------------------------ senders


def _address(to: str | None) -> tuple[str, int]:
    """Return where to send: what was said, else the Graphite port of the platform on this machine."""
    from eventproc.config import Address, load

    if to is None:
        import json

        file = load(config=state().config).endpoints_file
        try:
            to = json.loads(file.read_text(encoding="utf-8")).get("graphite")
        except (OSError, ValueError):
            to = None
        if to is None:
            raise ConfigError(f"no Graphite port is known ({file}): start `eventproc serve`, or say --to HOST:PORT")
    try:
        address = Address.parse(to)
    except ValueError as error:
        raise InvalidInput(f"--to: {error}") from error
    return address.host, address.port


@metrics.command("agent")
@to_option
@click.option("--every", metavar="SECONDS", type=click.FloatRange(min=0.1), default=60.0, show_default=True)
@click.option("--prefix", help="Begins all names (else hosts.HOSTNAME).")
@click.option("--key", envvar="EVENTPROC_GRAPHITE_KEY", help="The port's key, where it wants one.")
@click.option("--count", type=click.IntRange(1), help="End after so many readings.")
def agent(to: str | None, every: float, prefix: str | None, key: str | None, count: int | None) -> int:
    """Send this host's processor, memory, disk and network figures to a Graphite port, until Ctrl-C."""
    from eventproc.metrics.agent import Agent, lines_of, send

    if prefix is not None and not re.fullmatch(r"[!-:<-~]+", prefix):
        raise InvalidInput(f"--prefix must be printable ASCII without blanks and ';', not {prefix!r}")
    address = _address(to)
    reader = Agent(prefix) if prefix else Agent()
    if key:
        reader.prefix = f"{key}.{reader.prefix}"
    reader.read()  # rates need a reading before
    time.sleep(min(every, 1.0))
    for number in itertools.count(1):
        figures = reader.read()
        try:
            send(address, lines_of(figures, time.time()))
        except OSError as error:
            if number == 1:
                raise ServerUnreachable(f"{address[0]}:{address[1]} does not take samples: {error}") from error
            output.note(f"{address[0]}:{address[1]} does not take samples ({error}); trying again")
        else:
            output.show({"sent": len(figures)}, lambda: click.echo(f"sent {len(figures)} samples"))  # noqa: B023
        if count is not None and number >= count:
            break
        time.sleep(every - time.time() % every)  # on whole multiples, so that hosts agree
    return 0


@metrics.command("load")
@to_option
@click.option("--metrics", "number", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=100, show_default=True, help="Samples of each metric.")
@click.option("--rate", type=click.FloatRange(min=1), help="Samples per second (else as many as are taken).")
@click.option("--start", type=click.IntRange(0), help="Time of the first round in seconds since 1970 (else now).")
@click.option("--step", type=click.IntRange(1), default=300, show_default=True, help="Seconds between rounds.")
@click.option("--prefix", default="load", show_default=True)
def load_(to: str | None, number: int, rounds: int, *, start: int | None, step: int, **given: Any) -> None:
    """Send made-up samples of many metrics to a Graphite port, and say how quickly they were taken."""
    from eventproc.metrics.load import Load, send_load

    begin = int(time.time()) - rounds * step if start is None else start
    load = Load(metrics=number, rounds=rounds, start_s=begin, step_s=step, rate=given["rate"], prefix=given["prefix"])
    address = _address(to)
    try:
        sent, seconds = send_load(address, load)
    except OSError as error:
        raise ServerUnreachable(f"{address[0]}:{address[1]} does not take samples: {error}") from error
    done = {"samples": sent, "seconds": round(seconds, 3), "per_second": round(sent / seconds)}
    output.show(done, lambda: click.echo(f"{sent} samples in {seconds:.2f} s: {sent / seconds:,.0f} per second"))
