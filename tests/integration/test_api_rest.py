"""Hooks, schedules, files, series, notices, archives, errors and the front page over HTTP."""

from __future__ import annotations

import base64
import functools
import io
import json
import logging
import zipfile

import httpx
import numpy as np
import pytest
from waiting import wait_until

from eventproc.engine import series as samples
from eventproc.errors import StoreUnavailable, from_wire
from eventproc.ingress.samples import sample_files
from eventproc.model import FileRecord, NewNotice, Role, Series
from eventproc.service.context import ServiceSettings

get = functools.partial(httpx.get, timeout=60)

UUID = "6f0c9c51-5a0e-4b0e-9d7a-3c1c8e0f7a11"


def error_of(answer):
    return answer.json()["error"]


# ---------------------------------------------------------------------------------------------------- hooks


def test_hooks_are_listed_with_schema_and_sample(api):
    client = api.client("viewer")
    names = [hook["name"] for hook in client.get("/hooks").json()["items"]]
    assert names == sorted(names)
    assert "ctingress.on_complete" in names
    hook = client.get("/hooks/door.opened").json()
    assert (hook["sample"], hook["source"], hook["paused"]) == ({"door": "north"}, "bundled", False)
    assert client.get("/hooks/compute.anything").json()["name"] == "compute.*"
    assert client.get("/hooks/door.open").status_code == 404


def test_a_hook_of_ones_own_is_added_replaced_and_deleted(api):
    client = api.client("developer")
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    made = client.put("/hooks/mine", json={"summary": "mine", "schema": schema, "sample": {"n": 1}, "keep": "7d"})
    assert made.status_code == 200, made.text
    assert (made.json()["source"], made.json()["keep_s"]) == ("user", 7 * 86400)
    assert client.post("/events", json={"hook": "mine", "payload": {"n": "x"}}).status_code == 422
    client.put("/hooks/mine", json={"schema": {}, "keep_s": 60})
    assert client.post("/events", json={"hook": "mine", "payload": {"n": "x"}}).status_code == 200
    assert client.delete("/hooks/mine").json() == {"name": "mine", "deleted": True}
    assert client.post("/events", json={"hook": "mine", "payload": {}}).status_code == 404


def test_a_hook_is_its_owners_and_the_admins_to_change(api):
    api.add_user("olga", Role.DEVELOPER)
    owner, other, admin = api.client("olga"), api.client("developer"), api.client("admin")
    assert owner.put("/hooks/mine", json={"summary": "first"}).json()["owner"] == "olga"
    for refused in (
        other.put("/hooks/mine", json={"summary": "taken over"}),
        other.delete("/hooks/mine"),
        other.post("/hooks/mine/pause"),
        other.post("/hooks/mine/resume"),
    ):
        assert refused.status_code == 403
        assert refused.json()["error"]["message"] == (
            "hook 'mine' belongs to user 'olga'; only 'olga' or an admin may change it"
        )
    assert other.get("/hooks/mine").json()["summary"] == "first"
    assert admin.put("/hooks/mine", json={"summary": "mended"}).json()["owner"] == "olga"
    assert owner.post("/hooks/mine/pause").json()["paused"]
    assert admin.post("/hooks/mine/resume").json()["paused"] is False
    assert owner.delete("/hooks/mine").status_code == 200
    assert other.put("/hooks/mine", json={}).json()["owner"] == "developer", "a name that is free again is anybody's"
    assert api.client("viewer").get("/hooks/door.opened").json()["owner"] is None


@pytest.mark.parametrize(
    ("name", "body", "status", "says"),
    [
        ("door.opened", {}, 403, "part of the platform"),
        ("mine", {"schema": {"type": "strange"}}, 400, "schema"),
        ("mine", {"schema": {"type": "object", "required": ["a"]}, "sample": {"b": 1}}, 400, "sample"),
        ("mine", {"keep": "for ever"}, 400, "keep"),
        ("mine", {"colour": "red"}, 400, "$.colour"),
        ("no good", {}, 400, "no good"),
    ],
)
def test_a_bad_hook_is_refused(api, name, body, status, says):
    answer = api.client("developer").put(f"/hooks/{name}", json=body)
    assert answer.status_code == status, answer.text
    assert says in error_of(answer)["message"]


def test_a_hook_in_use_is_deleted_by_force_only(api, registration):
    def handler(db, **kwargs):
        return None

    developer, admin = api.client("developer"), api.client("admin")
    developer.put("/hooks/mine", json={})
    made = developer.post("/handlers", json=registration(handler, hook="mine")).json()
    answer = developer.delete("/hooks/mine")
    assert answer.status_code == 409
    assert error_of(answer)["details"]["handlers"] == [made["id"]]
    assert developer.delete("/hooks/mine", params={"force": "true"}).status_code == 403
    assert admin.delete("/hooks/mine", params={"force": "true"}).status_code == 200
    assert developer.get("/handlers").json()["items"] == []


def test_a_hook_is_paused_and_resumed(api):
    admin = api.client("admin")
    assert admin.post("/hooks/door.opened/pause").json()["paused"] is True
    assert admin.get("/hooks/door.opened").json()["paused"] is True
    assert admin.post("/hooks/door.opened/resume").json()["paused"] is False


# ---------------------------------------------------------------------------------------------------- schedules


def test_a_schedule_is_added_changed_and_deleted_by_its_owner(api):
    client = api.client("developer")
    body = {"cron": "30 4 * * *", "timezone": "Europe/Berlin", "tags": ["night"]}
    made = client.put("/schedules/nightly", json=body)
    assert made.status_code == 200, made.text
    assert (made.json()["hook"], made.json()["tags"], made.json()["paused"]) == ("schedule.tick", ["night"], False)
    assert made.json()["next_at"].endswith("Z")
    assert client.get("/schedules/nightly").json() == made.json()
    assert [item["name"] for item in client.get("/schedules").json()["items"]] == ["nightly"]
    paused = client.put("/schedules/nightly", json={**body, "paused": True})
    assert paused.json()["paused"] is True
    assert api.client("admin").put("/schedules/nightly", json=body).json()["paused"] is False
    assert client.delete("/schedules/nightly").status_code == 200  # it still is theirs
    assert client.get("/schedules/nightly").status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"cron": "every day"}, 400, "cron"),
        ({"cron": "0 0 30 2 *"}, 400, "day-of-month"),
        ({"cron": "* * * * *", "timezone": "Mars/Base"}, 400, "Mars/Base"),
        ({"cron": "* * * * *", "hook": "door.opend"}, 404, "door.opened"),
        ({"cron": "* * * * *", "hook": "door.opened", "payload": {"door": 1}}, 422, "$.door"),
        ({}, 400, "$.cron"),
    ],
)
def test_a_bad_schedule_is_refused(api, body, status, says):
    answer = api.client("developer").put("/schedules/s", json=body)
    assert answer.status_code == status, answer.text
    assert says in error_of(answer)["message"]


def test_somebody_elses_schedule_stays(api):
    api.client("admin").put("/schedules/s", json={"cron": "* * * * *"})
    for answer in (
        api.client("developer").put("/schedules/s", json={"cron": "0 0 * * *"}),
        api.client("developer").delete("/schedules/s"),
    ):
        assert answer.status_code == 403
        assert "'admin'" in error_of(answer)["message"]


# ---------------------------------------------------------------------------------------------------- files


@pytest.fixture
def stored_file(api, registration):
    def handler(db, **kwargs):
        return None

    client = api.client("developer")
    client.post("/handlers", json=registration(handler))
    accepted = client.post("/events", json={"hook": "door.opened", "payload": {"door": "n"}}).json()
    code = "0123456789abcdef" * 2
    data = b"<script>alert(1)</script>" * 1000
    size, digest = api.context.blobs.put(code, iter([data]), max_bytes=1 << 20)
    name = 'plöt "1"\n.html'
    record = FileRecord(code=code, run_id=accepted["runs"][0], name=name, size=size, digest=digest, created_us=1)
    with api.context.store.begin() as tx:
        tx.files.add([record])
    return code, data


def test_a_file_is_downloaded_with_a_bearer_key_or_a_basic_login(api, stored_file):
    code, data = stored_file
    key = api.keys["viewer"]
    basic = base64.b64encode(f"anybody:{key}".encode()).decode()
    for path in (f"/api/v1/files/{code}", f"/files/{code}", f"/{code}"):
        for login in (f"Bearer {key}", f"Basic {basic}"):
            answer = get(api.url + path, headers={"Authorization": login})
            assert answer.status_code == 200
            assert answer.content == data


def test_a_file_is_never_shown_as_a_page(api, stored_file):
    code, _ = stored_file
    headers = get(f"{api.url}/{code}", headers={"Authorization": f"Bearer {api.keys['viewer']}"}).headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert headers["content-disposition"] == (
        "attachment; filename=\"pl_t _1__.html\"; filename*=UTF-8''pl%C3%B6t%20%221%22%0A.html"
    )


def test_without_a_login_a_browser_is_asked_for_one(api, stored_file):
    code, _ = stored_file
    for headers in ({}, {"Authorization": "Basic !!"}, {"Authorization": "Basic " + base64.b64encode(b"a:b").decode()}):
        answer = get(f"{api.url}/{code}", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic realm=")


def test_an_unknown_file_is_not_found(api):
    for code in ("f" * 32, "F" * 32, "../../etc/passwd", "x"):
        assert api.client("viewer").get(f"/files/{code}").status_code == 404
    assert get(f"{api.url}/favicon.ico").status_code == 404


# ---------------------------------------------------------------------------------------------------- series


def test_series_and_their_values_can_be_read(api):
    with api.context.store.begin() as tx:
        tx.series.put(Series(uuid=UUID, name="level", collection="tanks/1", unit="m"))
        samples.insert(tx, UUID, np.array([1, 2, 3]) * 10**18, np.array([0.5, np.nan, 1.5]))
    client = api.client("viewer")
    (series,) = client.get("/series", params={"collection": "tanks", "prefix": "true"}).json()["items"]
    assert (series["uuid"], series["count"], series["earliest"]) == (UUID, 3, 10**18)
    assert client.get(f"/series/{UUID}").json() == series
    values = client.get(f"/series/{UUID}/values").json()
    assert (values["times"], values["values"]) == ([10**18, 2 * 10**18, 3 * 10**18], [0.5, None, 1.5])
    part = client.get(f"/series/{UUID}/values", params={"start": 2 * 10**18, "end": 3 * 10**18}).json()
    assert part["times"] == [2 * 10**18]
    assert client.get("/series/nonsense/values").status_code == 400
    assert client.get("/series/00000000-0000-4000-8000-000000000000/values").status_code == 404


# ---------------------------------------------------------------------------------------------------- notices


def test_a_notice_shows_its_mail(api, registration):
    def handler(db, **kwargs):
        return None

    client = api.client("developer")
    client.post("/handlers", json=registration(handler))
    run_id = client.post("/events", json={"hook": "door.opened", "payload": {"door": "n"}}).json()["runs"][0]
    with api.context.store.begin() as tx:
        new = NewNotice(run_id=run_id, outcome="success", recipients=("a@example.com",), due_us=1)
        tx.notices.add([new], now_us=1)
        (claimed,) = tx.notices.claim(limit=1, lease_us=10**9, now_us=2)
        tx.notices.keep_mail(claimed.id, claimed.token, subject="hi", message_id="<1@x>", mail="Töxt".encode())
    (notice,) = client.get("/notices", params={"run": run_id}).json()["items"]
    assert (notice["recipients"], notice["state"], notice["subject"]) == (["a@example.com"], "pending", "hi")
    assert client.get(f"/notices/{notice['id']}").json()["mail"] == "Töxt"
    assert client.get("/notices", params={"run": 99999}).json()["items"] == []
    assert client.get("/notices/99999").status_code == 404


# ---------------------------------------------------------------------------------------------------- archives


def archive():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as bundle:
        for name, data in sample_files().items():
            bundle.writestr(f"good/{name}", data)
        bundle.writestr("bad.cfg", b"\xff\xfe nonsense")
        bundle.writestr("bad.dat", b"1,2,3")
    return packed.getvalue()


def test_an_archive_is_imported_with_progress_and_one_event(api):
    client = api.client("developer")
    with client.stream(
        "POST",
        "/ingest/comtrade",
        params=[("name", "fault.zip"), ("tag", "a"), ("tag", "b")],
        content=archive(),
    ) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.iter_lines()]
    *progress, last = lines
    assert [(line["done"], line["total"]) for line in progress] == [(1, 3), (2, 3), (3, 3)]
    assert sorted(line["ok"] for line in progress) == [False, True, True]
    result = last["result"]
    assert result["payload"]["File"] == "fault.zip"
    event = client.get(f"/events/{result['event_id']}").json()
    assert (event["hook"], event["tags"], event["payload"]) == ("ctingress.on_complete", ["a", "b"], result["payload"])
    good = next(data for data in result["payload"]["DataSets"] if data["Success"])
    uuid = good["Streams"][0]["Uuid"]
    assert client.get(f"/series/{uuid}/values").json()["count"] > 0


def test_the_same_archive_with_the_same_request_id_is_imported_once(api):
    client = api.client("developer")
    params = {"name": "fault.zip", "request_id": "r-1"}
    data = archive()
    first, second = (
        json.loads(client.post("/ingest/comtrade", params=params, content=data).text.splitlines()[-1])["result"]
        for _ in range(2)
    )
    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert first["payload"] == second["payload"]


def test_what_is_no_archive_is_refused_in_the_last_line(api):
    answer = api.client("developer").post("/ingest/comtrade", params={"name": "x.zip"}, content=b"no archive")
    error = json.loads(answer.text.splitlines()[-1])["error"]
    assert error["code"] == "ingress"
    assert "x.zip" in error["message"]


@pytest.mark.parametrize(
    ("params", "content", "says"),
    [
        ({"name": "x.zip"}, b"", "no body"),
        ({}, b"x", "name"),
        ({"name": "x" * 300}, b"x", "255"),
        ({"name": "x.zip", "tag": "\x07"}, b"x", "tags"),
    ],
)
def test_a_bad_upload_is_refused_at_once(api, params, content, says):
    answer = api.client("developer").post("/ingest/comtrade", params=params, content=content)
    assert answer.status_code == 400
    assert says in error_of(answer)["message"]


class TestSmallArchives:
    @pytest.fixture
    def service_settings(self):
        return ServiceSettings(max_archive_bytes=1000)

    @pytest.mark.parametrize("chunked", [False, True])
    def test_an_archive_over_the_limit_is_refused(self, api, chunked):
        content = iter([b"x" * 600] * 2) if chunked else b"x" * 1200
        answer = api.client("developer").post("/ingest/comtrade", params={"name": "x.zip"}, content=content)
        assert answer.status_code == 413
        assert "1,000" in error_of(answer)["message"]


# ---------------------------------------------------------------------------------------------------- errors, pages


def test_a_fault_is_hidden_behind_an_id_that_is_in_the_log(api, monkeypatch, caplog):
    def broken(self, handler_id):
        raise RuntimeError("the secret reason")

    monkeypatch.setattr("eventproc.store.handlers.SqlHandlers.get", broken)
    with caplog.at_level(logging.ERROR):
        answer = api.client("viewer").get("/handlers/1")
    assert answer.status_code == 500
    error = error_of(answer)
    assert "secret reason" not in answer.text
    assert "Traceback" not in answer.text
    assert error["details"]["fault"] in error["message"]
    assert error["details"]["fault"] in caplog.text
    assert "the secret reason" in caplog.text


def test_an_unavailable_store_asks_to_try_again(api, monkeypatch):
    client = api.client("viewer")
    client.get("/me")

    def locked(self, handler_id):
        raise StoreUnavailable("the database is locked")

    monkeypatch.setattr("eventproc.store.handlers.SqlHandlers.get", locked)
    answer = client.get("/handlers/1")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    error = error_of(answer)
    assert isinstance(from_wire(error["code"], error["message"]), StoreUnavailable)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("DELETE", "/hooks", 405), ("GET", "/handlers/x", 400), ("GET", f"/runs/{10**30}", 400)],
)
def test_errors_of_the_framework_have_the_same_shape(api, method, path, status):
    answer = api.client("viewer").request(method, path)
    assert answer.status_code == status
    assert set(error_of(answer)) == {"code", "message", "details"}


def test_malformed_json_is_refused_with_the_place(api):
    answer = api.client("developer").put(
        "/hooks/mine", content=b'{"summary": ', headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert "not JSON" in error_of(answer)["message"]


def test_the_front_page_says_what_runs_here_and_runs_no_scripts(api):
    answer = get(api.url)
    assert answer.status_code == 200
    assert "eventproc" in answer.text
    assert 'href="docs"' in answer.text
    assert "<script" not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert get(f"{api.url}/static/plain.css").headers["content-type"].startswith("text/css")


VARYING = ("date", "content-length", "transfer-encoding")


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/static/plain.css", "/openapi.json", "/api/v1/health", "/api/v1/hooks", "/api/v1/metrics/samples",
     "/api/v1/hooks/door.open", "/nowhere"],
)  # fmt: skip
def test_head_is_answered_as_get_is_without_a_body(api, path):
    headers = {"Authorization": f"Bearer {api.keys['viewer']}"}
    with httpx.Client(base_url=api.url, headers=headers, timeout=60) as client:
        told, whole = client.head(path), client.get(path)  # on one connection: a stray body would spoil the second
    assert (told.status_code, told.content) == (whole.status_code, b"")
    assert told.headers.get("content-length") == whole.headers.get("content-length")
    assert {k: v for k, v in told.headers.items() if k not in VARYING} == {
        k: v for k, v in whole.headers.items() if k not in VARYING
    }


class Counted(io.BytesIO):
    """Counts the pieces that are read of it."""

    pieces = 0

    def read(self, size=-1, /):
        self.pieces += 1
        return super().read(size)


def test_head_tells_of_a_file_without_reading_it_to_its_end(api, stored_file, monkeypatch):
    code, data = stored_file
    opened = []

    def open_(code):
        opened.append(Counted(data))
        return opened[-1]

    monkeypatch.setattr("eventproc.api.files.PIECE_BYTES", 1000)
    monkeypatch.setattr(api.context.blobs, "open", open_)
    headers = {"Authorization": f"Bearer {api.keys['viewer']}"}
    for path in (f"/api/v1/files/{code}", f"/files/{code}", f"/{code}"):
        told = httpx.head(api.url + path, headers=headers, timeout=60)
        assert (told.status_code, told.content, told.headers["content-length"]) == (200, b"", str(len(data)))
        assert told.headers["content-disposition"].startswith("attachment;")
    wait_until(lambda: all(file.closed for file in opened), what="the files to be closed")
    assert [file.pieces < 5 for file in opened] == [True] * 3
    assert httpx.head(f"{api.url}/{code}", timeout=60).headers["www-authenticate"].startswith("Basic realm=")


def test_head_gives_nobody_more_rights_and_changes_nothing(api):
    assert httpx.head(f"{api.url}/api/v1/hooks", timeout=60).status_code == 401
    assert api.client("viewer").head("/users").status_code == api.client("viewer").get("/users").status_code == 403
    refused = api.client("admin").head("/runs/cancel")  # POST only
    assert refused.status_code == api.client("admin").get("/runs/cancel").status_code
    refused = httpx.post(f"{api.url}/docs", timeout=60)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    paths = httpx.get(f"{api.url}/openapi.json", timeout=60).json()["paths"]
    assert not any("head" in operations for operations in paths.values())


def test_the_api_describes_itself_with_its_security_scheme(api):
    description = get(f"{api.url}/openapi.json").json()
    assert description["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    emit = description["paths"]["/api/v1/events"]["post"]
    assert "EventIn" in json.dumps(emit["requestBody"])
    assert "hook" in description["components"]["schemas"]["EventIn"]["properties"]
    assert emit["security"]
    operations = [operation for path in description["paths"].values() for operation in path.values()]
    assert all(operation.get("summary") for operation in operations)
    assert get(f"{api.url}/docs").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/events?hook=a%00b", None),
        ("GET", "/hooks/a%00b", None),
        ("POST", "/runs/cancel", '{"hook": "a\\u0000b"}'),
        ("POST", "/users/developer/keys", '{"label": "a\\u0000b"}'),
        ("PUT", "/hooks/mine", '{"summary": "a\\u0000b"}'),
        ("PUT", "/hooks/mine", '{"schema": {"title": "\\ud800"}}'),
        ("PUT", "/schedules/s", '{"cron": "* * * * *", "payload": {"a": "\\ud800"}}'),
        ("POST", "/runs/requeue", '{"ids": [100000000000000000000000]}'),
        ("GET", f"/series/{UUID}/values?start={10**30}", None),
    ],
)
def test_what_no_database_can_hold_is_refused(api, method, path, body):
    answer = api.client("developer").request(method, path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text


def test_odd_file_names_and_sources_are_stored_as_far_as_they_can_be(api, registration):
    def handler(db, **kwargs):
        return None

    body = registration(handler)
    body["bundle"] |= {"filename": "/tmp/\udc80.py", "source": "x = '\x00'"}
    content = json.dumps(body)
    made = api.client("developer").post("/handlers", content=content, headers={"Content-Type": "application/json"})
    assert made.status_code == 200, made.text
    version = api.client("viewer").get(f"/handlers/{made.json()['id']}/versions/0").json()
    assert (version["filename"], version["source"]) == ("/tmp/?.py", "x = '\N{REPLACEMENT CHARACTER}'")


def test_the_page_of_a_run_is_what_its_mail_links_to(api, registration, service_context):
    """With the API key as the password of a login it shows the run; without one it asks for it."""
    client = api.client()
    assert client.post("/handlers", json=registration(lambda db, **rest: "<b>x</b>", name="marked")).status_code == 200
    (run_id,) = client.post("/events", json={"hook": "door.opened", "payload": {"door": "north"}}).json()["runs"]
    url = str(client.base_url).removesuffix("/").removesuffix("/api/v1") + f"/runs/{run_id}"
    assert get(url).status_code == 401
    key = client.headers["authorization"].removeprefix("Bearer ")
    page = get(url, auth=("anybody", key))
    assert page.status_code == 200
    assert f"<title>Run {run_id} queued: marked</title>" in page.text
    assert "<bdi>marked</bdi>, version 0" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert get(f"{url}99999", auth=("anybody", key)).status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/runs/1", 401, "with any user name, and an API key as the password"),
        ("/runs/<b>", 400, "run_id: Input should be a valid integer"),
        ("/<script>x", 404, "GET /&lt;script&gt;x: Not Found"),
    ],
)
def test_browsers_are_told_of_errors_on_a_page_and_programs_in_json(api, path, status, says):
    client = api.client("viewer")
    login = () if status == 401 else ("anybody", client.headers["authorization"].removeprefix("Bearer "))
    page = get(api.url + path, auth=login or None, headers={"Accept": "text/html,*/*;q=0.8"})
    assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert says in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    found = get(api.url + path, auth=login or None)
    assert (found.status_code, found.headers["content-type"]) == (status, "application/json")
    assert page.headers.get("www-authenticate") == found.headers.get("www-authenticate")
    described = client.get("/runs/99999", headers={"Accept": "text/html"})
    assert (described.status_code, described.headers["content-type"]) == (404, "application/json")


def test_what_a_page_links_to_is_found_below_a_proxys_path_too(api):
    browsing = {"Accept": "text/html"}
    for path, root in [("/", ""), ("/docs", ""), ("/nowhere", ""), ("/runs/x", "../"), ("/a/b%2Fc/d", "../../")]:
        page = get(api.url + path, headers=browsing)
        assert f'<link rel="stylesheet" href="{root}static/plain.css">' in page.text, path
        assert 'href="/' not in page.text
    assert get(f"{api.url}/static/icon.svg").headers["content-type"] == "image/svg+xml"
