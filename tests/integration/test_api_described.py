"""The API's description is true: answers are as it says, and its page needs nothing from elsewhere."""

from __future__ import annotations

import functools
import json
import re
from urllib.parse import urljoin

import httpx
import pytest

from eventproc.api import answers
from eventproc.api.reference import type_text
from eventproc.model import SECOND_US, Failure, Finish, NewNotice, RunState

get = functools.partial(httpx.get, timeout=60)


def opened(db, **payload):
    return payload


@pytest.fixture
def history(api, registration):
    """One of each: a handler, a failed run and a waiting one with their event, a notice, a schedule."""
    client = api.client()
    made = client.post("/handlers", json=registration(opened, tags=["a"], options={"retries": 2})).json()
    accepted = [
        client.post("/events", json={"hook": "door.opened", "payload": {"door": "n"}, "id": name, "key": "k"}).json()
        for name in ("one", "two")
    ]
    client.put("/schedules/daily", json={"cron": "0 0 * * *", "hook": "compute.x", "payload": {"n": 1}})
    with api.context.store.begin() as tx:
        now_us = api.context.clock.now_us()
        (claim,) = tx.runs.claim(
            worker="w", pythons=[made_python()], want_run=1, want_batch=0, lease_us=SECOND_US, now_us=now_us
        )
        failure = Failure(kind="exception", message="no", type="ValueError", traceback="…", rolled_back=True)
        finish = Finish(run_id=claim.run_id, token=claim.token, state=RunState.FAILED, failure=failure, cpu_us=5)
        assert tx.runs.finish([finish], now_us=now_us)
        notice = NewNotice(run_id=claim.run_id, outcome="failure", recipients=("a@example.com",), due_us=now_us)
        tx.notices.add([notice], now_us=now_us)
    return {"handler": made, "events": accepted, "run": claim.run_id}


def made_python() -> str:
    import sys

    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_answers_have_exactly_the_members_that_the_description_names(api, history):
    client = api.client()
    handler, run = history["handler"], history["run"]
    answers.Registered.model_validate(handler)
    for accepted in history["events"]:
        answers.Accepted.model_validate(accepted)
    batch = client.post("/events", json={"events": [{"hook": "door.opened", "payload": {}}, {"hook": "compute.x"}]})
    assert [set(item) for item in batch.json()["items"]] == [{"error"}, {"id", "seq", "duplicate", "runs"}]
    answers.EmittedMany.model_validate(batch.json())
    for path, model in {
        "/me": answers.User,
        "/users": answers.Page[answers.User],
        "/hooks": answers.Page[answers.Hook],
        "/hooks/door.opened": answers.Hook,
        "/handlers": answers.Page[answers.Handler],
        f"/handlers/{handler['id']}": answers.Handler,
        "/events": answers.Page[answers.Event],
        "/events/one": answers.Event,
        "/runs": answers.Page[answers.Run],
        f"/runs/{run}": answers.Run,
        "/notices": answers.Page[answers.Notice],
        "/notices/1": answers.NoticeWithMail,
        "/schedules": answers.Page[answers.Schedule],
        "/schedules/daily": answers.Schedule,
    }.items():
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        model.model_validate(answer.json())
        if "items" in answer.json():
            assert answer.json()["items"], path
    assert client.get(f"/runs/{run}").json()["failure"]["type"] == "ValueError"


def test_the_page_about_the_api_names_every_route_and_loads_nothing_from_elsewhere(api):
    page = get(f"{api.url}/docs")
    assert page.status_code == 200
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    document = get(f"{api.url}/openapi.json").json()
    for reference in re.findall(r'"\$ref": *"([^"]*)"', json.dumps(document)):
        assert reference.rpartition("/")[0] == "#/components/schemas"
        assert reference.rpartition("/")[2] in document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in page.text
    links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert links
    assert all(urljoin(f"{api.url}/docs", link).startswith(f"{api.url}/") for link in links)
    anchors = set(re.findall(r'id="([^"]*)"', page.text))
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
    assert "<script" not in page.text


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "array", "items": {"$ref": "#/components/schemas/Run"}}, "list of Run"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        ({"enum": ["a", "b"], "type": "string"}, "a | b"),
        ({"type": "string", "format": "binary"}, "string (binary)"),
        ({}, "anything"),
    ],
)
def test_types_are_written_in_a_few_words(schema, text):
    assert type_text(schema) == text
