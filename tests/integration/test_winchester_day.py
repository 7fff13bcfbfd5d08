"""A recorded day of notifications gives what winchester itself made of it, corrected where winchester is wrong."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import postgres_server

from eventproc.compat.winchester.configuration import read_configuration
from eventproc.compat.winchester.replay import replay

CONFIGS = {"batch": "config_batch", "interleave": "config_eod"}
INSTANCES = 60  # of the day, for a database that is slower than memory


@pytest.fixture(scope="module")
def day() -> Path:
    data = os.environ.get("EVENTPROC_TEST_DATA")
    found = Path(data or "/nonexistent") / "winchester"
    if not found.is_dir():
        pytest.skip("set EVENTPROC_TEST_DATA to the directory with the recorded days")
    return found


def outcomes(instance: dict[str, Any]) -> Any:
    """The final state, and the multiset of results; ids of U0 and warnings are random."""
    found = Counter(
        (
            each["result"],
            each.get("error_code"),
            each["timestamp"],
            each.get("original_message_id"),
            each["message_id"] if each.get("original_message_id") else None,
        )
        for each in instance["results"]
    )
    return instance["final"], found


def check(report: dict[str, Any], day: Path, *, only: set[str] | None = None) -> None:
    expected = json.loads((day / "expected_dev.json").read_text())["corrected_batch"]["instances"]
    wanted = {name: each for name, each in expected.items() if only is None or name in only}
    assert set(report["instances"]) == set(wanted)
    different = {
        name: (outcomes(wanted[name]), outcomes(report["instances"][name]))
        for name in wanted
        if outcomes(wanted[name]) != outcomes(report["instances"][name])
    }
    assert different == {}
    assert report["meta"]["refused"] == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch", "interleave"])
def test_half_a_day_gives_the_recorded_outcomes(day: Path, mode: str) -> None:
    configuration = read_configuration(day / CONFIGS[mode] / "winchester.yaml")
    report = replay(configuration, day / "notifications_dev.jsonl.gz", interleave=mode == "interleave")
    check(report, day)


@pytest.fixture
def some(day: Path, tmp_path: Path) -> tuple[Path, set[str]]:
    """The notifications of some of the day's instances, of every label."""
    expected = json.loads((day / "expected_dev.json").read_text())["corrected_batch"]["instances"]
    labels: dict[str, int] = {}
    chosen = set()
    for name, each in expected.items():
        labels[each["label"]] = labels.get(each["label"], 0) + 1
        if labels[each["label"]] <= INSTANCES // 15:
            chosen.add(name)
    path = tmp_path / "some.jsonl.gz"
    with gzip.open(day / "notifications_dev.jsonl.gz", "rt") as lines, gzip.open(path, "wt") as kept:
        for line in lines:
            if json.loads(line)["payload"].get("instance_id") in chosen:
                kept.write(line)
    return path, chosen


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.external_service)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/day.db"
    else:
        with postgres_server() as server:
            yield server.url(server.create())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch", "interleave"])
def test_every_database_gives_the_recorded_outcomes(
    day: Path, some: tuple[Path, set[str]], database: str, mode: str
) -> None:
    path, chosen = some
    configuration = read_configuration(day / CONFIGS[mode] / "winchester.yaml")
    report = replay(configuration, path, interleave=mode == "interleave", database=database)
    check(report, day, only=chosen)
