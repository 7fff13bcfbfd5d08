"""
A labelled corpus through the whole platform: the same scores as the detector gives on its own?

    python benchmarks/nab_platform.py DIR [--range learnt|file|estimated] [--only PATTERN]

Every file of a NAB-style corpus (see nab.py) is sent through the Graphite port of an `eventproc serve` of its own,
monitored, and its stored scores are read back. `learnt` and `file` are the two settings of nab.py (prefix, file): each
row's `anomaly` must be that of the detector alone, to the last bit, on the platform's scale. `estimated` is what
`models monitor` does without any option: the range of the first 288 samples. Rows that the platform refuses (their time
does not advance) are left out on both sides and counted.
"""

from __future__ import annotations

import argparse
import fnmatch
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import htm_nabscore as nab
import nab as alone
import numpy as np
from numpy.typing import NDArray
from serving import Served
from waiting import wait_until

from eventproc.models.display import likelihood_of
from eventproc.models.specs import estimate_range


@dataclass(frozen=True)
class Compared:
    """One file: scores of both, row by row, and the rows that the platform took."""

    series: nab.Series
    refused: int
    through: NDArray[np.float64]
    alone: NDArray[np.float64]

    @property
    def different(self) -> int:
        return int((self.through != self.alone).sum())


def advancing(series: nab.Series) -> nab.Series:
    """Leave out the rows that the platform must refuse, and move the windows accordingly."""
    kept = np.maximum.accumulate(series.seconds) == series.seconds
    kept[1:] &= series.seconds[1:] > np.maximum.accumulate(series.seconds)[:-1]
    place = np.cumsum(kept) - 1
    return nab.Series(
        name=series.name,
        stamps=[stamp for stamp, keep in zip(series.stamps, kept, strict=True) if keep],
        seconds=series.seconds[kept],
        values=series.values[kept],
        windows=[(max(0, int(place[first])), int(place[last])) for first, last in series.windows],
    )


def specification(series: nab.Series, known: str) -> dict[str, Any]:
    """Give what `conn.monitor` takes."""
    options: dict[str, Any] = {"parameters": {"learning": series.probation}}
    if known == "learnt":
        options["range"] = "learnt"
    if known != "file":
        return options
    low, high = float(series.values.min()), float(series.values.max())
    room = (high - low) * 0.2
    return {**options, "min": low - room, "max": high + room}


def send(served: Served, name: str, series: nab.Series) -> None:
    """Send a series as Graphite's lines."""
    host, _, port = served.endpoints["graphite"].rpartition(":")
    rows = zip(series.values.tolist(), series.seconds.tolist(), strict=True)
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall("".join(f"{name} {value!r} {time:.0f}\n" for value, time in rows).encode())
        client.shutdown(socket.SHUT_WR)
        client.recv(1)


def by_itself(series: nab.Series, known: str) -> NDArray[np.float64]:
    """Score with the detector alone, as nab.py does, on the platform's scale."""
    job = alone.Job(series=series, detector="default", options={}, seed=1, known_range=known == "file")
    if known == "estimated":
        low, high = estimate_range(float(series.values[:288].min()), float(series.values[:288].max()))
        job = alone.Job(
            series=series, detector="default", options={"minimum": low, "maximum": high}, seed=1, known_range=False
        )
    return likelihood_of(alone.detect(job))


def compare(served: Served, corpus: list[nab.Series], known: str, patience_s: float = 600.0) -> list[Compared]:
    """Send all, wait until all are scored, and read the scores."""
    conn = served.connect()
    taken = {f"nab.{i}": advancing(series) for i, series in enumerate(corpus)}
    for name, series in taken.items():
        conn.monitor(name, **specification(series, known))
    if known == "estimated":  # the first 288 by themselves: those that come in the same batch would count as well
        for name, series in taken.items():
            first = nab.Series(
                name=name, stamps=[], seconds=series.seconds[:288], values=series.values[:288], windows=[]
            )
            send(served, name, first)
        for name in taken:
            wait_until(lambda name=name: conn.model(name)["scored_rowid"] == 288, timeout_s=patience_s)
    for name, series in zip(taken, corpus, strict=True):
        send(served, name, series)
    found = []
    for (name, series), given in zip(taken.items(), corpus, strict=True):
        rows = len(series.values)
        wait_until(lambda: conn.model(name)["scored_rowid"] == rows, timeout_s=patience_s)  # noqa: B023
        stored = conn.samples(name)
        assert [row["value"] for row in stored] == series.values.tolist(), f"{given.name}: other values came out"
        through = np.array([row["anomaly"] for row in stored])
        found.append(Compared(series, len(given.values) - rows, through, by_itself(series, known)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--range", choices=("learnt", "file", "estimated"), default="learnt")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="such as 'realTweets/*'")
    given = parser.parse_args()
    corpus = [series for series in nab.load(given.directory) if fnmatch.fnmatch(series.name, given.only)]
    with tempfile.TemporaryDirectory() as directory:
        served = Served(Path(directory) / "data", EVENTPROC_GRAPHITE="127.0.0.1:0").start()
        try:
            found = compare(served, corpus, given.range)
        finally:
            served.close()
    for one in found:
        print(f"{one.series.name}: {len(one.through)} rows, {one.refused} refused, {one.different} scored differently")
    for word, which in (("through the platform", "through"), ("detector alone", "alone")):
        steps = [nab.steps(one.series, getattr(one, which)) for one in found]
        scores = ", ".join(f"{profile} {nab.sweep(steps, profile)[0]:.2f}" for profile in nab.PROFILES)
        print(f"{word}: {scores}")
    return 1 if any(one.different for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
