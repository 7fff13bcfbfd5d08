"""The ready-made handlers about anomalies do what they say, in the in-memory platform."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from eventproc import plugins
from eventproc.model import NewMetric, SampleScores
from eventproc.testing import Harness

DIRECTORY = plugins.bundled_dir("handlers")
MINUTE_US = 60_000_000


def marked(stem: str):
    (found,) = plugins.marked_handlers(plugins.load(DIRECTORY / f"{stem}.py"))
    return found


@pytest.fixture(autouse=True)
def in_a_work_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def platform():
    with Harness() as harness:
        yield harness


def add(platform, stem: str, **changes):
    found = marked(stem)
    options = {**found.mark.options, **changes}
    options.pop("network", None)
    return platform.register(
        found.target, hook=found.mark.hook, name=found.mark.name, tags=list(found.mark.tags or []), **options
    )


def batch(platform, *rows, resource="web-1", name="web.cpu", **spec):
    """Emit scored rows: (rowid, minutes ago, anomaly)."""
    now = platform.clock.now_us() / 1e6
    results = [
        {"rowid": rowid, "ts": now - 60 * ago, "value": 5.0, "raw_score": 0.5, "anomaly": anomaly}
        for rowid, ago, anomaly in rows
    ]
    metric = {"uid": f"u-{name}", "name": name, "resource": resource, "spec": {"metric": name, **spec}}
    platform.emit("inference.batch_done", {"metric": metric, "results": results})
    platform.run_until_idle()


def found(platform):
    return [event.payload for event in platform.events if event.hook == "anomaly.found"]


def test_the_watch_tells_of_the_worst_row_once_per_resource_and_window(platform):
    add(platform, "anomaly_watch")
    batch(platform, (1500, 3, 0.5), (1501, 2, 0.999991), (1502, 1, 0.999999))
    assert [(one["rowid"], one["resource"]) for one in found(platform)] == [(1502, "web-1")]
    batch(platform, (1503, 0, 1.0), name="web.disk")
    assert len(found(platform)) == 1
    batch(platform, (1503, 0, 1.0), resource="web-2", name="other.cpu")
    assert len(found(platform)) == 2
    platform.clock.advance(2 * 3600)
    batch(platform, (1600, 0, 1.0))
    assert len(found(platform)) == 3


def test_the_watch_mails_only_what_it_tells_of(platform):
    add(platform, "anomaly_watch", notify_on_success="a@example.com")
    batch(platform, (1500, 0, 0.95))
    batch(platform, (1501, 0, 1.0))
    batch(platform, (1502, 0, 1.0))
    assert [run.state for run in platform.runs] == ["succeeded"] * 3
    assert len(platform.mails) == 1
    assert "web.cpu: 1.000000" in str(platform.mails[0])


@pytest.mark.parametrize("row", [(1000, 0, 1.0), (1500, 90, 1.0), (1500, 0, 0.9999)])
def test_young_models_old_rows_and_lesser_scores_are_not_told(platform, row):
    add(platform, "anomaly_watch")
    batch(platform, row)
    assert found(platform) == []


def test_a_metric_says_its_own_sensitivity_and_window(platform):
    add(platform, "anomaly_watch")
    for minute in range(3):
        batch(platform, (1500 + minute, 0, 0.95), userInfo={"sensitivity": 0.95, "windowsize": 60})
        platform.clock.advance(120)
    assert len(found(platform)) == 3


def stored(platform, name="web.cpu"):
    with platform.store.begin() as tx:
        metric, _ = tx.metrics.create([NewMetric(name=name, resource="web-1")], now_us=1)[0]
        end = platform.clock.now_us()
        times = [end - (59 - minute) * MINUTE_US for minute in range(60)]
        tx.samples.add_batch([metric.id] * 60, times, [float(minute) for minute in range(60)])
        tx.samples.set_scores([SampleScores(metric.id, 60, 1.0, 0.99999, 1_000_001.0)])
        tx.metrics.set_status(metric.id, 1)


def tell(platform):
    payload = {
        "metric": "web.cpu",
        "resource": "web-1",
        "ts": platform.clock.now_us() / 1e6,
        "value": 59.0,
        "anomaly": 1.0,
    }
    platform.emit("anomaly.found", payload)
    platform.run_until_idle()
    (run,) = platform.runs
    assert run.state == "succeeded", run.failure
    return run.result


def test_the_mail_says_what_when_and_how_unusual(platform):
    stored(platform)
    stored(platform, "web.disk")
    add(platform, "anomaly_mail", notify_on_success="ops@example.com")
    text = tell(platform)
    assert text.splitlines()[0] == "Unusual behavior seen on: web-1"
    assert "the 3 hours before (0 to 59):\n▁" in text
    assert "also unusual lately:\n  web.disk (0.99999)" in text
    assert platform.mails


def test_the_report_keeps_a_table_and_a_plot(platform, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a worker gives each run a directory of its own, the harness does not
    stored(platform)
    add(platform, "anomaly_report")
    text = tell(platform)
    assert text.startswith("web.cpu: 60 samples")
    assert set(platform.files) in ({"report.csv", "report.png"}, {"report.csv", "report.svg"})


def test_the_ranking_covers_two_a_day_and_eight_days(platform):
    stored(platform)
    add(platform, "anomaly_ranking")
    payload = {"schedule": "morning", "due": "2026-01-01T00:00:00Z", "missed": 0}
    platform.emit("schedule.tick", payload, tags=["ranking"])
    platform.run_until_idle()
    text = platform.runs[0].result
    assert [line for line in text.splitlines() if line.startswith("the last")] == [
        "the last 2 hours",
        "the last 24 hours",
        "the last 192 hours",
    ]
    assert text.count("web.cpu (web-1)") == 3


def test_the_webhook_posts_the_payload_with_an_id(platform):
    got = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers["Idempotency-Key"], json.loads(body)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        platform.set_secret("ANOMALY_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/hook")
        add(platform, "anomaly_webhook")
        assert tell(platform) == "204 No Content"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert got[0][1]["metric"] == "web.cpu"
    assert got[0][0] == got[0][1]["id"] == platform.events[0].id


def test_times_of_samples_reach_a_handler_as_datetimes(platform):
    stored(platform)

    def look(db, **payload):
        rows = db.samples("web.cpu", limit=2)
        return [rows[0].time.isoformat(), rows[1].anomaly, (rows[1].time - rows[0].time).total_seconds()]

    platform.add_hook("test.look")
    platform.register(look, hook="test.look", name="look")
    platform.emit("test.look", {})
    platform.run_until_idle()
    _, anomaly, step = platform.runs[0].result
    assert (anomaly, step) == (0.99999, timedelta(minutes=1).total_seconds())
