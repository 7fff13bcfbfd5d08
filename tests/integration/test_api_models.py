"""Models over HTTP, the Python client and the command line."""

from __future__ import annotations

import json

import pytest
from models_world import EPOCH, HOOKS, wave

from eventproc import Connection
from eventproc.errors import Forbidden, InvalidInput, MetricAlreadyExists, MetricAlreadyMonitored, NotFound
from eventproc.registry.specs import load_specs

RANGE = {"min": 0, "max": 100}


@pytest.fixture(autouse=True)
def hooks_of_models(api):
    files = [HOOKS / name for name in ("metrics.yaml", "models.yaml", "inference.yaml")]
    specs, _ = load_specs(files, source="bundled")
    with api.context.store.begin() as tx:
        for spec in specs:
            tx.hooks.put(spec, now_us=1, by="test")


def data(count):
    return [[value, EPOCH + 300 * i] for i, value in enumerate(wave(count))]


def error_of(answer):
    return answer.json()["error"]


def test_a_metric_is_created_monitored_listed_and_deleted(api):
    client = api.client("developer")
    made = client.post("/metrics", json={"name": "web.requests", "resource": "web-1"})
    assert made.status_code == 201, made.text
    again = client.post("/metrics", json={"name": "web.requests"})
    assert (again.status_code, error_of(again)["details"]["uid"]) == (409, made.json()["uid"])
    found = client.post("/models", json={"metricSpec": {"uid": made.json()["uid"]}, "modelParams": RANGE})
    assert found.status_code == 201, found.text
    assert (found.json()["status"], found.json()["status_code"]) == ("CREATE_PENDING", 2)
    assert found.json()["parameters"]["metricSpec"] == {"metric": "web.requests"}
    assert found.json()["resource"] == "web-1"
    twice = client.post("/models", json={"metricSpec": {"metric": "web.requests"}})
    assert (twice.status_code, error_of(twice)["code"]) == (409, "metric_already_monitored")
    assert [one["name"] for one in client.get("/models").json()["items"]] == ["web.requests"]
    assert client.get("/models", params={"status": "ERROR"}).json()["items"] == []
    gone = client.delete("/models/web.requests").json()
    assert (gone["status"], gone["parameters"]) == ("UNMONITORED", None)
    assert client.delete("/metrics/web.requests").json()["deleted"] is True
    assert client.get("/models/web.requests").status_code == 404


def test_names_with_slashes_are_names(api):
    client = api.client("developer")
    client.post("/models", json={"metricSpec": {"metric": "/route/5"}, "modelParams": RANGE})
    assert client.get("/models//route/5").json()["name"] == "/route/5"
    assert client.post("/models//route/5/activate").json()["status"] == "CREATE_PENDING"
    assert client.get("/models//route/5/export").json()["metricSpec"] == {"metric": "/route/5"}


def test_bad_specifications_are_bad_requests_and_make_no_metric(api):
    client = api.client("developer")
    answer = client.post("/models", json={"metricSpec": {"metric": "cpu"}, "modelParams": {"min": 1}})
    assert answer.status_code == 400
    assert error_of(answer)["message"].startswith("min and max params must both be None or non-None")
    assert client.get("/models/cpu").status_code == 404
    assert client.post("/models", json={"metricSpec": {"metric": "white space"}}).status_code == 400
    assert client.get("/models", params={"status": "BUSY"}).status_code == 400


def test_an_export_makes_the_same_model_elsewhere(api):
    client = api.client("developer")
    spec = {"metricSpec": {"metric": "a", "userInfo": {"x": 1}}, "modelParams": RANGE}
    made = client.post("/models/import", json={**spec, "data": data(20)})
    assert (made.status_code, made.json()["last_rowid"]) == (200, 20), made.text
    exported = client.get("/models/a/export", params={"days": 0}).json()
    assert [value for value, _ in exported["data"]] == wave(20)
    first, last = exported["data"][4][1], exported["data"][9][1]
    part = client.get("/models/a/export", params={"start": first, "end": last}).json()
    assert part["data"] == exported["data"][4:9]
    assert client.get("/models/a/export", params={"start": first}).json()["data"] == exported["data"][4:]
    both = client.get("/models/a/export", params={"start": first, "days": 3})
    assert (both.status_code, "either days" in error_of(both)["message"]) == (400, True)
    client.delete("/metrics/a")
    assert client.post("/models/import", json=exported).json()["status"] == "CREATE_PENDING"
    assert client.get("/models/a/export", params={"days": 0}).json() == exported
    assert client.post("/models/import", json=exported).json()["last_rowid"] == 20  # monitored already


@pytest.mark.parametrize(
    "bad",
    [[[1]], [["x", 5]], [[1, "yesterday"]], "data", [[float("inf"), 5]]],
    ids=["pair", "value", "time", "list", "infinite"],
)
def test_an_export_with_bad_data_is_refused_whole(api, bad):
    client = api.client("developer")
    body = {"metricSpec": {"metric": "a"}, "modelParams": RANGE, "data": bad}
    answer = client.post("/models/import", content=json.dumps(body).replace("Infinity", "1e400"))
    assert answer.status_code == 400, answer.text
    assert client.get("/models/a").status_code == 404


def test_viewers_look_and_do_not_touch(api):
    developer, viewer = api.client("developer"), api.client("viewer")
    developer.post("/models", json={"metricSpec": {"metric": "cpu"}, "modelParams": RANGE})
    assert viewer.get("/models/cpu").status_code == 200
    assert viewer.get("/models/status").json()["metrics"] == {"CREATE_PENDING": 1}
    for method, path in (("DELETE", "/models/cpu"), ("POST", "/models/cpu/activate"), ("DELETE", "/metrics/cpu")):
        assert viewer.request(method, path).status_code == 403
    assert viewer.post("/models", json={"metricSpec": {"metric": "b"}}).status_code == 403


def test_the_python_client_does_the_same(api):
    with Connection(api.url, api.keys["developer"]) as conn:
        made = conn.create_metric("a", resource="r")
        with pytest.raises(MetricAlreadyExists) as exists:
            conn.create_metric("a")
        assert exists.value.uid == made["uid"]
        assert conn.monitor("a", timezone="Europe/Berlin", dayOfWeek=True)["status"] == "PENDING_DATA"
        with pytest.raises(MetricAlreadyMonitored) as monitored:
            conn.monitor("a")
        assert monitored.value.uid == made["uid"]
        assert conn.model(made["uid"])["parameters"]["options"] == {"timezone": "Europe/Berlin", "dayOfWeek": True}
        with pytest.raises(ValueError, match="no likelihood is named"):
            conn.monitor("b", likelihood="best")
        with pytest.raises(InvalidInput, match="min and max"):
            conn.monitor("b", min=5)
        conn.import_model({"metricSpec": {"metric": "c"}, "data": data(3)})
        assert conn.activate("c")["status"] == "CREATE_PENDING"
        assert [one["name"] for one in conn.models()] == ["a", "c"]
        assert [one["name"] for one in conn.models(name="c*")] == ["c"]
        assert len(conn.export_model("c", days=0)["data"]) == 3
        assert conn.unmonitor("c")["status"] == "UNMONITORED"
        conn.delete_metric("c")
        with pytest.raises(NotFound, match="no metric 'c'"):
            conn.model("c")
        assert conn.models_status()["metrics"] == {"PENDING_DATA": 1}
    with Connection(api.url, api.keys["viewer"]) as conn, pytest.raises(Forbidden):
        conn.retry_model("a")


def test_a_name_with_tags_is_the_one_that_samples_come_with(api):
    client = api.client("developer")
    made = client.post("/models", json={"metricSpec": {"metric": "cpu;host=a;dc=east"}, "modelParams": RANGE}).json()
    assert (made["name"], made["tags"]) == ("cpu;dc=east;host=a", {"dc": "east", "host": "a"})
    again = client.post("/metrics", json={"name": "cpu;dc=east;host=a"})
    assert error_of(again)["details"]["uid"] == made["uid"]
    assert client.post("/models", json={"metricSpec": {"metric": "cpu;host"}}).status_code == 400
