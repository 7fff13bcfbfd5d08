"""Metrics and samples over HTTP, by the client and as series: on every store."""

from __future__ import annotations

import math

import pytest
from models_world import HOOKS

from eventproc import Connection
from eventproc.engine import series
from eventproc.errors import Conflict, Forbidden, InvalidInput, NotFound
from eventproc.model import SampleScores
from eventproc.registry.specs import load_specs

T = 1_700_000_000


@pytest.fixture(autouse=True)
def hooks_of_metrics(api):
    specs, _ = load_specs([HOOKS / "metrics.yaml"], source="bundled")
    with api.context.store.begin() as tx:
        for spec in specs:
            tx.hooks.put(spec, now_us=1, by="test")


@pytest.fixture
def conn(api):
    with Connection(api.url, api.keys["admin"]) as connection:
        yield connection


def fill(conn, count: int = 10, name: str = "web.requests") -> None:
    done = conn.send_samples([(name, number, T + number * 60) for number in range(1, count + 1)])
    assert (done["accepted"], done["rejected"]) == (count, {})


def test_samples_are_sent_as_tuples_lines_or_json_and_bad_ones_are_refused_singly(conn):
    done = conn.send_sample_lines(["a 1 100", "a x 200", "a 3 300.25\r", "a nan 400", "a 5 300"])
    assert (done["accepted"], done["created"]) == (2, 1)
    assert done["rejected"] == {"bad value": 2, "late": 1}
    assert done["examples"] == [{"reason": "bad value", "line": 2, "text": "a x 200"}]
    done = conn.send_sample_lines(
        [
            '{"name": "j", "value": 1, "time": 100.5, "tags": {"b": "2", "a": "1"}}',
            '{"metric": "j;a=1;b=2", "value": 2.5, "timestamp": "2023-11-14T22:13:20Z"}',
            '{"name": "j", "value": "3"}',
            '{"name": "j", "value": true}',
            '{"name": 5, "value": 1}',
            '{"name": "j", "value": 1, "time": "yesterday"}',
            "[]",
            "{",
            '{"name": "now", "value": -1e400}',
            '{"name": "now", "value": 7}',
        ]
    )
    assert (done["accepted"], done["created"]) == (3, 2)
    assert done["rejected"] == {"bad value": 2, "bad name": 1, "bad time": 1, "unreadable": 3}
    assert [one["line"] for one in done["examples"]] == [3, 4, 5, 6, 7, 8, 9]
    assert [(one["timestamp"], one["value"]) for one in conn.samples("j;a=1;b=2")] == [(100.5, 1.0), (T, 2.5)]
    assert conn.samples("now")[0]["timestamp"] > T
    rows = conn.rejected_samples(reason="late")
    assert [(row["metric"], row["source"], row["count"], row["examples"]) for row in rows] == [
        ("a", "http admin", 1, ["a 5.0 300.0"])
    ]
    assert conn.rejected_samples(metric="zzz*") == []


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "application/json", ""])
@pytest.mark.parametrize("body", ['{"name": "j", "value": 1}', '\n[{"name": "j", "value": 1},\n {"name": "j"}]\n'])
def test_json_is_known_by_its_looks_and_may_be_an_array(api, body, content_type):
    headers = {"content-type": content_type} if content_type else {}
    done = api.client().post("/metrics/samples", content=body, headers=headers).json()
    assert done["accepted"] == 1
    assert done["rejected"] == ({"bad value": 1} if "[" in body else {})
    assert [one["line"] for one in done["examples"]] == ([2] if "[" in body else [])


def test_an_array_that_does_not_end_is_refused(api):
    done = api.client().post("/metrics/samples", content='[{"name": "j", "value": 1},\n').json()
    assert (done["accepted"], done["rejected"]) == (0, {"unreadable": 1})


def test_metrics_are_listed_and_shown(conn):
    fill(conn, 3)
    conn.send_samples([("disk;host=b", 1, T), ("disk;host=a", 1, T), ("web.errors", 1, T)])
    assert [one["name"] for one in conn.metrics()] == ["disk;host=a", "disk;host=b", "web.errors", "web.requests"]
    assert [one["name"] for one in conn.metrics(limit=3)] == ["disk;host=a", "disk;host=b", "web.errors"]
    assert [one["name"] for one in conn.metrics("web.*")] == ["web.errors", "web.requests"]
    assert [one["name"] for one in conn.metrics(tags={"host": "b"})] == ["disk;host=b"]
    assert conn.metrics(status="ACTIVE") == []
    shown = conn.metric("web.requests")
    assert (shown["accepted"], shown["rejected"], shown["status"]) == (3, 0, "UNMONITORED")
    assert shown["statistics"] == {"count": 3, "min": 1.0, "max": 3.0}
    assert (shown["first_time"], shown["last_time"]) == ("2023-11-14T22:14:20.000000Z", "2023-11-14T22:16:20.000000Z")
    assert conn.metric(shown["uid"]) == shown
    with pytest.raises(NotFound, match="did you mean"):
        conn.metric("web.request")
    with pytest.raises(InvalidInput):
        conn.metrics(status="NOTHING")


def test_samples_are_queried_by_time_count_and_score(conn, service_context):
    fill(conn)
    with service_context.store.begin() as tx:
        metric = tx.metrics.by_name("web.requests")
        assert metric is not None
        tx.samples.set_scores(
            [SampleScores(metric.id, 4, 0.5, 0.25, 1000.5, '{"1": 3.5}'), SampleScores(metric.id, 8, 1.0, 0.99)]
        )

    def rowids(**options) -> list[int]:
        return [one["rowid"] for one in conn.samples("web.requests", **options)]

    assert rowids() == list(range(1, 11))
    assert rowids(start=T + 120, end=T + 240) == [2, 3]
    assert rowids(start="2023-11-14T22:22:20Z") == [9, 10]
    assert rowids(newest_first=True, limit=3) == [10, 9, 8]
    assert rowids(scored=True) == [4, 8]
    assert rowids(min_score=0.9) == [8]
    one = conn.samples("web.requests", scored=True)[0]
    assert one == {
        "rowid": 4,
        "time": "2023-11-14T22:17:20.000000Z",
        "timestamp": T + 240,
        "value": 4.0,
        "raw_score": 0.5,
        "anomaly": 0.25,
        "display_value": 1000.5,
        "predictions": {"1": 3.5},
    }
    windows = conn.metric_windows("web.requests", 300)
    assert [(one["count"], one["min"], one["mean"], one["max"], one["anomaly"]) for one in windows] == [
        (5, 1.0, 3.0, 5.0, 0.25),
        (5, 6.0, 8.0, 10.0, 0.99),
    ]
    with pytest.raises(InvalidInput, match="too many windows"):
        conn.metric_windows("web.requests", 0.001)


def test_pages_follow_each_other(api, conn):
    fill(conn, 25)
    client = api.client("viewer")
    found, after = [], None
    while True:
        answer = client.get(
            "/metrics/web.requests/samples", params={"limit": 10, **({"after": after} if after else {})}
        )
        page = answer.json()
        found += [one["rowid"] for one in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert found == list(range(1, 26))


def test_a_dump_is_exact_and_can_be_sent_again(conn):
    values = [0.1, -0.0, 1e-308, 1.7976931348623157e308, 5e-324, 1 / 3, 2.0**53, 1e22]
    times = [T + number + number / 7 for number in range(len(values))]
    conn.send_samples([("exact", value, time) for value, time in zip(values, times, strict=True)])
    conn.send_samples([("tagged;a=b", 1, T), ("other", 2, T)])
    text = "".join(conn.dump_samples())
    assert len(text.splitlines()) == 10
    assert f"tagged;a=b 1.0 {T}\n" in text
    before = conn.samples("exact")
    assert [math.copysign(1, one["value"]) * abs(one["value"]) for one in before] == values
    for name in ("exact", "tagged;a=b", "other"):
        conn.delete_metric(name)
    assert conn.send_sample_lines(text.splitlines())["accepted"] == 10
    assert "".join(conn.dump_samples()) == text
    assert conn.samples("exact") == before
    assert "".join(conn.dump_samples("o*", "tagged;a=b")) == f"other 2.0 {T}\ntagged;a=b 1.0 {T}\n"
    assert "".join(conn.dump_samples("other", start=T + 1)) == ""
    with pytest.raises(NotFound):
        list(conn.dump_samples("nothing"))


def test_a_metric_is_read_as_a_series(api, conn, service_context):
    fill(conn, 5)
    uid = conn.metric("web.requests")["uid"]
    client = api.client("viewer")
    listed = client.get("/series", params={"collection": "metrics"}).json()["items"]
    assert [(one["uuid"], one["name"], one["collection"]) for one in listed] == [(uid, "web.requests", "metrics")]
    with service_context.store.begin() as tx:
        first = (T + 60) * 10**9
        times, values = series.values(tx, uid, first, first + 121 * 10**9)
        assert times.tolist() == [first, first + 60 * 10**9, first + 120 * 10**9]
        assert values.tolist() == [1.0, 2.0, 3.0]
        assert series.values(tx, uid, first + 1, first + 60 * 10**9)[0].tolist() == []
        times, values, following = series.page(tx, uid, first, first + 121 * 10**9, limit=2)
        assert (times.tolist(), values.tolist()) == ([first, first + 60 * 10**9], [1.0, 2.0])
        assert following is not None
        times, values, following = series.page(tx, uid, following, first + 121 * 10**9, limit=2)
        assert (times.tolist(), following) == ([first + 120 * 10**9], None)
        assert (series.count(tx, uid), series.count(tx, uid, first + 1, None)) == (5, 4)
        assert series.earliest(tx, uid) == (first, 1.0)
        assert series.latest(tx, uid) == (first + 240 * 10**9, 5.0)
        assert series.nearest(tx, uid, first + 1) == (first + 60 * 10**9, 2.0)
        windows = series.windows(tx, uid, first, first + 240 * 10**9, 120 * 10**9)
        assert (windows["count"].tolist(), windows["mean"].tolist()) == ([2, 2], [1.5, 3.5])
        with pytest.raises(Conflict, match="is a metric"):
            series.insert(tx, uid, [first], [1.0])
        assert tx.series.collections() == ["metrics"]
        assert [one.uuid for one in tx.series.find(name="web.requests")] == [uid]
        assert tx.series.find(collection="other") == []


def test_rights_are_checked(api):
    viewer = api.client("viewer")
    assert viewer.post("/metrics/samples", content=b"a 1 1\n").status_code == 403
    assert api.client(None).post("/metrics/samples", content=b"a 1 1\n").status_code == 401
    assert api.client("emitter").post("/metrics/samples", content=b"a 1 1\n").json()["accepted"] == 1
    assert viewer.get("/metrics").status_code == 200
    with Connection(api.url, api.keys["viewer"]) as connection, pytest.raises(Forbidden):
        connection.send_samples([("a", 1, 2)])


def test_a_sample_that_is_none_is_refused_before_anything_is_sent(conn):
    with pytest.raises(InvalidInput, match="a sample is"):
        conn.send_samples([("a", "1")])
    assert conn.metrics() == []
