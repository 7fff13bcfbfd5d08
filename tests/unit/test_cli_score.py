"""`eventproc score`: a CSV in, scores out, and what is said on the way."""

from __future__ import annotations

import csv
import datetime as dt
import io
import itertools
import json
import sys

import numpy as np
import pytest

from eventproc.cli.main import run
from eventproc.htm import find_detector

START = dt.datetime(2014, 4, 1)  # noqa: DTZ001 - as such files have it


@pytest.fixture
def series(tmp_path, monkeypatch):
    """Six days of a daily curve at 5-minute steps, with a spike in the fifth."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    rng = np.random.default_rng(3)
    values = 50 + 20 * np.sin(np.arange(1728) * 2 * np.pi / 288) + rng.normal(0, 1, 1728)
    values[1300] = 400.0
    path = tmp_path / "cpu.csv"
    stamps = [START + dt.timedelta(minutes=5 * i) for i in range(values.size)]
    path.write_text(
        "timestamp,value\n" + "".join(f"{stamp},{value:.4f}\n" for stamp, value in zip(stamps, values, strict=True))
    )
    return path


def table(path):
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_scores_are_those_of_the_detector_row_by_row(series, tmp_path, capsys):
    assert run(["score", str(series), "--out", "scores.csv", "--json"]) == 0
    rows = table(tmp_path / "scores.csv")
    given = table(series)
    assert list(rows[0]) == ["timestamp", "value", "raw_score", "anomaly_score"]
    assert [row["timestamp"] for row in rows] == [row["timestamp"] for row in given]
    assert [float(row["value"]) for row in rows] == [float(row["value"]) for row in given]
    detector = find_detector("default")(learning=259)
    times = [dt.datetime.fromisoformat(row["timestamp"]) for row in given]
    expected = detector.score_many([float(row["value"]) for row in given], times)
    assert [float(row["anomaly_score"]) for row in rows] == expected.tolist()
    assert all(0 <= float(row["raw_score"]) <= 1 for row in rows)
    summary = json.loads(capsys.readouterr().out)
    assert summary["rows"] == 1728
    assert summary["top"][0]["row"] == 1301
    assert "48.3539 was expected" in summary["top"][0]["explanation"]


def test_people_get_a_summary_and_what_was_wrong_row_by_row(series, capsys):
    lines = series.read_text().splitlines()
    lines[500] = "2014-04-02 17:35:00,NA"
    lines[600] = "2014-04-03 01:55:00,broken"
    lines[700] = lines[699]
    series.write_text("\n".join(lines))
    assert run(["score", str(series)]) == 0
    said = capsys.readouterr()
    assert "1 without a value, 1 not readable left out" in said.out
    assert "line 601: the value 'broken' is no number" in said.err
    assert "line 701: 2014-04-03 10:10:00 repeats the time before it" in said.err
    assert run(["score", str(series), "--unordered", "fail"]) == 2
    assert run(["score", str(series), "--unordered", "skip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == 1


@pytest.mark.parametrize("detector", ["statistics", "gaussian", "numenta"])
def test_every_detector_gives_whole_rows(series, tmp_path, detector):
    assert run(["score", str(series), "-q", "-d", detector, "-o", "out.csv", "--aggregate", "30m:mean"]) == 0
    rows = table(tmp_path / "out.csv")
    assert len(rows) == 288
    assert rows[1]["timestamp"] == "2014-04-01 00:30:00"
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("raw_score", "anomaly_score"))


OWN = """
import math

class Steps:
    def __init__(self, scale=100.0):
        self.scale, self.last, self.late = scale, None, 0.0

    def score_one(self, x, t):
        if x > 300:
            return math.nan
        return 0.0 if self.last is None else 3 * abs(x - self.last) / self.scale

    def learn_one(self, x):
        self.last = x

class Broken(Steps):
    def learn_one(self, x):
        raise RuntimeError("no more")

class Wordy(Steps):
    def score_one(self, x):
        return "much"
"""


def test_a_file_s_own_detector_scores_as_it_would_in_the_sandbox(series, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    arguments = ["score", str(series), "-d", "own.py:Steps", "-p", "scale=50.0", "-o", "o.csv", "--plot", "p.png"]
    assert run([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["detector"], summary["learning"], summary["unscored"]) == ("own.py:Steps", 0, 1)
    rows = table(tmp_path / "o.csv")
    values = [float(row["value"]) for row in rows]
    assert (values[1300], rows[1300]["anomaly_score"]) == (400.0, "")
    expected = [0.0, *(min(1.0, 3 * abs(after - before) / 50.0) for before, after in itertools.pairwise(values))]
    assert [row["anomaly_score"] for row in rows[:1300]] == [str(score) for score in expected[:1300]]
    assert summary["top"][0]["explanation"].startswith("Score 1.000 at ")
    assert (tmp_path / "p.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("detector", "said"),
    [
        ("own.py", "there are Broken, Steps, Wordy: write own.py:CLASS"),
        ("own.py:Stops", "expected a class Stops"),
        ("own.py:", "write FILE.py:CLASS"),
        ("other.py:Steps", "there is no such file"),
        ("own.py:Wordy", "own.py:Wordy: at row 1 (value 50"),
        ("own.py:Wordy", "score_one(50.0"),
        ("own.py:Broken", "RuntimeError: no more\n"),
        ("own.py:Broken", 'own.py", line 18, in learn_one'),
    ],
)
def test_what_is_wrong_with_a_file_s_own_detector_is_said(series, tmp_path, capsys, detector, said):
    (tmp_path / "own.py").write_text(OWN)
    series.write_text("timestamp,value\n2014-04-01,50.0\n2014-04-02,51.0\n")
    assert run(["score", str(series), "-d", detector]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "detector.py" not in error  # no frames of ours


def test_a_user_s_detector_is_not_to_be_had_without_its_platform(series, capsys):
    assert run(["score", str(series), "-d", "user:mine"]) == 2
    assert "eventproc models prime NAME" in capsys.readouterr().err.replace("\n", " ")


def test_the_same_seed_gives_the_same_scores_and_options_matter(series, tmp_path):
    for name, more in (("a", []), ("b", []), ("c", ["--min", "0", "--max", "500"]), ("d", ["-p", "report=0.9"])):
        assert run(["score", str(series), "-q", "-o", f"{name}.csv", "--seed", "7", *more]) == 0
    a, b, c, d = ((tmp_path / f"{name}.csv").read_text() for name in "abcd")
    assert a == b
    assert a not in (c, d)


def test_the_exit_code_tells_of_anomalies_when_asked_to(series):
    assert run(["score", str(series), "-q", "--exit-code"]) == 1
    assert run(["score", str(series), "-q", "--exit-code", "--threshold", "1"]) == 0


def test_labels_are_counted_and_drawn(series, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    windows = {"real/cpu.csv": [["2014-04-05 11:00:00", "2014-04-05 14:00:00"], ["2014-04-06", "2014-04-06 01:00"]]}
    (tmp_path / "windows.json").write_text(json.dumps(windows))
    assert run(["score", str(series), "--plot", "p.png", "--labels", "windows.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labelled"]["found"] == 1
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert run(["score", str(series), "-q", "--plot", "p.svg"]) == 0
    assert b"<svg" in (tmp_path / "p.svg").read_bytes()


def test_without_matplotlib_the_way_to_get_it_is_named(series, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["score", str(series), "--plot", "p.png"]) == 2
    assert "pip install 'eventproc[plots]'" in capsys.readouterr().err


def test_the_parameter_finder_says_what_it_chose(series, capsys):
    assert run(["score", str(series), "--find-params", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["finding"]
    assert found["interval"] == 300
    assert found["reasons"]


def test_standard_input_and_output(series, monkeypatch, capsys):
    class Stdin:
        buffer = io.BytesIO(series.read_bytes())

    monkeypatch.setattr(sys, "stdin", Stdin())
    assert run(["score", "-", "--out", "-", "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "timestamp,value,raw_score,anomaly_score"
    assert len(lines) == 1729


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--min", "1"], 2, "give --min and --max both"),
        (["-d", "nothing"], 2, "no detector is named 'nothing'"),
        (["-p", "wings=2"], 2, "no such parameter: wings"),
        (["-p", "wings"], 2, "write NAME=VALUE"),
        (["-d", "gaussian", "--min", "0", "--max", "1"], 2, "detector gaussian"),
        (["--timezone", "Nowhere/Land"], 2, "no time zone is named"),
        (["--aggregate", "5 apples"], 2, "no duration"),
        (["--aggregate", "1h:mode"], 2, "no aggregation is named 'mode'"),
        (["--value-column", "price"], 2, "there are: timestamp, value"),
        (["--date-format", "%d/%m/%Y"], 2, "none of 1728 rows"),
        (["--out", "no/such/folder.csv"], 2, "does not exist"),
        (["--plot", "p.txt"], 2, "the suffix must be"),
    ],
)
def test_bad_options_say_what_was_wrong(series, capsys, arguments, code, said):
    assert run(["score", str(series), *arguments]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("rows", [1, 2, 5, 20, 60])
def test_tiny_series_are_scored_too(series, tmp_path, rows):
    series.write_text("\n".join(series.read_text().splitlines()[: rows + 1]))
    assert run(["score", str(series), "-q", "-o", "tiny.csv", "--find-params"]) == 0
    assert len(table(tmp_path / "tiny.csv")) == rows
