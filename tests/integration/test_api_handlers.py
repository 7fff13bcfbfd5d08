"""Registering handlers over HTTP, and looking after them."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from eventproc.model import Role
from eventproc.service.context import ServiceSettings


def error_of(answer):
    body = answer.json()["error"]
    assert set(body) == {"code", "message", "details"}
    return body


def greet(db, door, **kwargs):
    return f"hello {door}"


def greet_louder(db, door, **kwargs):
    return f"HELLO {door}"


THRESHOLD = 4.5


def compare(db, **kwargs):
    return kwargs["value"] > THRESHOLD


def test_a_handler_is_registered_listed_and_described(api, registration):
    client = api.client("developer")
    body = registration(greet, tags=["a"], notify_on_success="a@example.com", options={"retries": 2})
    answer = client.post("/handlers", json=body)
    assert answer.status_code == 200, answer.text
    handler = answer.json()
    assert (handler["name"], handler["hook"], handler["version"], handler["tags"]) == ("greet", "door.opened", 0, ["a"])
    assert (handler["created_by"], handler["updated_by"]) == ("developer", "developer")
    assert handler["created_at"].endswith("Z")
    assert handler["notify_on_success"] == "a@example.com"
    assert handler["notify_on_failure"] is None
    assert handler["paused"] is False
    assert handler["warnings"] == []
    del handler["warnings"]
    assert client.get("/handlers").json()["items"] == [handler]
    assert client.get("/handlers", params={"hook": "door.opened"}).json()["items"] == [handler]
    assert client.get("/handlers", params={"hook": "compute.x"}).json()["items"] == []
    assert client.get(f"/handlers/{handler['id']}").json() == handler


def test_registering_again_keeps_the_id_and_makes_the_next_version(api, registration):
    client = api.client("developer")
    first = client.post("/handlers", json=registration(greet)).json()
    second = client.post("/handlers", json=registration(greet_louder, name="greet", tags=["b"])).json()
    assert (second["id"], second["version"], second["created_at"]) == (first["id"], 1, first["created_at"])
    assert second["updated_at"] > first["updated_at"]
    versions = client.get(f"/handlers/{first['id']}/versions").json()["items"]
    assert [(version["version"], version["current"], version["tags"]) for version in versions] == [
        (0, False, []),
        (1, True, ["b"]),
    ]
    old = client.get(f"/handlers/{first['id']}/versions/0").json()
    assert "def greet(" in old["source"]
    assert old["python"].startswith("3.")
    assert old["size"] > 0
    assert len(old["digest"]) == 64
    diff = client.get(f"/handlers/{first['id']}/diff", params={"old": 0, "new": 1}).json()["diff"]
    assert '-    return f"hello {door}"' in diff
    assert '+    return f"HELLO {door}"' in diff


def test_an_older_version_can_be_made_current_again(api, registration):
    client = api.client("developer")
    first = client.post("/handlers", json=registration(greet)).json()
    client.post("/handlers", json=registration(greet_louder, name="greet"))
    back = client.post(f"/handlers/{first['id']}/current", json={"version": 0}).json()
    assert back["version"] == 0
    missing = client.post(f"/handlers/{first['id']}/current", json={"version": 7})
    assert (missing.status_code, "no version 7" in error_of(missing)["message"]) == (404, True)
    third = client.post("/handlers", json=registration(greet)).json()
    assert third["version"] == 2


@pytest.mark.parametrize("service_store", ["memory", "sqlite"], indirect=True)
def test_eight_concurrent_registrations_make_eight_versions_of_one_handler(api, registration):
    client = api.client("developer")
    body = registration(greet)
    with ThreadPoolExecutor(8) as pool:
        answers = [answer.json() for answer in pool.map(lambda _: client.post("/handlers", json=body), range(8))]
    assert {answer["id"] for answer in answers} == {answers[0]["id"]}
    assert sorted(answer["version"] for answer in answers) == list(range(8))
    assert len(client.get("/handlers").json()["items"]) == 1


def test_deregistering_answers_with_the_handler_and_a_later_one_is_new(api, registration):
    client = api.client("developer")
    first = client.post("/handlers", json=registration(greet)).json()
    gone = client.delete(f"/handlers/{first['id']}").json()
    assert gone["id"] == first["id"]
    assert client.get("/handlers").json()["items"] == []
    again = client.delete(f"/handlers/{first['id']}")
    assert again.status_code == 404
    assert "was deregistered" in error_of(again)["message"]
    assert client.delete("/handlers/999").status_code == 404
    second = client.post("/handlers", json=registration(greet)).json()
    assert second["id"] != first["id"]
    assert second["version"] == 0


def test_only_the_owner_or_an_admin_changes_a_handler(api, registration):
    api.add_user("olga", Role.DEVELOPER)
    handler = api.client("olga").post("/handlers", json=registration(greet)).json()
    other = api.client("developer")
    path = f"/handlers/{handler['id']}"
    for answer in (
        other.post("/handlers", json=registration(greet)),
        other.delete(path),
        other.post(f"{path}/current", json={"version": 0}),
        other.post(f"{path}/pause"),
    ):
        assert answer.status_code == 403, answer.text
        assert "belongs to user 'olga'" in error_of(answer)["message"]
    assert other.get(path).json() == {key: value for key, value in handler.items() if key != "warnings"}
    admin = api.client("admin")
    assert admin.post(f"{path}/pause").json()["paused"] is True
    assert admin.post("/handlers", json=registration(greet_louder, name="greet")).json()["updated_by"] == "admin"
    # It still is hers, and still runs with her rights.
    assert api.client("olga").delete(path).status_code == 200


def test_pause_and_resume_show(api, registration):
    client = api.client("developer")
    handler = client.post("/handlers", json=registration(greet)).json()
    path = f"/handlers/{handler['id']}"
    assert client.post(f"{path}/pause").json()["paused"] is True
    assert client.get(path).json()["paused"] is True
    assert client.post(f"{path}/resume").json()["paused"] is False


def test_an_unknown_hook_is_met_with_the_near_names(api, registration):
    answer = api.client("developer").post("/handlers", json=registration(greet, hook="door.openned"))
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "unknown_hook"
    assert "door.opened" in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ""}, "name is empty"),
        ({"name": "x" * 300}, "limit is 200"),
        ({"tags": [f"t{number}" for number in range(10_000)]}, "10000 tags"),
        ({"tags": "red"}, "$.tags"),
        ({"notify_on_failure": "nobody"}, "no @ in it"),
        ({"options": {"timeout": -1}}, "timeout"),
        ({"options": {"colour": "red"}}, "unknown option 'colour'"),
        ({"options": {"network": True}}, "network"),
        ({"colour": "red"}, "$.colour"),
        ({"bundle": {}}, "bundle.blob"),
    ],
)
def test_what_can_not_be_honoured_is_refused_with_the_place(api, registration, change, says):
    answer = api.client("developer").post("/handlers", json={**registration(greet), **change})
    assert answer.status_code == 400, answer.text
    assert says in error_of(answer)["message"]
    assert api.client("viewer").get("/handlers").json()["items"] == []


def test_a_damaged_blob_is_refused(api, registration):
    body = registration(greet)
    blob = bytearray(base64.b64decode(body["bundle"]["blob"]))
    blob[len(blob) // 2] ^= 0xFF
    body["bundle"]["blob"] = base64.b64encode(bytes(blob)).decode()
    answer = api.client("developer").post("/handlers", json=body)
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "invalid_handler"
    assert "damaged" in error_of(answer)["message"]


def test_a_blob_that_does_not_load_is_refused_with_the_childs_reason(api, registration):
    body = registration(greet)
    body["bundle"]["blob"] = base64.b64encode(b"no pickle at all").decode()
    body["bundle"]["digest"] = hashlib.sha256(b"no pickle at all").hexdigest()
    answer = api.client("developer").post("/handlers", json=body)
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "invalid_handler"
    assert "can not be loaded" in error_of(answer)["message"]


def test_another_python_is_refused_naming_both(api, registration):
    body = registration(greet)
    ours = body["bundle"]["python"]
    body["bundle"]["python"] = "3.7"
    answer = api.client("developer").post("/handlers", json=body)
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["code"] == "version_mismatch"
    assert "3.7" in error["message"]
    assert ours in error["message"]


class TestSmallLimits:
    @pytest.fixture
    def service_settings(self):
        return ServiceSettings(max_blob_bytes=2000, warn_blob_bytes=100, max_body_bytes=50_000)

    def test_too_large_a_handler_is_refused(self, api, registration):
        padding = bytes(range(256)) * 10

        def heavy(db, **kwargs):
            return len(padding)

        answer = api.client("developer").post("/handlers", json=registration(heavy))
        assert answer.status_code == 413
        assert error_of(answer)["code"] == "handler_too_large"

    def test_a_large_handler_is_warned_about(self, api, registration):
        warnings = api.client("developer").post("/handlers", json=registration(greet)).json()["warnings"]
        assert "large" in warnings[0]

    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_body_over_the_limit_is_refused(self, api, chunked):
        body = b"x" * 60_000
        content = iter([body]) if chunked else body
        answer = api.client("developer").post("/handlers", content=content)
        assert answer.status_code == 413
        assert error_of(answer)["code"] == "too_large"


def test_globals_that_travel_along_are_listed(api, registration):
    answer = api.client("developer").post("/handlers", json=registration(compare, hook="compute.x")).json()
    assert answer["warnings"] == []  # a constant of one's own module is nothing to warn of
    assert client_globals(api, answer["id"]) == ["THRESHOLD"]


def client_globals(api, handler_id):
    return api.client().get(f"/handlers/{handler_id}/versions/0").json()["globals"]


def test_an_event_queues_runs_of_the_handlers_whose_tags_match(api, registration):
    client = api.client("developer")
    ids = {
        name: client.post("/handlers", json=registration(greet, name=name, tags=tags)).json()["id"]
        for name, tags in (("all", []), ("red", ["red"]), ("blue", ["blue"]))
    }
    accepted = client.post("/events", json={"hook": "door.opened", "payload": {"door": "n"}, "tags": ["red"]}).json()
    runs = client.get("/runs", params={"event": accepted["id"]}).json()["items"]
    assert sorted(run["id"] for run in runs) == sorted(accepted["runs"])
    assert {run["handler_id"] for run in runs} == {ids["all"], ids["red"]}
    assert {run["state"] for run in runs} == {"queued"}


def test_loading_that_takes_long_can_not_take_all_threads_of_the_api(api, registration, monkeypatch):
    """What is loaded at a registration is somebody's code."""
    loading, go_on = threading.Semaphore(0), threading.Event()

    def check(program, limits):
        loading.release()
        go_on.wait()

    def register(user, name):
        return api.client(user).post("/handlers", json=registration(greet, name=name))

    monkeypatch.setattr(api.context.sandbox, "check", check)
    with ThreadPoolExecutor(9) as pool:
        try:
            waiting = [pool.submit(register, "developer", f"n{number}") for number in range(8)]
            assert all(loading.acquire(timeout=60) for _ in waiting)
            refused = register("developer", "ninth")
            waiting.append(pool.submit(register, "admin", "another user's"))
            assert loading.acquire(timeout=60)
            assert api.client("viewer").get("/handlers").status_code == 200
        finally:
            go_on.set()
    assert refused.status_code == 503
    assert "8 registrations of user 'developer' are under way" in error_of(refused)["message"]
    assert {each.result().status_code for each in waiting} == {200}
    assert register("developer", "ninth").status_code == 200


# ---------------------------------------------------------------------------------------------------- large bodies

HUGE = 100 << 20
TAKE_BODIES = ("/handlers", "/detectors", "/pipelines", "/triggers", "/events", "/metrics/samples", "/events/replay")


def answer_to_the_beginning_of_a_body(api, path, user):
    """Send the head of a request with a huge body, and nothing of the body; return the status and the error."""
    where = urlsplit(api.url)
    key = f"Authorization: Bearer {api.keys[user]}\r\n" if user else ""
    head = (
        f"POST /api/v1{path} HTTP/1.1\r\nHost: {where.netloc}\r\n{key}"
        f"Content-Type: application/json\r\nContent-Length: {HUGE}\r\n\r\n"
    )
    with socket.create_connection((where.hostname, where.port), timeout=60) as sock:
        sock.sendall(head.encode())
        answer = http.client.HTTPResponse(sock, method="POST")
        answer.begin()
        return answer.status, json.loads(answer.read())["error"]


@pytest.mark.parametrize("path", TAKE_BODIES)
def test_who_has_no_right_to_send_is_told_before_the_body_is_read(api, path):
    status, error = answer_to_the_beginning_of_a_body(api, path, "viewer")
    assert (status, error["code"]) == (403, "forbidden")
    assert "viewer" in error["message"]
    status, error = answer_to_the_beginning_of_a_body(api, path, None)
    assert (status, error["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("path", TAKE_BODIES)
def test_a_body_that_is_too_large_is_refused_before_it_is_read(api, path):
    status, error = answer_to_the_beginning_of_a_body(api, path, "developer")
    assert (status, error["code"]) == (413, "too_large")
    assert f"{HUGE:,} bytes" in error["message"]


def test_a_whole_body_without_the_right_is_answered_and_costs_the_server_nothing(api):
    def pieces():
        for _ in range(100):
            yield bytes(1 << 20)

    answer = api.client("viewer").post("/handlers", content=pieces())
    assert answer.status_code == 403
    assert api.client("viewer").get("/handlers").status_code == 200
