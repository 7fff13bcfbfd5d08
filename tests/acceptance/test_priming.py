"""A primed model knows its history on a running platform, and live samples go on from there."""

from __future__ import annotations

import math

from waiting import wait_until


def test_a_model_starts_with_a_history_and_goes_on_live(serve, tmp_path):
    served = serve()
    start = 1_700_000_000
    path = tmp_path / "history.csv"
    rows = [(start + 300 * n, 50 + 20 * math.sin(n / 288 * 2 * math.pi)) for n in range(1000)]
    path.write_text("timestamp,value\n" + "".join(f"{time},{value:.3f}\n" for time, value in rows))
    done = served.json("models", "prime", "web.requests", str(path), "--find-params", "--json")
    assert (done["status"], done["stored"], done["scored"]) == ("ACTIVE", 1000, 1000)
    conn = served.connect()
    conn.send_samples([("web.requests", 500.0, start + 300 * 1000)])
    wait_until(
        lambda: conn.model("web.requests")["scored_rowid"] == 1001, what="the live sample's score", timeout_s=180
    )
    assert conn.samples("web.requests", newest_first=True, limit=1)[0]["anomaly"] > 0.9
    found = served.json("anomalies", "--hours", "2", "--json")
    assert [one["name"] for one in found["items"]] == ["web.requests"]
    again = served.cli("models", "prime", "web.requests", str(path))
    assert again.returncode == 5


def test_an_aggregate_over_tags_is_monitored_like_any_metric(serve):
    served = serve()
    conn = served.connect()
    served.json("aggregates", "add", "web.all", "--tag", "app=web", "--function", "sum", "--period", "1m", "--json")
    start = 1_700_000_040
    for minute in range(10):
        conn.send_samples((f"cpu;app=web;host={host}", minute + host, start + 60 * minute) for host in (1, 2))
    wait_until(lambda: len(conn.samples("web.all")) >= 9, what="the aggregate's samples", timeout_s=60)
    assert [row["value"] for row in conn.samples("web.all")][:3] == [3.0, 5.0, 7.0]
    conn.monitor("web.all", min=0, max=100)
    wait_until(lambda: conn.model("web.all")["status"] == "ACTIVE", what="its model", timeout_s=180)
