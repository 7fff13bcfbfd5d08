"""The ready-made handlers are written as users write theirs, and do what they say."""

from __future__ import annotations

import ast
import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sandbox_world import Session, run_one

import eventproc
import eventproc.compat.winchester
from eventproc import plugins
from eventproc.codec.blob import pack
from eventproc.model import Limits
from eventproc.sandbox.memory import InProcessSandbox
from eventproc.scoring.plot import draw

DIRECTORY = plugins.bundled_dir("handlers")
FILES = plugins.files_in(DIRECTORY, "handlers")


@pytest.fixture(autouse=True)
def in_a_work_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def handler_of(stem: str):
    (found,) = plugins.marked_handlers(plugins.load(DIRECTORY / f"{stem}.py"))
    return found.target


PUBLIC = {"eventproc": eventproc, "eventproc.compat.winchester": eventproc.compat.winchester}


def run(stem: str, payload: dict, answers: dict | None = None):
    outcome, session = run_one(
        InProcessSandbox(), pack(handler_of(stem)).blob, payload, limits=Limits(), session=Session(answers)
    )
    assert outcome.failure is None, outcome.failure
    return json.loads(outcome.result_json), session


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_handler_file_uses_only_public_names(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("eventproc") for alias in node.names)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("eventproc"):
            assert node.module in PUBLIC
            assert {alias.name for alias in node.names} <= set(PUBLIC[node.module].__all__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_handler_file_marks_one_handler_that_can_travel(path):
    (found,) = plugins.marked_handlers(plugins.load(path))
    assert found.mark.name == path.stem.replace("_", "-")
    assert found.target.__doc__
    pack(found.target, check=True)


def test_the_directory_is_no_package():
    assert not list(DIRECTORY.rglob("__init__.py"))


def test_log_event_writes_head_and_payload():
    result, session = run("log_event", {"door": "north", "db": "a member of the payload", "long": "x" * 5000})
    assert result == "test.hook m-1: 3 members"
    text = session.text()
    assert "test.hook m-1 at 2023-11-14T22:13:20.000001+00:00 (a)" in text
    assert '"db": "a member of the payload"' in text
    assert "… (" in text
    assert len(text) < 4000


def failure_payload(name: str = "spike-report", kind: str = "exception") -> dict:
    return {
        "run": 17,
        "state": "failed",
        "attempt": 1,
        "handler": {"id": 3, "name": name, "version": 0},
        "event": {"id": "e1", "hook": "inference.batch_done", "time": "2026-01-02T03:04:05.000006Z"},
        "failure": {"kind": kind, "message": "max() arg is an empty sequence\nmore", "type": "ValueError"},
    }


def test_failure_digest_counts_the_windows_failures():
    asked = []

    def events(args, body):
        asked.append(args)
        payloads = [failure_payload(), failure_payload(), failure_payload("other", "timeout")]
        return [{"id": str(n), "hook": "run.failed", "payload": payload} for n, payload in enumerate(payloads)], ()

    result, _ = run("failure_digest", failure_payload(), {"events": events})
    assert result.splitlines() == [
        "run 17 of spike-report (version 0) on inference.batch_done: failed",
        "  event e1 of 2026-01-02T03:04:05.000006Z",
        "  exception: max() arg is an empty sequence",
        "",
        "failures in the last 24 hours:",
        "      2  spike-report: exception",
        "      1  other: timeout",
    ]
    assert asked[0]["hook"] == "run.failed"
    assert asked[0]["since_us"] == 1_700_000_000_000_001 - 24 * 3600 * 1_000_000


START = 1_591_844_350_000_000_000
VOLTAGE, FLAT, EMPTY = (str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in ("voltage", "flat", "empty"))


class Archive:
    """Answers for `db` and `ep`: a 60 Hz voltage with a spike, a flat line, and a stream without samples."""

    def __init__(self, *, rate_hz: float = 4800.0, seconds: float = 0.5) -> None:
        count = int(rate_hz * seconds)
        times = START + np.round(np.arange(count) * 1e9 / rate_hz).astype(np.int64)
        wave = 100 * np.sqrt(2) * np.sin(2 * np.pi * 60 * (times - START) * 1e-9)
        self.samples = {
            VOLTAGE: (times, wave),
            FLAT: (times, np.full(count, 3.0)),
            EMPTY: (times[:0], wave[:0]),
        }
        self.files: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        self.session = {
            "stream": self.stream,
            "values": self.values,
            "upload_open": self.upload_open,
            "upload_write": self.upload_write,
            "upload_close": self.upload_close,
        }

    def stream(self, args, body):
        name = {VOLTAGE: "VA", FLAT: "Relay 1", EMPTY: "spare"}[args["uuid"]]
        unit = "kV" if args["uuid"] == VOLTAGE else ""
        return {"uuid": args["uuid"], "name": name, "collection": "c", "unit": unit, "tags": {}, "annotations": {}}, ()

    def values(self, args, body):
        times, values = self.samples[args["uuid"]]
        return {"count": len(times)}, (times.tobytes(), values.tobytes())

    def upload_open(self, args, body):
        code = f"{len(self.names) + 1:032x}"
        self.names[code] = args["name"]
        return {"code": code, "url": f"http://localhost/{code}"}, ()

    def upload_write(self, args, body):
        self.files[args["code"]] = self.files.get(args["code"], b"") + body
        return None, ()

    def upload_close(self, args, body):
        return {"size": len(self.files[args["code"]]), "url": f"http://localhost/{args['code']}"}, ()


def waveform_payload(*uuids: str) -> dict:
    streams = [{"EndNs": START + 500_000_000, "ProcessedAtNs": START, "StartNs": START, "Uuid": name} for name in uuids]
    return {
        "DataSets": [
            {"Error": "", "Name": "/sub 7/fault_0042.cfg", "Streams": streams, "Success": True},
            {"Error": "cfg format error", "Name": "/__MACOSX/._x.cfg", "Streams": None, "Success": False},
        ],
        "File": "records.zip",
        "RequestID": "r",
        "SubmittedAt": "2020-10-29T21:58:15.09246084Z",
    }


def test_waveform_report_measures_and_plots():
    archive = Archive()
    result, _ = run("waveform_report", waveform_payload(VOLTAGE, FLAT, EMPTY), archive.session)
    lines = result.splitlines()
    assert lines[0] == "records.zip: 1 of 2 records imported"
    assert lines[4].split() == ["VA", "2400", "4800.0", "100", "141.421", "60.000"]
    assert lines[5].split() == ["Relay", "1", "2400", "4800.0", "3", "3", "-"]
    assert lines[6].split() == ["spare", "0", "-", "-", "-", "-"]
    assert lines[7] == f"  plot: http://localhost/{1:032x}"
    assert lines[-1] == "/__MACOSX/._x.cfg: not imported: cfg format error"
    assert archive.names == {f"{1:032x}": "fault-0042.png"}
    assert archive.files[f"{1:032x}"].startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")  # which letters there are is a matter of the machine's fonts
@pytest.mark.parametrize("name", ["cost $\\frac{$ <b>&", "$a$_b^", "توليد 発電"])
def test_plots_bear_any_name_as_it_is(tmp_path, name):
    """What stands between two dollars is mathematics to matplotlib, and mostly none to those who gave the names."""
    pytest.importorskip("matplotlib")
    report = plugins.load(DIRECTORY / "waveform_report.py")
    curves = [(name, np.arange(3.0), np.array([0.0, 1.0, 0.0])), (name, np.arange(3.0), np.array([0.0, np.nan, 3.0]))]
    assert (tmp_path / report.plot(f"{name}.cfg", curves)).read_bytes().startswith(b"\x89PNG")
    anomaly = plugins.load(DIRECTORY / "anomaly_report.py")
    samples = [SimpleNamespace(time=datetime(2026, 1, day, tzinfo=UTC), value=day, anomaly=1.0) for day in range(1, 9)]
    assert (tmp_path / anomaly.plot(name, samples)).read_bytes().startswith(b"\x89PNG")
    draw(
        tmp_path / "scores.png",
        seconds=np.arange(3.0),
        values=np.arange(3.0),
        scores=np.arange(3.0) / 2,
        title=name,
        value_name=name,
        threshold=0.5,
    )
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_plot_is_an_svg(monkeypatch):
    import sys
    from xml.etree import ElementTree as ET

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    archive = Archive()
    archive.samples[FLAT][1][5] = np.nan
    run("waveform_report", waveform_payload(VOLTAGE, FLAT), archive.session)
    assert list(archive.names.values()) == ["fault-0042.svg"]
    root = ET.fromstring(archive.files[f"{1:032x}"])
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2
    assert "nan" not in lines[1].get("points")


@pytest.mark.parametrize(("hz", "rate"), [(50.0, 1000.0), (59.97, 15360.0), (150.3, 4000.0)])
def test_the_dominant_frequency_is_finer_than_the_grid(hz, rate):
    measure = plugins.load(DIRECTORY / "waveform_report.py").measure
    times = (np.arange(int(rate)) * 1e9 / rate).astype(np.int64)
    found = measure(times, 5 + np.sin(2 * np.pi * hz * times * 1e-9))
    assert found["frequency"] == pytest.approx(hz, abs=0.05)
    assert found["rate"] == pytest.approx(rate, rel=1e-5)


def test_a_spike_stays_visible_in_a_long_record():
    envelope = plugins.load(DIRECTORY / "waveform_report.py").envelope
    values = np.zeros(1_000_000)
    values[123_457] = 9.0
    times = np.arange(1_000_000, dtype=np.int64) * 1000
    seconds, shown = envelope(times, values)
    assert len(shown) <= 3000
    assert seconds[np.argmax(shown)] == pytest.approx(0.123457)


def test_a_record_of_other_things_does_not_stop_the_report():
    """One sample, equal times, all NaN: measured as far as it can be told."""
    measure = plugins.load(DIRECTORY / "waveform_report.py").measure
    assert measure([1], [2.0])["rms"] == 2.0
    assert measure([1, 1, 1], [1.0, 2.0, 2.0])["rate"] is None
    assert measure([1, 2], [np.nan, np.nan])["samples"] == 0


def test_the_plugin_files_stand_where_the_package_looks():
    assert Path(eventproc.__file__).parent.parent / "handlers" == DIRECTORY or DIRECTORY.name == "handlers"
