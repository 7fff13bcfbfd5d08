"""Annotations, aggregates, the ranking and found parameters over HTTP and on the command line."""

from __future__ import annotations

import json

import pytest

from eventproc.cli.main import run
from eventproc.model import HookSpec, NewMetric, SampleScores
from eventproc.service.hooks import sync_bundled_hooks

HOUR_US = 3_600_000_000
START_US = 1_700_000_000_000_000


@pytest.fixture
def metrics(api):
    """Two metrics of one server with scored samples, and one that is daily."""
    with api.context.store.begin() as tx:
        made = tx.metrics.create(
            [
                NewMetric(name="web.cpu", resource="web-1", tags={"dc": "east"}),
                NewMetric(name="web.disk", resource="web-1", tags={"dc": "west"}),
            ],
            now_us=1,
        )
        for number, (metric, _) in enumerate(made):
            times = [START_US + hour * HOUR_US for hour in range(200)]
            tx.samples.add_batch([metric.id] * 200, times, [float(hour % 24) for hour in range(200)])
            tx.samples.set_scores(
                [SampleScores(metric.id, row, 0.5, 0.99999 - number * 0.05, 1_000_001.0 - number) for row in (198, 150)]
            )
            tx.metrics.set_status(metric.id, 1)
    return [metric for metric, _ in made]


def test_annotations_are_added_changed_found_and_deleted(api, metrics):
    client = api.client("emitter")
    body = {
        "timestamp": "2023-11-14T22:00:00Z",
        "server": "web-1",
        "device": "phone",
        "metric": "web.cpu",
        "data": {"a": 1},
    }
    added = client.post("/annotations", json=body)
    assert added.status_code == 201
    note = added.json()
    assert (note["user"], note["metric"], note["timestamp"]) == (
        "emitter",
        metrics[0].uid,
        "2023-11-14T22:00:00.000000Z",
    )
    client.post("/annotations", json={"timestamp": 1700000000.5, "server": "db-1", "message": "later", "user": "ann"})
    assert [one["server"] for one in client.get("/annotations").json()["items"]] == ["db-1", "web-1"]
    found = client.get("/annotations", params={"server": "web-1", "from": "2023-11-14T22:00:00Z", "to": "2023-11-15"})
    assert [one["uid"] for one in found.json()["items"]] == [note["uid"]]
    assert client.get("/annotations", params={"user": "ann", "metric": "web.cpu"}).json()["items"] == []
    changed = client.patch(f"/annotations/{note['uid']}", json={"message": "so"})
    assert (changed.json()["message"], changed.json()["data"]) == ("so", {"a": 1})
    assert client.delete(f"/annotations/{note['uid']}").status_code == 200
    assert client.get(f"/annotations/{note['uid']}").status_code == 404


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"timestamp": "2023-11-14", "server": "w"}, "needs a 'message' or 'data'"),
        ({"timestamp": "yesterday", "server": "w", "message": "m"}, "must be an ISO time"),
        ({"timestamp": "2023-11-14", "server": "", "message": "m"}, "'server'"),
        ({"timestamp": "2023-11-14", "message": "m"}, "server"),
        ({"timestamp": "2023-11-14", "server": "w", "message": "m", "metric": "none"}, "no metric 'none'"),
    ],
)
def test_a_bad_annotation_is_refused(api, body, says):
    answer = api.client().post("/annotations", json=body)
    assert answer.status_code in (400, 404)
    assert says in answer.text


def test_an_annotation_of_somebody_else_stays(api):
    body = {"timestamp": "2023-11-14", "server": "w", "message": "m"}
    note = api.client("admin").post("/annotations", json=body).json()
    assert api.client("emitter").delete(f"/annotations/{note['uid']}").status_code == 403
    assert api.client("viewer").get(f"/annotations/{note['uid']}").json()["message"] == "m"
    assert api.client("viewer").post("/annotations", json=body).status_code == 403


def test_an_aggregate_is_previewed_made_paused_and_deleted(api, metrics):
    client = api.client("developer")
    selector = {"pattern": "web.*", "tags": {"dc": "e*"}}
    assert [one["name"] for one in client.post("/aggregate-previews", json=selector).json()["items"]] == ["web.cpu"]
    made = client.put("/aggregates/all.cpu", json={**selector, "function": "sum", "period": "10m"})
    assert made.status_code == 201
    assert (made.json()["period_s"], made.json()["wait_s"]) == (600.0, 120.0)
    assert client.put("/aggregates/all.cpu", json=selector).status_code == 409
    assert client.put("/aggregates/web.cpu", json=selector).status_code == 409
    assert client.patch("/aggregates/all.cpu", json={"paused": True}).json()["paused"]
    assert [one["name"] for one in client.get("/aggregates").json()["items"]] == ["all.cpu"]
    assert api.client("viewer").delete("/aggregates/all.cpu").status_code == 403
    assert client.delete("/aggregates/all.cpu").status_code == 200
    assert client.get("/aggregates/all.cpu").status_code == 404


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "say which metrics"),
        ({"pattern": "*", "function": "mode"}, "there are mean, sum, count, min, max"),
        ({"pattern": "*", "period": "0.1s"}, "a period is 1 second to 7 days"),
        ({"pattern": "*", "period": "soon"}, "no duration"),
    ],
)
def test_a_bad_aggregate_is_refused(api, body, says):
    answer = api.client().put("/aggregates/x", json=body)
    assert answer.status_code == 400
    assert says in answer.text


def test_the_ranking_ends_at_the_newest_sample(api, metrics):
    client = api.client("viewer")
    day = client.get("/anomalies").json()
    assert [one["name"] for one in day["items"]] == ["web.cpu", "web.disk"]
    assert day["items"][0]["rows"] == 1
    week = client.get("/anomalies", params={"hours": 192}).json()
    assert [one["rows"] for one in week["items"]] == [2, 2]
    by_server = client.get("/anomalies", params={"by": "resource"}).json()["items"]
    assert [(one["resource"], one["name"]) for one in by_server] == [("web-1", "web.cpu")]
    assert client.get("/anomalies", params={"end": "2001-01-01"}).json()["items"] == []
    assert client.get("/anomalies", params={"hours": 1e9}).status_code == 400


def test_parameters_are_found_for_a_stored_metric(api, metrics):
    found = api.client("viewer").get("/parameters/web.cpu").json()
    assert found["interval"] == 3600
    assert found["timeOfDay"]
    assert api.client().get("/parameters/web.cup").status_code == 404


def test_commands_do_the_same(api, metrics, capsys, monkeypatch):
    monkeypatch.setenv("EVENTPROC_ENDPOINTS", api.url)
    monkeypatch.setenv("EVENTPROC_API_KEY", api.keys["admin"])

    def say(*words: str) -> str:
        assert run(list(words)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    uid = json.loads(say("annotations", "add", "web-1", "new release", "--metric", "web.cpu", "--json"))["uid"]
    assert "new release" in say("annotations", "list", "--server", "web-1")
    assert "old release" in say("annotations", "change", uid, "--message", "old release")
    say("annotations", "delete", uid)
    assert "web.cpu" in say("aggregates", "preview", "--pattern", "web.*", "--tag", "dc=east")
    say("aggregates", "add", "web.all", "--pattern", "web.*")
    assert "web.all" in say("aggregates", "list")
    say("aggregates", "delete", "web.all")
    assert say("anomalies", "--hours", "192").splitlines()[1].startswith("web.cpu")
    assert "hours" in say("models", "params", "web.cpu")


def test_a_history_is_stored_and_the_model_waits_for_its_worker(api, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("EVENTPROC_ENDPOINTS", api.url)
    monkeypatch.setenv("EVENTPROC_API_KEY", api.keys["admin"])
    with api.context.store.begin() as tx:
        spec = HookSpec(name="metric.*", summary="Something of a metric.", source="bundled")
        sync_bundled_hooks(tx, [spec], now_us=api.context.clock.now_us())
    path = tmp_path / "h.csv"
    path.write_text("timestamp,value\n" + "".join(f"2024-01-01 {h:02}:00:00,{h}\n" for h in (1, 2, 3, 3, 4)))
    assert run(["models", "prime", "old.metric", str(path), "--no-wait", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["stored"], done["left_out"], done["status"]) == (4, 1, "CREATE_PENDING")
    assert run(["models", "prime", "old.metric", str(path), "--no-wait"]) == 5
    assert "monitored already" in capsys.readouterr().err
