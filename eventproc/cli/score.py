"""`eventproc score`: anomaly scores of a CSV file, without a server."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventproc.cli import output
from eventproc.cli.base import Command, state
from eventproc.errors import ConfigError, InvalidInput

if TYPE_CHECKING:
    from eventproc.scoring import Finding, Own, Plan, Scored, Table

SHOWN = 10  # odd rows that are shown to people one by one; --json has all
ANOMALIES_FOUND = 1


@dataclass(frozen=True)
class Asked:
    """The options."""

    file: Path
    out: Path | None
    plot: Path | None
    top: int
    threshold: float
    aggregate: str | None
    find_params: bool
    unordered: str
    labels: Path | None
    exit_code: bool
    quiet: bool


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--out", "-o", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True), metavar="OUT.csv",
              help="Write timestamp, value, raw_score, anomaly_score there (`-`: stdout).")  # fmt: skip
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="P.png", help="Draw values and scores."
)
@click.option("--detector", "-d", default="default", show_default=True,
              help="default, statistics, htm, numenta, …; or FILE.py:CLASS, a class of one's own.")  # fmt: skip
@click.option("--param", "-p", "params", multiple=True, metavar="NAME=VALUE", help="A parameter; may be repeated.")
@click.option("--params", "params_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Parameters as a JSON object.")  # fmt: skip
@click.option("--min", "minimum", type=float, help="Smallest value to expect (else from the learning period).")
@click.option("--max", "maximum", type=float, help="Largest value to expect.")
@click.option("--learning", type=click.IntRange(0), metavar="ROWS", help="Rows to learn (else 15 %, at most 750).")
@click.option("--aggregate", "-a", metavar="WINDOW[:FUNC]", help="Gather rows first: 15m, 1h:sum, 1d:max.")
@click.option("--find-params", is_flag=True, help="Let the parameter finder choose aggregation and range rules.")
@click.option("--timezone", default="UTC", show_default=True, help="Zone of times without one, and of hours and days.")
@click.option("--seed", type=int, help="Seed of the model's random numbers.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Score that counts as an anomaly.  [default: 0.67]")
@click.option("--top", default=5, show_default=True, type=click.IntRange(0), help="Anomalies to explain.")
@click.option("--timestamp-column", metavar="NAME|N", help="Column of the times (else found).")
@click.option("--value-column", metavar="NAME|N", help="Column of the values (else found).")
@click.option("--label-column", metavar="NAME|N", help="Column of labels, for the plot and the summary only.")
@click.option("--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE.json",
              help="Labelled windows: a list of [start, end], or NAB's combined_windows.json.")  # fmt: skip
@click.option("--delimiter", metavar="CHAR", help="Between cells (else found).")
@click.option("--date-format", metavar="FORMAT",
              help="iso, day-first, month-first, epoch-s, … or a pattern: '%d/%m/%Y %H:%M' (else found).")  # fmt: skip
@click.option("--unordered", type=click.Choice(["keep", "skip", "fail"]), default="keep", show_default=True,
              help="What to do with rows whose time repeats or goes back.")  # fmt: skip
@click.option("--exit-code", is_flag=True, help="Exit with 1 when a row reaches the threshold.")
@click.option("--quiet", "-q", is_flag=True, help="Only errors.")
def score(  # one argument for each option
    file: Path,
    *,
    detector: str,
    params: tuple[str, ...],
    params_file: Path | None,
    minimum: float | None,
    maximum: float | None,
    learning: int | None,
    timezone: str,
    seed: int | None,
    timestamp_column: str | None,
    value_column: str | None,
    label_column: str | None,
    delimiter: str | None,
    date_format: str | None,
    threshold: float | None,
    **options: Any,
) -> int:
    """
    Score the series in FILE, a CSV with times and values (`-`: stdin; .gz is unpacked).

    Each row is scored before it is learnt, as a live sample would be; labels are never shown to the detector. Columns,
    date format and delimiter are found by looking at all rows. Rows without a value are left out and counted; rows that
    can not be read are reported one by one.

    Example: eventproc score cpu.csv --out scores.csv --plot cpu.png
    """
    from eventproc.htm.records import zone_named
    from eventproc.scoring import Columns, Plan, read_csv
    from eventproc.scoring.score import THRESHOLD

    if detector.startswith("user:"):
        raise InvalidInput(
            f"--detector {detector}: detectors that users registered run in the platform's sandbox only; there, "
            f"`eventproc models prime NAME {file} --detector {detector}` scores a file; here, --detector FILE.py:CLASS "
            "does",
            detector=detector,
        )
    asked = Asked(file=file, threshold=THRESHOLD if threshold is None else threshold, **options)
    if (minimum is None) != (maximum is None):
        raise click.UsageError("give --min and --max both, or neither")
    for name, path in (("--out", asked.out), ("--plot", asked.plot)):
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"{name} {path}: the folder {path.absolute().parent} does not exist")
    if asked.plot is not None:
        _check_plot(asked.plot)
    try:
        zone = zone_named(timezone)
    except ValueError as error:
        raise InvalidInput(f"--timezone: {error}") from error
    columns = Columns(
        timestamp=timestamp_column,
        value=value_column,
        label=label_column,
        delimiter=_delimiter(delimiter),
        date_format=date_format,
    )
    table = read_csv(file, columns, zone=zone, option="--date-format")
    plan = Plan(
        detector=detector,
        own=_own(detector),
        minimum=minimum,
        maximum=maximum,
        learning=learning,
        timezone=timezone,
        seed=seed,
        changes=_changes(params, params_file),
    )
    return _Scoring(asked, zone, table, plan).run()


def _own(detector: str) -> Own | None:
    """Return the class of `FILE.py` or `FILE.py:CLASS`."""
    from eventproc.cli.detectors import class_in
    from eventproc.scoring import Own

    file, sign, name = detector.rpartition(":") if not detector.endswith(".py") else (detector, "", "")
    if not file.endswith(".py"):
        return None
    if sign and not name.isidentifier():
        raise InvalidInput(f"--detector {detector}: write FILE.py:CLASS", detector=detector)
    found = class_in(Path(file), name or None, how=f"write {file}:CLASS")
    return Own(found, detector if name else f"{file}:{found.__name__}")


def _check_plot(path: Path) -> None:
    from eventproc.scoring.plot import check_matplotlib

    check_matplotlib()
    if path.suffix.lower() not in (".png", ".svg", ".pdf", ".jpg", ".jpeg"):
        raise InvalidInput(f"--plot {path}: the suffix must be .png, .svg, .pdf or .jpg")


def _delimiter(given: str | None) -> str | None:
    named = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}.get(given or "", given)
    if named is not None and len(named) != 1:
        raise InvalidInput(f"--delimiter {given!r}: one character is needed")
    return named


def _changes(params: tuple[str, ...], file: Path | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if file is not None:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidInput(f"--params {file}: not a JSON file: {error}") from error
        if not isinstance(found, dict):
            raise InvalidInput(f"--params {file}: a JSON object is needed")
    for text in params:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InvalidInput(f"--param {text!r}: write NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


class _Scoring:
    """One file on its way to scores."""

    def __init__(self, asked: Asked, zone: dt.tzinfo, table: Table, plan: Plan) -> None:
        self.asked, self.zone, self.table, self.plan = asked, zone, table, plan
        self.finding: Finding | None = None
        self.aggregation: dict[str, Any] | None = None

    def run(self) -> int:
        from eventproc.scoring import score as score_series

        self._report_rows()
        table = self._ordered()
        self._find(table)
        seconds, values, stamps = self._gathered(table)
        self._warn_of_compiling()
        with progress_bar(disable=self.asked.quiet) as progress:
            scored = score_series(seconds, values, self.plan, progress=progress)
        windows = self._windows(table)
        if self.asked.out is not None:
            _write(self.asked.out, stamps, scored)
        if self.asked.plot is not None:
            self._draw(seconds, scored, windows)
        summary = self._summary(table, seconds, stamps, scored, windows)
        if self.asked.out is None or str(self.asked.out) != "-":
            output.show(summary, lambda: None if self.asked.quiet else self._show(summary))
        found = bool(summary["anomalies"])
        return ANOMALIES_FOUND if self.asked.exit_code and found else 0

    def _warn_of_compiling(self) -> None:
        from eventproc.htm import jit, warm

        if self.asked.quiet or self.plan.own is not None or (jit.COMPILED and warm.compiled()):
            return
        self._say(
            "compiling the models' kernels: half a minute, once on this machine" if jit.COMPILED else warm.MISSING
        )

    # Rows.

    def _say(self, text: str) -> None:
        if not self.asked.quiet:
            output.note(text)

    def _report_rows(self) -> None:
        for what, rows in (("left out", self.table.refused), ("odd", self.table.odd)):
            for row in rows[:SHOWN]:
                self._say(f"{output.style('warning', fg='yellow')}: {output.plain(row)}")
            if len(rows) > SHOWN:
                self._say(f"… and {len(rows) - SHOWN} more rows are {what} (--json lists all)")

    def _ordered(self) -> Table:
        if not self.table.odd or self.asked.unordered == "keep":
            return self.table
        if self.asked.unordered == "fail":
            raise InvalidInput(
                f"{self.asked.file}: {len(self.table.odd)} rows repeat a time or go back; the first is "
                f"{self.table.odd[0]} (--unordered keep scores them, skip leaves them out)"
            )
        return self.table.advancing()

    def _find(self, table: Table) -> None:
        from dataclasses import replace

        from eventproc.scoring import find_parameters

        if not self.asked.find_params:
            return
        self.finding = find_parameters(table.seconds, table.values)
        self.plan = replace(self.plan, changes={**self.finding.parameters(self.plan.detector), **self.plan.changes})
        for reason in self.finding.reasons:
            self._say(f"parameter finder: {reason}")

    def _gathered(self, table: Table) -> tuple[Any, Any, list[str]]:
        """Return times, values and their texts, gathered into windows where that was asked for or found."""
        from eventproc.registry.durations import parse_duration
        from eventproc.scoring import aggregate

        window, function = None, "mean"
        if self.asked.aggregate:
            text, _, given = self.asked.aggregate.partition(":")
            window, function = parse_duration(text, "--aggregate"), given or "mean"
        elif self.finding is not None and self.finding.window_s is not None:
            window, function = self.finding.window_s, self.finding.function
        if window is None:
            return table.seconds, table.values, table.stamps
        seconds, values = aggregate(table.seconds, table.values, window, function)
        self.aggregation = {"window": window, "function": function, "rows": int(values.size)}
        stamps = [self._stamp(time) for time in seconds.tolist()]
        return seconds, values, stamps

    def _stamp(self, seconds: float) -> str:
        moment = dt.datetime.fromtimestamp(seconds, self.zone)
        return (moment.replace(tzinfo=None) if self.zone is dt.UTC else moment).isoformat(sep=" ")

    # Labels.

    def _windows(self, table: Table) -> list[tuple[float, float]]:
        from eventproc.scoring.plot import spans_of

        if self.asked.labels is not None:
            return _labelled(self.asked.labels, self.asked.file, self.zone)
        return spans_of(table.seconds, table.labels) if table.labels is not None else []

    # What comes out.

    def _draw(self, seconds: Any, scored: Scored, windows: list[tuple[float, float]]) -> None:
        from eventproc.scoring.plot import draw

        assert self.asked.plot is not None
        try:
            draw(
                self.asked.plot,
                seconds,
                scored.values,
                scored.scores,
                threshold=self.asked.threshold,
                title=self.asked.file.name,
                value_name=self.table.columns["value"],
                windows=windows,
                learning=scored.learning,
                zone=self.zone,
            )
        except OSError as error:
            raise InvalidInput(f"--plot {self.asked.plot} can not be written: {error.strerror}") from error

    def _summary(
        self, table: Table, seconds: Any, stamps: list[str], scored: Scored, windows: list[tuple[float, float]]
    ) -> dict[str, Any]:
        import numpy as np

        above = scored.above(self.asked.threshold)
        result: dict[str, Any] = {
            "file": str(self.asked.file),
            "rows": len(stamps),
            "columns": self.table.columns,
            "date_format": self.table.date_format.name,
            "missing": self.table.missing,
            "refused": [{"line": row.line, "kind": row.kind, "reason": row.reason} for row in self.table.refused],
            "odd": [{"line": row.line, "kind": row.kind, "reason": row.reason} for row in self.table.odd],
            "detector": self.plan.own.name if self.plan.own is not None else self.plan.detector,
            "learning": scored.learning,
            "threshold": self.asked.threshold,
            "anomalies": len(above),
            "top": [_anomaly(row, stamps, scored) for row in scored.top(self.asked.top)],
        }
        if len(table.lines) < len(self.table.lines):
            result["skipped"] = len(self.table.lines) - len(table.lines)
        if self.aggregation:
            result["aggregation"] = self.aggregation
        if self.finding is not None:
            result["finding"] = self.finding.to_json()
        if windows:
            times = [float(seconds[row]) for row in above]
            hit = [any(first <= time <= last for time in times) for first, last in windows]
            inside = sum(any(first <= time <= last for first, last in windows) for time in times)
            result["labelled"] = {"windows": len(windows), "found": sum(hit), "outside": len(times) - inside}
        if unscored := int(np.isnan(scored.scores).sum()):
            result["unscored"] = unscored
        for name, path in (("out", self.asked.out), ("plot", self.asked.plot)):
            if path is not None:
                result[name] = str(path)
        return result

    def _show(self, summary: dict[str, Any]) -> None:
        left_out = [
            f"{count} {what}"
            for count, what in (
                (summary["missing"], "without a value"),
                (len(summary["refused"]), "not readable"),
                (summary.get("skipped", 0), "not later than those before"),
            )
            if count
        ]
        rest = f" ({', '.join(left_out)} left out)" if left_out else ""
        click.echo(
            f"{summary['rows']} rows scored{rest}; {summary['anomalies']} at {summary['threshold']:g} or above, "
            f"{summary['learning']} were for learning"
        )
        if "unscored" in summary:
            click.echo(f"the detector gave no number for {summary['unscored']} rows: their scores are left empty")
        if labelled := summary.get("labelled"):
            click.echo(
                f"{labelled['found']} of {labelled['windows']} labelled windows hold one; {labelled['outside']} outside"
            )
        if summary["top"]:
            output.table(summary["top"], ["timestamp", "value", "anomaly_score", "explanation"])
        for name in ("out", "plot"):
            if name in summary:
                click.echo(f"{name}: {summary[name]}")


def _anomaly(row: int, stamps: list[str], scored: Scored) -> dict[str, Any]:
    reading = scored.reading(row)
    return {
        "row": row + 1,
        "timestamp": stamps[row],
        "value": float(scored.values[row]),
        "anomaly_score": round(float(scored.scores[row]), 6),
        "raw_score": round(float(scored.raw_scores[row]), 6),
        "cause": reading.cause,
        "explanation": reading.explain(),
    }


def _write(path: Path, stamps: list[str], scored: Scored) -> None:
    """Write the table: to stdout, or whole to its place, so that nobody ever reads half of it."""
    if str(path) == "-":
        _write_rows(sys.stdout, stamps, scored)
        return
    try:
        mode = 0o666 & ~_umask()
        with tempfile.NamedTemporaryFile(
            "w", dir=path.absolute().parent, prefix=f".{path.name}.", newline="", encoding="utf-8", delete=False
        ) as file:
            made = Path(file.name)
            try:
                _write_rows(file, stamps, scored)
            except BaseException:
                made.unlink(missing_ok=True)
                raise
        made.chmod(mode)
        made.replace(path)
    except OSError as error:
        raise ConfigError(f"--out {path} can not be written: {error.strerror}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_rows(file: Any, stamps: list[str], scored: Scored) -> None:
    import csv

    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["timestamp", "value", "raw_score", "anomaly_score"])
    columns = (scored.values, scored.raw_scores, scored.scores)
    texts = ([None if math.isnan(each) else each for each in column.tolist()] for column in columns)
    rows.writerows(zip(stamps, *texts, strict=True))


def _labelled(path: Path, file: Path, zone: dt.tzinfo) -> list[tuple[float, float]]:
    """Read labelled windows: a list of [start, end], or an object of such lists by file name."""
    from eventproc.scoring.dates import ISO

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            names = [name for name in found if Path(name).name == file.name]
            if not names:
                raise InvalidInput(f"--labels {path}: holds no windows of {file.name}")
            found = found[names[0]]
        return [(ISO.read_us(start, zone) / 1e6, ISO.read_us(end, zone) / 1e6) for start, end in found]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"--labels {path}: a list of [start, end] is needed, ISO times: {error}") from error


@contextlib.contextmanager
def progress_bar(*, disable: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show how scoring gets on, where there is a terminal to show it on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=disable or state().json or not console.is_terminal) as bar:
        task = bar.add_task("compiling (once on a machine)", total=None)

        def step(done: int, total: int) -> None:
            if done:
                bar.update(task, completed=done, total=total, description="scoring")

        yield step
