"""Emitting over HTTP."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from eventproc.errors import EventConflict, InvalidPayload, UnknownHook, from_wire


def error_of(answer):
    body = answer.json()["error"]
    assert set(body) == {"code", "message", "details"}
    return body


def test_an_event_is_accepted_with_its_own_id_and_can_be_read(api):
    client = api.client("emitter")
    answer = client.post(
        "/events",
        json={
            "hook": "door.opened",
            "payload": {"door": "north"},
            "id": "e-1",
            "tags": ["a", "b"],
            "key": "k",
            "time": "2026-01-02T03:04:05.000006Z",
            "source": "test",
        },
    )
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"id": "e-1", "seq": answer.json()["seq"], "duplicate": False, "runs": []}
    event = client.get("/events/e-1").json()
    assert event["payload"] == {"door": "north"}
    assert event["time"] == "2026-01-02T03:04:05.000006Z"
    assert (event["tags"], event["key"], event["source"]) == (["a", "b"], "k", "test")


def test_the_same_event_again_changes_nothing_and_other_content_is_a_conflict(api):
    client = api.client("emitter")
    event = {"hook": "door.opened", "payload": {"door": "north"}, "id": "e-1"}
    first = client.post("/events", json=event).json()
    again = client.post("/events", json=event).json()
    assert again == {**first, "duplicate": True}
    other = client.post("/events", json={**event, "payload": {"door": "south"}})
    assert other.status_code == 409
    assert error_of(other)["code"] == EventConflict.code
    assert len(client.get("/events").json()["items"]) == 1


def test_of_a_batch_each_bad_event_is_refused_by_itself_and_its_neighbours_live(api):
    events = [
        {"hook": "door.opened", "payload": {"door": "north"}},
        {"hook": "door.opened", "payload": {"door": 3}},
        {"hook": "door.openned", "payload": {}},
        {"hook": "door.opened", "payload": "text"},
        {"hook": 7},
        {"hook": "door.opened", "payload": {"door": "x"}, "colour": "red"},
        {"hook": "door.opened", "payload": {"door": "x"}, "time": "yesterday"},
        {"hook": "door.opened", "payload": {"door": "south"}},
    ]
    answer = api.client("emitter").post("/events", json={"events": events})
    assert answer.status_code == 200
    items = answer.json()["items"]
    assert [("error" in item) for item in items] == [False, True, True, True, True, True, True, False]
    assert items[1]["error"]["code"] == InvalidPayload.code
    assert items[1]["error"]["details"]["path"] == "$.door"
    assert items[2]["error"]["details"]["near"] == ["door.opened"]
    assert items[3]["error"]["details"]["path"] == "$.events[3].payload"
    assert items[4]["error"]["details"]["path"] == "$.events[4].hook"
    assert "colour" in items[5]["error"]["message"]
    assert items[6]["error"]["details"]["path"] == "$.events[6].time"
    assert [item["payload"]["door"] for item in api.client().get("/events").json()["items"]] == ["south", "north"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"[]", 400, "Expected `object`"),
        (b'{"hook": "door.opened", "payload": {"door": NaN}}', 400, "not JSON"),
        (b'{"hook": "door.opened", "payload": {"door": "\xff"}}', 400, "$"),
        (b'{"payload": {}}', 400, "hook"),
        (b'{"hook": "door.opened"}', 422, "door"),
        (b'{"events": 3}', 400, "$.events"),
        (b'{"events": [], "hook": "x"}', 400, "hook"),
        (b'{"hook": "door.opened", "payload": ' + b'{"a":' * 500 + b"1" + b"}" * 501, 422, "deeper than 64"),
        (b'{"hook": "door.opened", "payload": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, 400, "too deeply"),
        (b'{"hook": "door.opened", "payload": {"door": "x"}, "tags": "red"}', 400, "$.tags"),
        (b'{"hook": "door.opened", "payload": {"door": "x"}, "id": ""}', 400, "id"),
        (b'{"hook": "door.opened", "payload": {"door": "x"}, "id": "' + b"x" * 256 + b'"}', 400, "255"),
    ],
)
def test_a_bad_body_is_refused_with_the_place_and_the_reason(api, body, status, says):
    answer = api.client("emitter").post("/events", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert says in error_of(answer)["message"]


def test_ten_thousand_tags_are_refused(api):
    tags = [f"t{number}" for number in range(10_000)]
    answer = api.client("emitter").post("/events", json={"hook": "door.opened", "payload": {"door": "n"}, "tags": tags})
    assert answer.status_code == 400
    assert "10000 tags" in error_of(answer)["message"]


def test_an_unknown_hook_is_met_with_the_near_names(api):
    answer = api.client("emitter").post("/events", json={"hook": "door.openned", "payload": {}})
    assert answer.status_code == 404
    error = error_of(answer)
    assert isinstance(from_wire(error["code"], error["message"], error["details"]), UnknownHook)
    assert "door.opened" in error["message"]


def test_a_glob_accepts_events_of_the_hooks_it_covers(api):
    assert api.client("emitter").post("/events", json={"hook": "compute.done", "payload": {"x": 1}}).status_code == 200


@pytest.mark.parametrize("service_store", ["memory", "sqlite"], indirect=True)
def test_concurrent_single_emits_are_all_accepted_once(api):
    client = api.client("emitter")

    def emit(number):
        return client.post(
            "/events", json={"hook": "door.opened", "payload": {"door": "n"}, "id": f"e-{number % 50}"}
        ).json()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(emit, range(100)))
    assert len({answer["id"] for answer in answers}) == 50
    assert sum(not answer["duplicate"] for answer in answers) == 50


def test_events_are_listed_newest_first_page_by_page(api):
    client = api.client("emitter")
    client.post(
        "/events",
        json={
            "events": [
                {"hook": "door.opened", "payload": {"door": str(number)}, "tags": ["odd" if number % 2 else "even"]}
                for number in range(7)
            ]
        },
    )
    seen, after = [], None
    while True:
        page = client.get("/events", params={"limit": 3, **({"after": after} if after else {})}).json()
        seen += [item["payload"]["door"] for item in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert seen == ["6", "5", "4", "3", "2", "1", "0"]
    odd = client.get("/events", params={"tag": "odd"}).json()["items"]
    assert [item["payload"]["door"] for item in odd] == ["5", "3", "1"]


def test_events_are_listed_by_patterns_of_hooks_and_runs_by_names_alone(api):
    client = api.client("emitter")
    client.post("/events", json={"hook": "door.opened", "payload": {"door": "n"}})

    def doors(hook: str) -> list[str]:
        return [item["payload"]["door"] for item in client.get("/events", params={"hook": hook}).json()["items"]]

    assert doors("door.*") == doors("[d]oor.opened") == doors("!gate.*") == ["n"]
    assert doors("!door.*") == doors("gate.*") == []
    answer = client.get("/runs", params={"hook": "door.*"})
    assert answer.status_code == 400
    assert "the pattern 'door.*'" in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"since": "tomorrow"}, "since"),
        ({"after": "x"}, "after"),
        ({"limit": "0"}, "limit"),
        ({"limit": "many"}, "limit"),
    ],
)
def test_a_bad_query_is_refused_by_name(api, query, says):
    answer = api.client("viewer").get("/events", params=query)
    assert answer.status_code == 400
    assert says in error_of(answer)["message"]


def test_ids_with_slashes_can_be_read(api):
    client = api.client("emitter")
    client.post("/events", json={"hook": "door.opened", "payload": {"door": "n"}, "id": "a/b/why?#c"})
    assert client.get("/events/a%2Fb%2Fwhy%3F%23c").json()["id"] == "a/b/why?#c"


def test_a_payload_comes_back_as_it_was_sent(api):
    payload = {"door": "Tür \u2028 \U0001f6aa", "count": 12345678901234567, "deep": {"list": [1.5, None, True, "\n"]}}
    client = api.client("emitter")
    accepted = client.post("/events", content=json.dumps({"hook": "door.opened", "payload": payload})).json()
    assert client.get(f"/events/{accepted['id']}").json()["payload"] == payload
