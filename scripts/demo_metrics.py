"""
The line from samples to a mail, for `scripts/run --demo`: Graphite port, anomaly model, handler, plot.

The series is river's WaterFlow where it could be fetched: hourly litres per second of a pipeline branch, with four
unusual segments by river's own description (three times little water, one small peak). Their intervals are ours.
"""

# ruff: noqa: ARG001, PLC0415 - handlers are called with the payload's names and import what they need themselves
from __future__ import annotations

import datetime as dt
import json
import math
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eventproc import Connection, register
from eventproc.scoring import read_csv
from eventproc.scoring.plot import draw

SERIES = Path(__file__).parents[1] / ".cache" / "water-flow.csv"
PLOT = Path(__file__).parents[1] / ".cache" / "demo-water-flow.png"
METRIC = "plant.water.flow"
ZONE = "Europe/Rome"
LEARNING = 190  # samples: 15 % of the series
ALARM = 0.99  # anomaly likelihood
ENOUGH = 4  # segments that must be found: all
SEGMENTS = (  # stated by us, after river's description
    ("2022-03-24T06:00+01:00", "2022-03-25T00:00+01:00"),
    ("2022-03-29T04:00+02:00", "2022-03-29T22:00+02:00"),
    ("2022-04-03T03:00+02:00", "2022-04-03T10:00+02:00"),
    ("2022-04-27T16:00+02:00", "2022-04-28T12:00+02:00"),
)

Patiently = Callable[[Callable[[], Any], str], Any]


def segments() -> list[tuple[float, float]]:
    """Return the labelled intervals in seconds since 1970."""
    return [
        (dt.datetime.fromisoformat(first).timestamp(), dt.datetime.fromisoformat(last).timestamp())
        for first, last in SEGMENTS
    ]


def series() -> tuple[list[float], list[float], bool]:
    """Return times, values, and whether they are the real ones."""
    if SERIES.is_file():
        table = read_csv(SERIES)
        return table.seconds.tolist(), table.values.tolist(), True
    dice = random.Random(4)  # noqa: S311 - a made-up series that is always the same
    start = dt.datetime.fromisoformat("2022-03-20T11:00+01:00").timestamp()
    times, values = [start + 3600.0 * hour for hour in range(1268)], []
    for time in times:
        value = 102 + math.sin(time / 86_400 * 2 * math.pi) + dice.gauss(0, 0.3)
        for number, (first, last) in enumerate(segments()):
            if first + 7200 <= time <= last - 7200:
                value = 112.0 if number == 2 else 24.2
        values.append(round(value, 2))
    return times, values, False


def register_report(conn: Connection) -> None:
    """Register a function for scored batches in which something is unusual; its text is the mail."""

    @register(
        conn=conn,
        name="water-report",
        hook="inference.batch_done",
        filter={"results": {"anomaly": [{"numeric": [">=", ALARM]}]}},
        notify_on_success="waterworks@example.com",
    )
    def water_report(db: Any, metric: dict[str, Any], results: list[dict[str, Any]], **kwargs: Any) -> str:
        from datetime import datetime

        lines = [f"Unusual flow at {metric['resource']} ({metric['name']}):"]
        for row in results:
            if row["anomaly"] >= 0.99:
                when = datetime.fromtimestamp(row["ts"], dt.UTC)
                lines.append(f"  {when:%Y-%m-%d %H:%M} UTC  {row['value']:6.1f} l/s  anomaly {row['anomaly']:.5f}")
        return "\n".join(lines)


def send(address: str, times: list[float], values: list[float], progress: Callable[[int], None]) -> None:
    """Send all samples through the Graphite port, as any client of Graphite does."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        for number, (time, value) in enumerate(zip(times, values, strict=True), 1):
            sock.sendall(f"{METRIC} {value!r} {time:.0f}\n".encode())
            progress(number)


def demonstrate(conn: Connection, folder: Path, console: Console, patiently: Patiently) -> dict[str, str]:
    """Send a series, have it scored and reported, and draw it; return what happened for the summary."""
    times, values, real = series()
    kind = "river's WaterFlow" if real else "a generated series (river's could not be fetched)"
    console.print(f"\nNow samples: {len(times)} of {kind}.")
    register_report(conn)
    # Nothing is said of the values: the model learns their range while it learns.
    conn.monitor(METRIC, resource="water plant", timezone=ZONE, range="learnt", parameters={"learning": LEARNING})
    address = json.loads((folder / "data" / "endpoints.json").read_text())["graphite"]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        sending = bar.add_task(f"sending to {address}", total=len(times))
        scoring = bar.add_task("scored by the model", total=len(times))
        send(address, times, values, lambda done: bar.update(sending, completed=done))

        def scored() -> int | None:
            done: int = conn.model(METRIC)["scored_rowid"]
            bar.update(scoring, completed=done)
            return done if done >= len(times) else None

        patiently(scored, "the samples to be scored")
    mails = patiently(lambda: find_reports(folder / "data" / "mail"), "the mail about the water")
    rows = list(conn.samples(METRIC))
    scores = np.array([row["anomaly"] for row in rows], np.float64)
    found, false = _found(times, scores)
    if len(rows) != len(times) or sum(found) < ENOUGH:
        raise RuntimeError(f"{sum(found)} of {len(SEGMENTS)} labelled segments were found in {len(rows)} samples")
    draw(
        PLOT,
        np.array(times),
        np.array(values),
        scores,
        threshold=ALARM,
        title=f"Water flow, {'real' if real else 'generated'}; segments as we stated them",
        value_name="l/s",
        windows=segments(),
        learning=LEARNING,
    )
    return {
        "samples stored and scored": f"{len(rows)}, through the Graphite port",
        "labelled segments": ", ".join(
            f"{first[:10]} {'found' if hit else 'missed'}" for (first, _), hit in zip(SEGMENTS, found, strict=True)
        ),
        "alarms": f"anomaly {ALARM:g} or more; {false} besides, outside of the segments",
        "water-report": f"ran on inference.batch_done and mailed its report; mails: {len(mails)}",
        "values, scores, labels": str(PLOT),
        "report": mails[0],
    }


def _found(times: list[float], scores: Any) -> tuple[list[bool], int]:
    """Tell for each segment whether it has an alarm, and how many alarms lie outside of all."""
    alarms = [time for time, score in zip(times, scores.tolist(), strict=True) if score >= ALARM]
    found = [any(first <= time <= last for time in alarms) for first, last in segments()]
    return found, sum(not any(first <= time <= last for first, last in segments()) for time in alarms)


def find_reports(folder: Path) -> list[str] | None:
    """Return the texts of the mails about the water, None while there are none."""
    import email
    import email.policy

    found = []
    for file in sorted(folder.glob("*.eml")):
        mail = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        body = mail.get_body(("plain",))
        if "water-report" in str(mail["Subject"]) and body is not None:
            found.append(str(body.get_content()).strip())
    return found or None
