"""Users, keys, roles and the audit log over HTTP."""

from __future__ import annotations

import base64
import itertools

import httpx
import pytest

from eventproc.model import Role
from eventproc.registry.triggers.definitions import RESERVED_ENDINGS

DENIED = 403


def error_of(answer):
    return answer.json()["error"]


def test_health_needs_no_key_and_names_the_version(api):
    answer = api.client(None).get("/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["version"]


def test_a_key_says_who_one_is(api):
    me = api.client("developer").get("/me").json()
    assert (me["name"], me["role"], me["disabled"]) == ("developer", "developer", False)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer nonsense",
        "Bearer ep_abcdefgh_" + "x" * 43,
        "Basic " + base64.b64encode(b"me:secret").decode(),
        "Token abc",
        "Bearer ep_abcdefgh_" + "x" * 4000,
    ],
)
def test_without_a_good_key_nothing_is_answered_and_the_key_is_never_repeated(api, header):
    headers = {} if header is None else {"Authorization": header}
    for method, path in (
        ("GET", "/handlers"),
        ("POST", "/events"),
        ("GET", "/me"),
        ("POST", "/ingest/comtrade?name=x"),
    ):
        answer = httpx.request(method, f"{api.url}/api/v1{path}", headers=headers, timeout=60)
        assert answer.status_code == 401
        assert error_of(answer)["code"] == "unauthorized"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        secret = (header or "").rpartition(" ")[2]
        assert len(secret) < 8 or secret not in answer.text


def test_who_tries_many_keys_is_told_to_wait_and_those_who_are_known_are_not(api):
    known = api.client("developer")
    assert known.get("/me").status_code == 200
    numbers = itertools.count()

    def refused(path, how):
        """Guess until one has to wait; on a slow machine the first waits may pass between two guesses."""
        for number in itertools.islice(numbers, 500):
            guess = f"ep_{chr(97 + number % 26) * 8}_{number:0>43}"
            answer = httpx.get(f"{api.url}{path}", timeout=60, **how(guess))
            if answer.status_code != 401:
                return number, answer
        raise AssertionError("nobody had to wait")

    tried, answer = refused("/api/v1/me", lambda guess: {"headers": {"Authorization": f"Bearer {guess}"}})
    assert tried >= 20
    assert (answer.status_code, error_of(answer)["code"]) == (429, "too_many_logins")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "WWW-Authenticate" not in answer.headers
    # Downloads, which browsers log in to, count with the rest.
    tried_more, answer = refused(f"/{'0' * 32}", lambda guess: {"auth": ("me", guess)})
    assert answer.status_code == 429
    assert tried_more < tried + 20
    assert known.get("/me").status_code == 200


def test_a_wrong_secret_with_a_known_prefix_is_refused_like_an_unknown_one(api):
    key = api.keys["admin"]
    wrong = api.client(key=key[:-1] + ("A" if key[-1] != "A" else "B"))
    unknown = api.client(key="ep_aaaaaaaa_" + key[12:])
    assert wrong.get("/me").json() == unknown.get("/me").json()


def test_users_are_added_listed_and_changed_by_admins(api):
    admin = api.client()
    assert admin.post("/users", json={"name": "eve", "role": "emitter"}).status_code == 201
    assert admin.post("/users", json={"name": "eve", "role": "emitter"}).status_code == 409
    assert "eve" in [user["name"] for user in admin.get("/users").json()["items"]]
    assert admin.patch("/users/eve", json={"role": "developer"}).json()["role"] == "developer"
    bad = admin.patch("/users/eve", json={"role": "king"})
    assert bad.status_code == 400
    assert "viewer, emitter, developer, admin" in error_of(bad)["message"]
    assert admin.patch("/users/nobody", json={"role": "viewer"}).status_code == 404
    assert admin.post("/users", json={"name": "../eve", "role": "viewer"}).status_code == 400


def test_a_key_is_shown_once_and_works_until_it_is_revoked(api):
    admin = api.client()
    admin.post("/users", json={"name": "eve", "role": "viewer"})
    made = admin.post("/users/eve/keys", json={"label": "laptop"}).json()
    assert made["key"].startswith(f"ep_{made['prefix']}_")
    eve = api.client(key=made["key"])
    assert eve.get("/me").json()["name"] == "eve"
    listed = eve.get("/users/eve/keys")
    assert made["key"] not in listed.text
    assert [(key["prefix"], key["label"], key["revoked_at"]) for key in listed.json()["items"]] == [
        (made["prefix"], "laptop", None)
    ]
    assert eve.delete(f"/keys/{made['prefix']}").json() == {"prefix": made["prefix"], "revoked": True}
    refused = eve.get("/me")
    assert refused.status_code == 401
    assert "revoked" in error_of(refused)["message"]
    assert made["key"] not in refused.text


def test_other_peoples_keys_are_neither_listed_nor_made_nor_revoked(api):
    viewer = api.client("viewer")
    prefix = api.keys["admin"][3:11]
    assert viewer.get("/users/admin/keys").status_code == DENIED
    assert viewer.post("/users/admin/keys", json={}).status_code == DENIED
    answer = viewer.delete(f"/keys/{prefix}")
    unknown = viewer.delete("/keys/zzzzzzzz")
    assert answer.status_code == unknown.status_code == 404
    assert api.client().get("/me").status_code == 200


def test_a_disabled_user_is_refused_at_once(api):
    eve = api.client("emitter")
    assert eve.get("/me").status_code == 200
    api.client().patch("/users/emitter", json={"disabled": True})
    assert eve.get("/me").status_code == 401
    assert eve.post("/events", json={"hook": "door.opened", "payload": {"door": "n"}}).status_code == 401
    api.client().patch("/users/emitter", json={"disabled": False})
    assert eve.get("/me").status_code == 200


def test_the_last_admin_stays(api):
    admin = api.client()
    for change in ({"role": "viewer"}, {"disabled": True}):
        answer = admin.patch("/users/admin", json=change)
        assert answer.status_code == 409
        assert "last admin" in error_of(answer)["message"]


# What each route needs; a request is denied by role, or gets any other answer (also "not found" or "invalid").
ROUTES = [
    ("GET", "/me", None, Role.VIEWER),
    ("GET", "/hooks", None, Role.VIEWER),
    ("GET", "/hooks/door.opened", None, Role.VIEWER),
    ("PUT", "/hooks/mine", {}, Role.DEVELOPER),
    ("DELETE", "/hooks/mine", None, Role.DEVELOPER),
    ("POST", "/hooks/door.opened/pause", None, Role.ADMIN),
    ("POST", "/hooks/door.opened/resume", None, Role.ADMIN),
    ("GET", "/handlers", None, Role.VIEWER),
    ("GET", "/handlers/1", None, Role.VIEWER),
    ("GET", "/handlers/1/versions", None, Role.VIEWER),
    ("GET", "/handlers/1/versions/0", None, Role.VIEWER),
    ("GET", "/handlers/1/diff?old=0&new=1", None, Role.VIEWER),
    ("DELETE", "/handlers/1", None, Role.DEVELOPER),
    ("POST", "/handlers/1/current", {"version": 0}, Role.DEVELOPER),
    ("POST", "/handlers/1/pause", None, Role.DEVELOPER),
    ("POST", "/handlers/1/resume", None, Role.DEVELOPER),
    ("POST", "/handlers/1/dry-run", {"payload": {}}, Role.DEVELOPER),
    ("POST", "/events", {"hook": "door.opened", "payload": {"door": "n"}}, Role.EMITTER),
    ("GET", "/events", None, Role.VIEWER),
    ("GET", "/events/x", None, Role.VIEWER),
    ("GET", "/events/x/why?handler=1", None, Role.VIEWER),
    (
        "POST",
        "/events/replay",
        {"hook": "door.opened", "since": "2026-01-01", "until": "2026-01-02"},
        Role.DEVELOPER,
    ),
    ("GET", "/runs", None, Role.VIEWER),
    ("GET", "/runs/counts", None, Role.VIEWER),
    ("GET", "/runs/1", None, Role.VIEWER),
    ("GET", "/runs/1/logs", None, Role.VIEWER),
    ("GET", "/runs/1/files", None, Role.VIEWER),
    ("POST", "/runs/1/cancel", None, Role.DEVELOPER),
    ("POST", "/runs/1/requeue", None, Role.DEVELOPER),
    ("POST", "/runs/cancel", {"ids": [1]}, Role.DEVELOPER),
    ("POST", "/runs/requeue", {"ids": [1]}, Role.DEVELOPER),
    ("GET", "/files/" + "0" * 32, None, Role.VIEWER),
    ("GET", "/users", None, Role.ADMIN),
    ("POST", "/users", {"name": "x", "role": "viewer"}, Role.ADMIN),
    ("PATCH", "/users/viewer", {"disabled": False}, Role.ADMIN),
    ("GET", "/audit", None, Role.ADMIN),
    ("GET", "/schedules", None, Role.VIEWER),
    ("PUT", "/schedules/s", {"cron": "* * * * *"}, Role.DEVELOPER),
    ("GET", "/schedules/s", None, Role.VIEWER),
    ("DELETE", "/schedules/s", None, Role.DEVELOPER),
    ("GET", "/secrets", None, Role.DEVELOPER),
    ("PUT", "/secrets/TOKEN", {"value": "x"}, Role.DEVELOPER),
    ("DELETE", "/secrets/TOKEN", None, Role.DEVELOPER),
    ("POST", "/secrets/rotate", None, Role.ADMIN),
    ("GET", "/notices", None, Role.VIEWER),
    ("GET", "/notices/1", None, Role.VIEWER),
    ("GET", "/outbox", None, Role.ADMIN),
    ("GET", "/outbox/1", None, Role.ADMIN),
    ("POST", "/outbox/requeue", {"ids": [1]}, Role.ADMIN),
    ("DELETE", "/outbox/1", None, Role.ADMIN),
    ("POST", "/ingest/comtrade?name=x.zip", None, Role.DEVELOPER),
    ("GET", "/annotations", None, Role.VIEWER),
    ("POST", "/annotations", {"timestamp": "2026-01-01", "server": "s", "message": "m"}, Role.EMITTER),
    ("GET", "/annotations/x", None, Role.VIEWER),
    ("PATCH", "/annotations/x", {"message": "x"}, Role.EMITTER),
    ("DELETE", "/annotations/x", None, Role.EMITTER),
    ("GET", "/aggregates", None, Role.VIEWER),
    ("POST", "/aggregate-previews", {"tags": {"a": "b"}}, Role.VIEWER),
    ("PUT", "/aggregates/x", {"tags": {"a": "b"}}, Role.DEVELOPER),
    ("GET", "/aggregates/x", None, Role.VIEWER),
    ("PATCH", "/aggregates/x", {"paused": True}, Role.DEVELOPER),
    ("DELETE", "/aggregates/x", None, Role.DEVELOPER),
    ("GET", "/anomalies", None, Role.VIEWER),
    ("GET", "/parameters/x", None, Role.VIEWER),
    ("GET", "/models", None, Role.VIEWER),
    ("POST", "/models", {}, Role.DEVELOPER),
    ("POST", "/metrics", {"name": "m"}, Role.DEVELOPER),
    ("GET", "/metrics", None, Role.VIEWER),
    ("GET", "/models/status", None, Role.VIEWER),
    ("POST", "/models/import", {}, Role.DEVELOPER),
    ("GET", "/models/x/export", None, Role.VIEWER),
    ("POST", "/models/x/activate", None, Role.DEVELOPER),
    ("POST", "/models/x/retry", None, Role.DEVELOPER),
    ("GET", "/models/x", None, Role.VIEWER),
    ("DELETE", "/models/x", None, Role.DEVELOPER),
    ("DELETE", "/metrics/x", None, Role.DEVELOPER),
    ("GET", "/metrics/x", None, Role.VIEWER),
    ("GET", "/samples", None, Role.VIEWER),
    ("GET", "/samples/rejected", None, Role.VIEWER),
    ("GET", "/metrics/x/samples", None, Role.VIEWER),
    ("GET", "/metrics/x/windows", None, Role.VIEWER),
    ("POST", "/metrics/samples", None, Role.EMITTER),
    ("POST", "/metrics/prometheus/write", None, Role.EMITTER),
    ("GET", "/detectors", None, Role.VIEWER),
    ("GET", "/detectors/x", None, Role.VIEWER),
    ("DELETE", "/detectors/x", None, Role.DEVELOPER),
    ("GET", "/pipelines", None, Role.VIEWER),
    ("POST", "/pipelines", {"name": "p", "handlers": [{"handler": "nobody"}]}, Role.DEVELOPER),
    ("GET", "/pipelines/x", None, Role.VIEWER),
    ("DELETE", "/pipelines/x", None, Role.DEVELOPER),
    ("POST", "/pipelines/x/pause", None, Role.DEVELOPER),
    ("POST", "/pipelines/x/resume", None, Role.DEVELOPER),
    ("GET", "/triggers", None, Role.VIEWER),
    ("POST", "/triggers", {"text": "[]"}, Role.DEVELOPER),
    ("GET", "/triggers/x", None, Role.VIEWER),
    ("DELETE", "/triggers/x", None, Role.DEVELOPER),
    ("DELETE", "/triggers/x/checks", None, Role.DEVELOPER),
    ("POST", "/triggers/x/pause", None, Role.DEVELOPER),
    ("POST", "/triggers/x/resume", None, Role.DEVELOPER),
    ("GET", "/triggers/x/explain", None, Role.VIEWER),
    ("GET", "/streams", None, Role.VIEWER),
    ("GET", "/streams/counts", None, Role.VIEWER),
    ("GET", "/streams/1", None, Role.VIEWER),
    ("POST", "/streams/reset", {"ids": [1]}, Role.DEVELOPER),
    ("POST", "/streams/delete", {"ids": [1]}, Role.DEVELOPER),
    ("GET", "/series", None, Role.VIEWER),
    ("GET", "/series/6f0c9c51-5a0e-5b0e-9d7a-3c1c8e0f7a11", None, Role.VIEWER),
    ("GET", "/series/6f0c9c51-5a0e-5b0e-9d7a-3c1c8e0f7a11/values", None, Role.VIEWER),
]


def test_what_follows_a_name_is_no_end_of_a_name_where_that_would_change_another(api):
    """Names may hold slashes: a route of `NAME/word` takes what is meant for a thing called so, by the same method."""
    client = api.client("developer")
    paths = httpx.get(f"{api.url}/openapi.json", timeout=60).json()["paths"]
    both = {
        (method, path.split("/")[-3], path.rpartition("/")[2])
        for path, operations in paths.items()
        for method in operations
        if path.rpartition("/")[0].endswith("}") and method in paths.get(path.rpartition("/")[0], {})
    }
    named = {(kind, f"/{word}") for _, kind, word in both if kind == "triggers"}
    assert named == {("triggers", ending) for ending in RESERVED_ENDINGS}
    assert {kind for method, kind, _ in both if method != "get"} == {"triggers"}
    for ending in RESERVED_ENDINGS:
        definition = {
            "name": f"a{ending}",
            "expiration": "$last + 1d",
            "match_criteria": [{"event_type": "*"}],
            "fire_criteria": [{"event_type": "*"}],
        }
        answer = client.post("/triggers", json={"definition": definition | {"fire_pipeline": "p"}})
        assert answer.status_code == 400
        assert "can not end in /checks or /explain" in error_of(answer)["message"]


def test_each_role_may_do_exactly_what_it_should(api, registration):
    def handler(db, **kwargs):
        return None

    body = registration(handler)
    detector = {"name": "d", "bundle": body["bundle"]}
    posted = [("POST", "/handlers", body, Role.DEVELOPER), ("POST", "/detectors", detector, Role.DEVELOPER)]
    problems = []
    for role in Role:
        client = api.client(role.value)
        for method, path, content, needed in [*ROUTES, *posted]:
            answer = client.request(method, path, json=content)
            denied = answer.status_code == DENIED
            if denied == role.allows(needed) or answer.status_code in (405, 500):
                problems.append((role.value, method, path, answer.status_code, answer.text[:200]))
            if denied and not role.allows(needed) and f"'{needed.value}'" not in error_of(answer)["message"]:
                problems.append((role.value, method, path, answer.text[:200]))
    assert not problems, "\n".join(map(str, problems))


def test_every_route_is_in_the_matrix(api):
    described = httpx.get(f"{api.url}/openapi.json", timeout=60).json()["paths"]
    stated = {(method, path.partition("?")[0].strip("/").split("/")[0]) for method, path, _, _ in ROUTES}
    stated |= {
        ("POST", "handlers"),
        ("POST", "detectors"),
        ("GET", "health"),
        ("GET", "users"),
        ("POST", "users"),
        ("DELETE", "keys"),
    }
    routes = {
        (method.upper(), path.removeprefix("/api/v1").strip("/").split("/")[0])
        for path, methods in described.items()
        for method in methods
        if path.startswith("/api/v1")
    }
    assert routes == stated


def test_every_change_is_in_the_audit_log_and_no_secret_is(api, registration):
    def handler(db, **kwargs):
        return None

    developer, admin = api.client("developer"), api.client()
    made = developer.post("/handlers", json=registration(handler)).json()
    developer.post(f"/handlers/{made['id']}/pause")
    developer.delete(f"/handlers/{made['id']}")
    developer.put("/hooks/mine", json={"summary": "mine"})
    developer.put("/schedules/daily", json={"cron": "0 0 * * *"})
    developer.delete("/schedules/daily")
    admin.post("/users", json={"name": "eve", "role": "viewer"})
    key = admin.post("/users/eve/keys", json={"label": "x"}).json()
    admin.delete(f"/keys/{key['prefix']}")
    admin.patch("/users/eve", json={"disabled": True})
    answer = admin.get("/audit")
    entries = [(entry["user"], entry["action"], entry["object"]) for entry in reversed(answer.json()["items"])]
    assert entries == [
        ("developer", "handler.register", f"handler:{made['id']}"),
        ("developer", "handler.pause", f"handler:{made['id']}"),
        ("developer", "handler.deregister", f"handler:{made['id']}"),
        ("developer", "hook.put", "hook:mine"),
        ("developer", "schedule.put", "schedule:daily"),
        ("developer", "schedule.delete", "schedule:daily"),
        ("admin", "user.create", "user:eve"),
        ("admin", "key.create", f"key:{key['prefix']}"),
        ("admin", "key.revoke", f"key:{key['prefix']}"),
        ("admin", "user.update", "user:eve"),
    ]
    assert key["key"] not in answer.text
    page = admin.get("/audit", params={"limit": 4}).json()
    rest = admin.get("/audit", params={"after": page["next"]}).json()
    assert len(page["items"]) + len(rest["items"]) == len(entries)


def test_a_keys_last_use_is_written_down(api):
    from waiting import wait_until

    client = api.client("viewer")
    client.get("/me")
    wait_until(lambda: client.get("/users/viewer/keys").json()["items"][0]["last_used_at"], what="the key's last use")
