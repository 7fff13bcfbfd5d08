"""htmengine's tests of custom metrics, on a running platform: samples through the Graphite port, scores out."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from models_world import wave
from serving import Served
from waiting import wait_until

from eventproc import Connection
from eventproc.errors import MetricAlreadyMonitored
from eventproc.store import open_store

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from own_detector import ZScore

EPOCH = 1_386_201_600  # 2013-12-05
DAY = 86_400
STEP = 300
FAST = {"EVENTPROC_MODELS__LEASE": "2s", "EVENTPROC_MODELS__POLL": "0.2s"}


@dataclass
class Metrics:
    """A platform, and what a person who sends samples can do and see."""

    served: Served
    conn: Connection

    def send(self, *lines: str) -> None:
        host, _, port = self.served.endpoints["graphite"].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as client:
            client.sendall("".join(f"{line}\n" for line in lines).encode())
            client.shutdown(socket.SHUT_WR)
            assert client.recv(10) == b""

    def send_values(self, name: str, values: list[float], *, start: int = 0) -> None:
        self.send(*(f"{name} {value!r} {EPOCH + (start + i) * STEP}" for i, value in enumerate(values)))

    def rows(self, name: str) -> list[tuple[int, float, float | None, float | None, int]]:
        """Return (second, value, raw score, anomaly score, rowid)."""
        store = open_store(f"sqlite:///{self.served.data}/eventproc.db")
        try:
            with store.read() as tx:
                metric = tx.metrics.by_name(name)
                samples = tx.samples.after(metric.id, 0, limit=100_000) if metric else []
        finally:
            store.close()
        return [(s.time_us // 1_000_000, s.value, s.raw_score, s.anomaly_score, s.rowid) for s in samples]

    def model(self, name: str) -> dict:
        return self.conn.model(name)

    def stored(self, name: str, count: int) -> None:
        wait_until(lambda: len(self.rows(name)) == count, what=f"{count} samples of {name}")

    def scored(self, name: str, count: int) -> list[tuple[int, float, float | None, float | None, int]]:
        def found() -> bool:
            model = self.model(name)
            return model["status"] == "ACTIVE" and model["scored_rowid"] == count

        wait_until(found, timeout_s=120, what=f"{count} scored samples of {name}: {self.model(name)}")
        return self.rows(name)

    def results(self, name: str) -> list[dict]:
        """Return the rows of all inference.batch_done of a metric, in the order in which they were told of."""
        found = []
        for event in reversed(list(self.conn.events(hook="inference.batch_done", limit=100_000))):
            payload = event["payload"]
            if payload["metric"]["name"] == name:
                found += payload["results"]
        return found


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("models") / "data", EVENTPROC_GRAPHITE="127.0.0.1:0", **FAST).start()
    yield Metrics(served, served.connect())
    served.close()


def test_a_batch_of_samples_is_scored(metrics):
    metrics.conn.monitor("batch.send", min=0, max=100)
    metrics.send(f"batch.send 5.0 {EPOCH}", f"batch.send 6.0 {EPOCH + DAY}", f"batch.send 7.0 {EPOCH + 2 * DAY}")
    rows = metrics.scored("batch.send", 3)
    assert [(when, value, anomaly, rowid) for when, value, _, anomaly, rowid in reversed(rows)] == [
        (EPOCH + 2 * DAY, 7.0, 0.0, 3),
        (EPOCH + DAY, 6.0, 0.0, 2),
        (EPOCH, 5.0, 0.0, 1),
    ]


def test_samples_one_by_one_with_fractions_of_seconds_are_scored(metrics):
    metrics.conn.monitor("one.by.one", min=0, max=7)
    for i in range(3):
        metrics.send(f"one.by.one {5.0 + i} {EPOCH + i * DAY}.021")
    assert [row[1] for row in metrics.scored("one.by.one", 3)] == [5.0, 6.0, 7.0]
    assert [round(row["ts"] % 1, 3) for row in metrics.results("one.by.one")] == [0.021] * 3


def test_uneven_times_and_a_model_made_after_the_first_sample_lose_nothing(metrics):
    metrics.send(f"uneven 1 {EPOCH}")
    metrics.stored("uneven", 1)
    metrics.conn.monitor("uneven", min=0, max=100)
    metrics.send(f"uneven 2 {EPOCH + 299}", f"uneven 3 {EPOCH + 599}")
    assert [(row[1], row[3]) for row in metrics.scored("uneven", 3)] == [(1.0, 0.0), (2.0, 0.0), (3.0, 0.0)]


def test_simultaneous_connections_do_not_mix(metrics):
    host, _, port = metrics.served.endpoints["graphite"].rpartition(":")
    for name in ("sim.a", "sim.b"):
        metrics.conn.monitor(name, min=0, max=100)
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(socket.create_connection((host, int(port)), timeout=30)) for _ in range(2)]
        for i in range(10):
            for name, client in zip(("sim.a", "sim.b"), both, strict=True):
                client.sendall(f"{name} {i + (50 if name == 'sim.b' else 0)} {EPOCH + i * STEP}\n".encode())
    assert [row[1] for row in metrics.scored("sim.a", 10)] == [float(i) for i in range(10)]
    assert [row[1] for row in metrics.scored("sim.b", 10)] == [50.0 + i for i in range(10)]


def test_invalid_lines_do_not_keep_a_valid_one_from_making_a_metric(metrics):
    metrics.send("invalid1", "invalid2 x", "invalid3 5 tomorrow", "invalid4 nan 5", f"valid.one 5 {EPOCH}")
    metrics.stored("valid.one", 1)


def test_a_deleted_model_leaves_no_scores_and_a_deleted_metric_nothing(metrics):
    metrics.conn.monitor("gone", min=0, max=100)
    metrics.send_values("gone", [1.0, 2.0])
    metrics.scored("gone", 2)
    uid = metrics.model("gone")["uid"]
    metrics.conn.unmonitor("gone")
    found = metrics.model("gone")
    assert (found["status"], found["parameters"], found["checkpoint"]) == ("UNMONITORED", None, None)
    assert [(row[2], row[3]) for row in metrics.rows("gone")] == [(None, None)] * 2
    metrics.conn.delete_metric("gone")
    metrics.conn.monitor("gone", min=0, max=100)
    assert metrics.model("gone")["uid"] != uid
    metrics.send_values("gone", [5.0])
    metrics.scored("gone", 1)


def test_deleting_and_monitoring_at_once_ends_active(metrics):
    metrics.send_values("at.once", wave(400))
    metrics.stored("at.once", 400)
    metrics.conn.monitor("at.once", min=0, max=100)
    for _ in range(5):
        metrics.conn.unmonitor("at.once")
        metrics.conn.monitor("at.once", min=0, max=100)
    rows = metrics.scored("at.once", 400)
    assert all(row[3] is not None for row in rows)


def test_enough_samples_are_used_at_once(metrics):
    metrics.send_values("min.max", [5000.0] + [7000.0] * 287)
    metrics.stored("min.max", 288)
    made = metrics.conn.monitor("min.max")
    assert made["status"] == "CREATE_PENDING"
    encoder = made["model_params"]["modelConfig"]["modelParams"]["sensorParams"]["encoders"]["c1"]
    assert encoder["resolution"] == pytest.approx(2800 / 130)


def test_a_model_waits_for_288_samples_and_then_scores_all(metrics):
    metrics.send_values("delayed", [0.0, 100.0])
    metrics.stored("delayed", 2)
    assert metrics.conn.monitor("delayed")["status"] == "PENDING_DATA"
    metrics.send_values("delayed", [7000.0] * 286, start=2)
    metrics.scored("delayed", 288)
    shaped = metrics.model("delayed")["model_params"]["detector"]["parameters"]
    assert (shaped["minimum"], shaped["maximum"]) == (-1400.0, 8400.0)


def test_a_stream_across_the_threshold_is_scored_whole(metrics):
    assert metrics.conn.monitor("mer2190")["status"] == "PENDING_DATA"
    metrics.send_values("mer2190", wave(988))
    rows = metrics.scored("mer2190", 988)
    assert [row[4] for row in rows] == [*range(1, 989)]
    assert [row["rowid"] for row in metrics.results("mer2190")] == [*range(1, 989)]


def test_published_rows_equal_stored_rows(metrics):
    metrics.conn.monitor("equal", min=0, max=100)
    metrics.send_values("equal", wave(600, spikes=[450]))
    rows = metrics.scored("equal", 600)
    told = [(r["ts"], r["value"], r["raw_score"], r["anomaly"], r["rowid"]) for r in metrics.results("equal")]
    assert told == rows
    assert max(row[3] for row in rows) > 0.99999


def test_resource_and_user_info_are_kept_and_a_second_model_is_refused(metrics):
    spec = {
        "datasource": "custom",
        "metricSpec": {"metric": "kept", "resource": "Test Resource", "userInfo": {"symbol": "X"}},
        "modelParams": {"min": 0, "max": 100},
    }
    made = metrics.conn.monitor(spec=spec)
    assert (made["resource"], made["parameters"]) == ("Test Resource", spec)
    assert metrics.model("batch.send")["resource"] == "batch.send"
    with pytest.raises(MetricAlreadyMonitored) as caught:
        metrics.conn.monitor(spec=spec)
    assert caught.value.uid == made["uid"]


def test_an_export_has_the_last_fortnight(metrics):
    now = int(time.time())
    edge = now - 14 * DAY
    metrics.send(f"export 5 {edge - STEP}", f"export 6 {edge + STEP}", f"export 7 {edge + 2 * STEP}")
    metrics.stored("export", 3)
    metrics.conn.monitor("export", min=0, max=10)
    exported = metrics.conn.export_model("export")
    assert [value for value, _ in exported["data"]] == [6.0, 7.0]
    first = dt.datetime.fromisoformat(exported["data"][0][1])
    assert int(first.timestamp()) == edge + STEP
    metrics.conn.delete_metric("export")
    metrics.conn.import_model(json.loads(json.dumps(exported)))
    assert metrics.conn.export_model("export") == exported


def test_the_command_line_leads_through_a_models_life(metrics):
    cli = metrics.served.cli
    metrics.send_values("by.hand", wave(10))
    metrics.stored("by.hand", 10)
    assert (
        metrics.served.json("models", "monitor", "by.hand", "--timezone", "Europe/Berlin")["status"] == "PENDING_DATA"
    )
    assert metrics.served.json("models", "activate", "by.hand")["status"] == "CREATE_PENDING"
    metrics.scored("by.hand", 10)
    assert "by.hand" in cli("models", "list", "--status", "active").stdout
    assert cli("models", "monitor", "by.hand").returncode == 5
    assert cli("models", "retry", "by.hand").returncode == 5
    missing = cli("models", "show", "by.hnad")
    assert (missing.returncode, "did you mean: by.hand" in missing.stderr) == (4, True)
    told = cli("models", "export", "by.hand")
    assert "the last 14 days; --days 0: all" in told.stderr
    exported = cli("models", "export", "by.hand", "--days", "0")
    assert "by.hand: 10 samples from 20" in exported.stderr
    assert cli("models", "delete", "by.hand", "--yes").returncode == 0
    assert cli("models", "import", "-", stdin=exported.stdout).returncode == 0
    assert metrics.model("by.hand")["last_rowid"] == 10
    assert cli("models", "import", "-", stdin="{").returncode == 2
    assert metrics.served.json("models", "status")["metrics"]["PENDING_DATA"] >= 1


def test_killing_the_scoring_process_changes_no_score_and_doubles_no_event(metrics):
    """Samples arrive all the while; the other metric is scored in one piece beforehand."""
    values = wave(1500, spikes=[900, 1300])
    metrics.conn.monitor("straight", min=0, max=100)
    metrics.send_values("straight", values)
    straight = metrics.scored("straight", 1500)
    metrics.conn.monitor("broken", min=0, max=100)
    for number, start in enumerate(range(0, 1500, 150)):
        metrics.send_values("broken", values[start : start + 150], start=start)
        if number % 3 == 1:
            metrics.served.kill_role("models")
    assert metrics.scored("broken", 1500) == straight
    assert [row["rowid"] for row in metrics.results("broken")] == [*range(1, 1501)]


def test_a_detector_of_ones_own_scores_from_the_command_line_on_through_kills(metrics):
    example = Path(__file__).parents[2] / "examples" / "own_detector.py"
    pushed = metrics.served.json("detectors", "push", str(example), "--name", "zscore", "--timeout", "20s")
    assert (pushed["name"], pushed["version"]) == ("zscore", 0)
    assert [one["name"] for one in metrics.served.json("detectors", "list")] == ["zscore"]
    assert metrics.served.json("handlers", "list") == []
    near = metrics.served.cli("models", "monitor", "own", "--detector", "user:zscor")
    assert (near.returncode, "user:zscore" in near.stderr) == (2, True)
    metrics.served.json("models", "monitor", "own", "--detector", "user:zscore")
    values = wave(300, spikes=[250])
    for start in range(0, 300, 60):
        metrics.send_values("own", values[start : start + 60], start=start)
        if start in {60, 180}:
            metrics.served.kill_role("models")
    rows = metrics.scored("own", 300)
    one, expected = ZScore(), []
    for value in values:
        expected.append(one.score_one(value))
        one.learn_one(value)
    assert [row[3] for row in rows] == expected
    assert expected[250] == 1.0
    assert [row["rowid"] for row in metrics.results("own")] == [*range(1, 301)]
    assert metrics.served.cli("detectors", "delete", "zscore").returncode == 0
    metrics.send_values("own", wave(5), start=300)  # who has it goes on
    metrics.scored("own", 305)


OFTEN = ("samples.stored", "sample.rejected", "model.define_requested", "model.loaded", "checkpoint.saved")


def test_what_happens_often_is_told_of_only_where_somebody_names_it(metrics):
    conn = metrics.conn

    def told(hook: str) -> list[dict]:
        return [event["payload"] for event in conn.events(hook=hook, limit=1000)]

    def handler(db, **event):
        return sorted(event)

    handlers = [conn.register(handler, hook="*", name="everything", isolation="batch")]
    metrics.conn.monitor("often.before", min=0, max=100)
    metrics.send_values("often.before", wave(3))
    metrics.scored("often.before", 3)
    assert [hook for hook in OFTEN if told(hook)] == []
    handlers += [conn.register(handler, hook=hook, name="often", isolation="batch") for hook in OFTEN]
    conn.monitor("often.after", min=0, max=100)
    metrics.send_values("often.after", wave(150))
    metrics.send(f"often.after 1.0 {EPOCH}", "often.after nonsense 1")
    metrics.scored("often.after", 150)
    uid = metrics.model("often.after")["uid"]
    ranges = [payload["rowids"] for payload in told("samples.stored") if payload["metric"]["uid"] == uid]
    assert sorted(row for first, last in ranges for row in range(first, last + 1)) == [*range(1, 151)]
    refused = {payload["reason"]: payload["metric"] for payload in told("sample.rejected")}
    assert (refused["late"], refused["bad value"]) == ("often.after", "often.after")
    assert [payload["modelId"] for payload in told("model.define_requested")] == [uid]
    assert [payload["checkpoint"] for payload in told("model.loaded") if payload["metric"]["uid"] == uid] == [False]
    assert [payload["kind"] for payload in told("checkpoint.saved") if payload["metric"]["uid"] == uid] == ["full"]
    for each in handlers:
        conn.deregister(each.id)
