"""Runs, why, replay and dry runs over HTTP."""

from __future__ import annotations

import pytest
import sqlalchemy

from eventproc.model import FileRecord, Finish, LogChunk, Role, RunState

LEASE_US = 60_000_000


def error_of(answer):
    return answer.json()["error"]


def greet(db, door, **kwargs):
    return f"hello {door}"


@pytest.fixture
def world(api, registration):
    """A handler of `developer` with three queued runs, and one of `olga` with one."""

    class World:
        developer = api.client("developer")

    made = World()
    api.add_user("olga", Role.DEVELOPER)
    made.olga = api.client("olga")
    made.handler = made.developer.post("/handlers", json=registration(greet, tags=["dev"])).json()
    made.hers = made.olga.post("/handlers", json=registration(greet, name="hers", tags=["olga"])).json()
    events = [
        {"hook": "door.opened", "payload": {"door": str(number)}, "id": f"e-{number}", "tags": ["dev"]}
        for number in range(3)
    ]
    events.append({"hook": "door.opened", "payload": {"door": "x"}, "id": "e-x", "tags": ["olga"]})
    items = made.developer.post("/events", json={"events": events}).json()["items"]
    made.runs = [item["runs"][0] for item in items[:3]]
    made.her_run = items[3]["runs"][0]
    made.api = api
    return made


def finish(api, run_ids, state=RunState.FAILED, result=None):
    """Do what a worker does."""
    store, now_us = api.context.store, api.context.clock.now_us()
    with store.begin() as tx:
        claims = tx.runs.claim(worker="w", pythons=(), want_run=100, want_batch=0, lease_us=LEASE_US, now_us=now_us)
        finishes = [
            Finish(
                run_id=claim.run_id,
                token=claim.token,
                state=state if claim.run_id in run_ids else RunState.QUEUED,
                result_json=result,
                count_attempt=claim.run_id in run_ids,
            )
            for claim in claims
        ]
        tx.runs.finish(finishes, now_us=now_us)


def test_runs_are_listed_newest_first_by_state_handler_and_event(world):
    client = world.developer
    everything = client.get("/runs").json()["items"]
    assert [run["id"] for run in everything] == sorted([*world.runs, world.her_run], reverse=True)
    ours = client.get("/runs", params={"handler": world.handler["id"]}).json()["items"]
    assert {run["id"] for run in ours} == set(world.runs)
    (one,) = client.get("/runs", params={"event": "e-1"}).json()["items"]
    assert (one["event_id"], one["handler_name"], one["state"], one["result"]) == ("e-1", "greet", "queued", None)
    assert client.get("/runs", params={"state": "succeeded"}).json()["items"] == []
    assert len(client.get("/runs", params={"state": "succeeded,queued"}).json()["items"]) == 4
    page = client.get("/runs", params={"limit": 3}).json()
    rest = client.get("/runs", params={"limit": 3, "after": page["next"]}).json()
    assert [run["id"] for run in page["items"] + rest["items"]] == [run["id"] for run in everything]
    assert rest["next"] is None
    bad = client.get("/runs", params={"state": "asleep"})
    assert bad.status_code == 400
    assert "queued" in error_of(bad)["message"]


def test_a_result_is_json_and_counts_show_what_waits(world):
    finish(world.api, world.runs[:1], RunState.SUCCEEDED, result='{"a":[1,2.5,"\u2028"]}')
    run = world.developer.get(f"/runs/{world.runs[0]}").json()
    assert (run["state"], run["result"], run["attempt"]) == ("succeeded", {"a": [1, 2.5, "\u2028"]}, 1)
    assert world.developer.get("/runs/counts").json()["queued"] == 3


def test_cancelling_a_waiting_run_is_final(world):
    path = f"/runs/{world.runs[0]}"
    assert world.developer.post(f"{path}/cancel").json()["state"] == "cancelled"
    again = world.developer.post(f"{path}/cancel")
    assert again.status_code == 409
    assert "is cancelled" in error_of(again)["message"]
    assert world.developer.post("/runs/99999/cancel").status_code == 404


def test_a_failed_run_is_requeued(world):
    finish(world.api, world.runs[:1])
    path = f"/runs/{world.runs[0]}"
    assert world.developer.post(f"{path}/requeue", json={"current": True}).json()["state"] == "queued"
    answer = world.developer.post(f"{path}/requeue")
    assert answer.status_code == 409
    assert "is queued" in error_of(answer)["message"]


def test_only_the_handlers_owner_or_an_admin_changes_its_runs(world):
    answer = world.developer.post(f"/runs/{world.her_run}/cancel")
    assert answer.status_code == 403
    assert "'olga'" in error_of(answer)["message"]
    done = world.developer.post("/runs/cancel", json={"hook": "door.opened"}).json()
    assert (done["cancelled"], sorted(done["ids"])) == (3, world.runs)
    assert [refused["id"] for refused in done["refused"]] == [world.her_run]
    assert "olga" in done["refused"][0]["reason"]
    assert world.api.client("admin").post(f"/runs/{world.her_run}/cancel").json()["state"] == "cancelled"


def test_many_dead_runs_are_requeued_by_filter(world):
    finish(world.api, world.runs)
    done = world.developer.post("/runs/requeue", json={"handler": world.handler["id"]}).json()
    assert (done["requeued"], done["refused"]) == (3, [])
    assert world.developer.get("/runs/counts").json()["queued"] == 4


def test_by_ids_each_run_gets_its_verdict(world):
    done = world.developer.post("/runs/cancel", json={"ids": [world.runs[0], world.runs[0], 424242]}).json()
    assert (done["cancelled"], done["ids"]) == (1, [world.runs[0]])
    assert done["refused"] == [{"id": 424242, "reason": "there is no run 424242"}]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "'all': true"),
        ({"hook": "", "state": []}, "say which runs"),
        ({"ids": [1], "hook": "x"}, "not both"),
        ({"ids": [1], "all": True}, "give no ids"),
        ({"hook": "x", "all": True}, "no filter"),
        ({"ids": "all"}, "$.ids"),
        ({"state": "x"}, "x"),
    ],
)
@pytest.mark.parametrize("action", ["cancel", "requeue"])
def test_changing_all_runs_by_an_empty_filter_is_refused(world, action, body, says):
    answer = world.developer.post(f"/runs/{action}", json=body)
    assert answer.status_code == 400
    assert says in error_of(answer)["message"]
    assert world.developer.get("/runs/counts").json()["queued"] == 4


def test_all_runs_are_changed_where_that_is_said(world):
    admin = world.api.client("admin")
    assert admin.post("/runs/cancel", json={"all": True}).json()["cancelled"] == 4
    assert admin.post("/runs/requeue", json={"all": True}).json()["requeued"] == 0  # none of them failed


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_many_runs_are_changed_a_part_at_a_time(world, limit):
    body = {"hook": "door.opened", "limit": limit}
    cancelled, refused, after = [], [], None
    for _ in range(10):
        done = world.developer.post("/runs/cancel", json={**body, **({"after": after} if after else {})}).json()
        assert done["cancelled"] == len(done["ids"]) <= limit
        cancelled += done["ids"]
        refused += [one["id"] for one in done["refused"]]
        after = done["next"]
        if after is None:
            break
    assert (after, sorted(cancelled), refused) == (None, world.runs, [world.her_run])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"ids": [1], "limit": 5}, "not with 'ids'"),
        ({"ids": [1], "after": "5"}, "not with 'ids'"),
        ({"hook": "door.opened", "after": "x"}, "'next'"),
        ({"hook": "door.opened", "limit": 0}, "$.limit"),
        ({"limit": 5}, "say which runs"),
    ],
)
def test_parts_that_can_not_be_are_refused(world, body, says):
    answer = world.developer.post("/runs/requeue", json=body)
    assert answer.status_code == 400
    assert says in error_of(answer)["message"]


@pytest.mark.parametrize("action", ["cancel", "requeue"])
def test_what_a_bulk_change_asks_the_database_does_not_grow_with_its_runs(world, action):
    """A statement for each run made a hundred thousand of them take half a minute."""
    asked = []
    context = world.api.context
    engine = context.store._writer
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    counts = []
    for _ in range(2):
        for _ in range(40):
            world.developer.post("/events", json={"hook": "door.opened", "payload": {"door": "n"}})
        if action == "requeue":
            assert world.developer.post("/runs/cancel", json={"handler": world.handler["id"]}).json()["cancelled"] >= 40
        asked.clear()
        body = {"handler": world.handler["id"], **({"state": "cancelled"} if action == "requeue" else {})}
        done = world.developer.post(f"/runs/{action}", json=body).json()
        assert done["cancelled" if action == "cancel" else "requeued"] >= 40
        counts.append(len(asked))
    assert max(counts) < 40


def test_a_runs_output_and_files_can_be_read(world):
    run_id = world.runs[0]
    with world.api.context.store.begin() as tx:
        tx.runs.add_logs(
            [LogChunk(run_id=run_id, attempt=1, stream="stdout", at_us=1, text=f"line {n}\n") for n in range(5)]
        )
        tx.files.add([FileRecord(code="a" * 32, run_id=run_id, name="plot.png", size=3, digest="d", created_us=1)])
    page = world.developer.get(f"/runs/{run_id}/logs", params={"limit": 3}).json()
    rest = world.developer.get(f"/runs/{run_id}/logs", params={"after": page["next"]}).json()
    assert [chunk["text"] for chunk in page["items"] + rest["items"]] == [f"line {n}\n" for n in range(5)]
    assert (rest["next"], rest["state"]) == (None, "queued")
    (file,) = world.developer.get(f"/runs/{run_id}/files").json()["items"]
    assert (file["name"], file["url"]) == ("plot.png", "http://127.0.0.1:8080/" + "a" * 32)


def test_why_says_why_a_handler_did_or_did_not_run(world):
    did = world.developer.get("/events/e-1/why", params={"handler": world.handler["id"]}).json()
    assert [run["event_id"] for run in did["runs"]] == ["e-1"]
    not_run = world.developer.get("/events/e-1/why", params={"handler": world.hers["id"]}).json()
    assert not_run["runs"] == []
    assert "tags" in not_run["verdict"]
    assert any(reason["check"] == "tags" and not reason["ok"] for reason in not_run["reasons"])
    assert world.developer.get("/events/nope/why", params={"handler": 1}).status_code == 404


def test_replay_queues_runs_for_past_events(world):
    body = {"hook": "door.opened", "since": "2020-01-01", "until": "2099-01-01", "handler": world.handler["id"]}
    done = world.developer.post("/events/replay", json=body).json()
    assert (done["events"], len(done["runs"])) == (4, 3)
    narrow = world.developer.post("/events/replay", json={**body, "filter": {"door": ["1"]}}).json()
    assert (narrow["events"], len(narrow["runs"])) == (1, 1)
    (run,) = world.developer.get("/runs", params={"event": "e-1", "limit": 1}).json()["items"]
    assert run["round"] == 2
    bad = world.developer.post("/events/replay", json={**body, "since": "2099-01-01", "until": "2020-01-01"})
    assert bad.status_code == 400
    assert world.developer.post("/events/replay", json={**body, "handler": world.hers["id"]}).status_code == 403
    assert world.developer.post("/events/replay", json={**body, "hook": "door.opend"}).status_code == 404


def test_a_dry_run_tells_what_would_happen_and_writes_nothing(api, registration):
    def react(db, door, **kwargs):
        print("seen", door)
        ep.emit("compute.done", {"door": door})  # noqa: F821 - there in every handler
        return door.upper()

    client = api.client("developer")
    handler = client.post("/handlers", json=registration(react)).json()
    client.post("/events", json={"hook": "door.opened", "payload": {"door": "north"}, "id": "e-1"})
    trial = client.post(f"/handlers/{handler['id']}/dry-run", json={"event_id": "e-1"})
    assert trial.status_code == 200, trial.text
    assert (trial.json()["result"], trial.json()["failure"]) == ("NORTH", None)
    assert [event["hook"] for event in trial.json()["effects"]["events"]] == ["compute.done"]
    made_up = client.post(f"/handlers/{handler['id']}/dry-run", json={"payload": {"door": "south"}}).json()
    assert made_up["result"] == "SOUTH"
    assert [event["id"] for event in client.get("/events").json()["items"]] == ["e-1"]
    assert {run["state"] for run in client.get("/runs").json()["items"]} == {"queued"}
    bad = client.post(f"/handlers/{handler['id']}/dry-run", json={"payload": {"door": 3}})
    assert bad.status_code == 422
    for body in ({}, {"payload": {}, "event_id": "e-1"}):
        assert client.post(f"/handlers/{handler['id']}/dry-run", json=body).status_code == 400


def test_a_dry_run_that_fails_shows_the_failure(api, registration):
    def broken(db, **kwargs):
        raise ValueError("no good")

    client = api.client("developer")
    handler = client.post("/handlers", json=registration(broken)).json()
    trial = client.post(f"/handlers/{handler['id']}/dry-run", json={"payload": {"door": "n"}}).json()
    assert trial["failure"]["type"] == "ValueError"
    assert "no good" in trial["failure"]["message"]
    api.add_user("olga", Role.DEVELOPER)
    other = api.client("olga").post(f"/handlers/{handler['id']}/dry-run", json={"payload": {"door": "n"}})
    assert other.status_code == 403
