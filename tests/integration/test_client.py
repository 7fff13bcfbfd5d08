"""The client against the real HTTP API."""

from __future__ import annotations

import datetime as dt
import io
import json
import multiprocessing
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from eventproc import Connection, Handler, HandlerWarning, deregister, emit, hooks, list_handlers, register
from eventproc.errors import (
    Conflict,
    EventConflict,
    Forbidden,
    InvalidHandler,
    InvalidInput,
    InvalidPayload,
    NotFound,
    Unauthorized,
    UnknownHandler,
    UnknownHook,
)
from eventproc.model import NewEvent

FACTOR = 2


def opened(db, door, count=1):
    return f"{door} {count * FACTOR}"


class Passes:
    def handle_events(self, events, env):
        return events

    def commit(self):
        pass

    def rollback(self):
        pass


@pytest.fixture
def conn(api):
    with Connection(api.url, api.keys["developer"]) as connection:
        yield connection


@pytest.fixture
def admin(api):
    with Connection(api.url, api.keys["admin"]) as connection:
        yield connection


def test_the_documented_way_of_registering(conn):
    """register, hooks, list_handlers and deregister feel as in btrdbextras."""
    assert "ctingress.on_complete" in hooks(conn)

    @register(
        conn=conn,
        name="sample-73",
        hook="door.opened",
        notify_on_success="success@example.com",
        notify_on_failure="failure@example.com",
        tags=["red", "blue"],
    )
    def sample(db, door):
        return door

    assert sample(None, "north") == "north"
    (found,) = list_handlers(conn)
    assert found._fields == (
        *("id", "name", "hook", "version", "notify_on_success", "notify_on_failure", "tags"),
        *("created_at", "created_by", "updated_at", "updated_by"),
    )
    assert isinstance(found, Handler)
    assert isinstance(found, tuple)
    assert (found.name, found.hook, found.version) == ("sample-73", "door.opened", 0)
    assert (found.notify_on_success, found.notify_on_failure) == ("success@example.com", "failure@example.com")
    assert found.tags == ["red", "blue"]
    assert found.created_by == found.updated_by == "developer"
    assert found.created_at == found.updated_at
    assert found.created_at.utcoffset() == dt.timedelta(0)
    assert list_handlers(conn, hook="schedule.tick") == []
    assert deregister(conn, found.id) is True
    assert list_handlers(conn) == []
    with pytest.raises(NotFound):
        deregister(conn, found.id)


def test_positional_arguments_are_in_btrdbextras_order(conn):
    register(conn, "by-position", "door.opened", "s@example.com", "f@example.com", ["t"])(opened)
    (found,) = conn.list_handlers()
    assert found[1:7] == ("by-position", "door.opened", 0, "s@example.com", "f@example.com", ["t"])


def test_registering_again_makes_the_next_version(conn):
    first = conn.register(opened, hook="door.opened")
    assert first.name == "opened"
    second = conn.register(lambda db, door: 2, hook="door.opened", name="opened")
    assert (second.id, second.version, second.created_at) == (first.id, 1, first.created_at)
    assert second.updated_at > first.updated_at
    assert [version["version"] for version in conn.versions(first.id)] == [0, 1]
    assert conn.version(first.id, 0)["source"].startswith("def opened(db, door, count=1):")
    assert conn.version(first.id, 0)["globals"] == ["FACTOR"]
    assert "+" in conn.diff(first.id, 0, 1)
    assert conn.set_current(first.id, 0).version == 0


def test_marks_are_registered_later_and_can_be_overridden(conn):
    @register(hook="door.opened", tags=["a"], timeout=dt.timedelta(minutes=2))
    def later(db, door):
        return door

    assert conn.list_handlers() == []
    found = conn.register(later, tags=["b"])
    assert (found.name, found.hook, found.tags) == ("later", "door.opened", ["b"])
    assert conn.handler(found.id)["options"]["timeout"] == 120


def test_two_marks_on_one_function(conn):
    @register(hook="door.opened", name="one")
    @register(hook="schedule.tick", name="two")
    def twice(db, **payload):
        return 1

    with pytest.raises(InvalidInput, match="marked more than once"):
        conn.register(twice)
    assert conn.register(twice, hook="schedule.tick").name == "two"


def test_what_the_server_refuses_has_its_own_error(conn):
    with pytest.raises(UnknownHook, match=r"door\.opened"):
        conn.register(opened, hook="door.opend")
    with pytest.raises(InvalidInput, match="address"):
        conn.register(opened, hook="door.opened", notify_on_failure="nobody")
    with pytest.raises(InvalidInput, match=r"requirements.*no URL|requirements.*names a URL"):
        conn.register(opened, hook="door.opened", requirements=["pandas @ https://example.com/pandas.whl"])
    with pytest.raises(InvalidHandler):
        conn.register(lambda db: undefined_name, hook="door.opened", name="x")  # noqa: F821 - that is the point
    assert conn.list_handlers() == []


def test_an_unknown_option_names_the_near_one(conn):
    with pytest.raises(TypeError, match="did you mean 'timeout'"):
        register(conn=conn, name="x", hook="door.opened", timeot=3)
    with pytest.raises(TypeError, match="did you mean 'retries'"):
        conn.register(opened, hook="door.opened", retrys=3)


def test_the_servers_warnings_are_python_warnings(conn, api):
    """Over 1 MB the server warns too; here its answer is looked at, whatever it warns of."""
    data = bytes(1_200_000)

    def large(db, door):
        return len(data)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        conn.register(large, hook="door.opened")
    assert any(issubclass(warning.category, HandlerWarning) for warning in caught)


def test_emit_and_look(conn):
    handler = conn.register(opened, hook="door.opened")
    done = conn.emit(
        "door.opened",
        {"door": "north"},
        tags=["t"],
        key="k",
        source="test",
        time=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    )
    assert done["duplicate"] is False
    assert len(done["runs"]) == 1
    event = conn.event(done["id"])
    assert event["payload"] == {"door": "north"}
    assert (event["tags"], event["key"], event["source"]) == (["t"], "k", "test")
    assert event["time"] == "2026-01-02T00:00:00.000000Z"
    assert [found["id"] for found in conn.events(hook="door.opened")] == [done["id"]]
    assert conn.events(tag="other") == []
    assert conn.run(done["runs"][0])["handler_id"] == handler.id
    assert conn.runs(state="queued")[0]["id"] == done["runs"][0]
    assert conn.runs(state=["failed", "succeeded"]) == []
    assert conn.logs(done["runs"][0]) == []
    assert conn.run_files(done["runs"][0]) == []
    assert conn.why(done["id"], handler.id)
    assert conn.cancel(done["runs"][0])["state"] == "cancelled"
    assert conn.wait(done["runs"][0])["state"] == "cancelled"
    assert conn.requeue(done["runs"][0])["state"] == "queued"
    assert conn.cancel_runs(hook="door.opened")["cancelled"] == 1
    assert conn.requeue_runs([done["runs"][0]])["requeued"] == 1
    with pytest.raises(InvalidInput, match="all=True"):
        conn.cancel_runs()
    assert conn.requeue_runs(all=True)["requeued"] == 0
    assert conn.cancel_runs(all=True)["ids"] == done["runs"]


def test_many_runs_are_changed_in_slices_and_counted_together(api, conn, monkeypatch):
    @register(conn, name="h", hook="door.opened")
    def handler(db, **kwargs):
        return None

    runs = [conn.emit("door.opened", {"door": "n"})["runs"][0] for _ in range(7)]
    monkeypatch.setattr("eventproc.client.bulk.SLICE", 3)
    done = conn.cancel_runs(hook="door.opened")
    assert (done["cancelled"], sorted(done["ids"]), done["refused"]) == (7, runs, [])
    assert "next" not in done
    done = conn.requeue_runs([*runs, runs[0], 424242])
    assert (done["requeued"], sorted(done["ids"])) == (7, runs)
    assert [one["id"] for one in done["refused"]] == [424242]
    assert conn.cancel_runs(all=True)["cancelled"] == 7
    assert conn.requeue_runs([])["requeued"] == 0


def test_event_ids_with_any_characters(conn):
    name = "order/42?x=1&ä #%2F"
    conn.emit("door.opened", {"door": "n"}, id=name)
    assert conn.event(name)["id"] == name


@pytest.mark.parametrize("event_id", [".", "..", "../runs", "a/b", "a?b#c%2f d"])
def test_ids_that_look_like_paths_lead_nowhere_else(conn, event_id):
    conn.emit("door.opened", {"door": "n"}, id=event_id)
    assert conn.event(event_id)["id"] == event_id
    assert conn.why(event_id, conn.register(opened, hook="door.opened", name="late").id)["runs"] == []


def test_names_may_hold_slashes(conn, api):
    """The names of hooks do by their rule, those of all else because any text is a name."""
    conn.put_hook({"name": "shop/order.paid", "summary": "paid", "sample": {"n": 1}})
    assert conn.hook("shop/order.paid")["summary"] == "paid"
    conn.emit("shop/order.paid", {"n": 2})
    client = api.client("developer")
    for path, body in (
        ("/schedules/a%2Fb", {"cron": "0 0 * * *"}),
        ("/schedules/%2E%2E", {"cron": "0 0 * * *"}),
    ):
        assert client.put(path, json=body).status_code == 200
        assert client.get(path).status_code == 200
        assert client.delete(path).status_code == 200
    for action in ("pause", "resume"):
        assert client.post(f"/hooks/shop%2Forder.paid/{action}").json()["paused"] is (action == "pause")
    conn.register_pipeline("p/q", [Passes])
    assert client.get("/pipelines/p%2Fq").json()["name"] == "p/q"
    trigger = {
        "name": "a/b",
        "expiration": "$last + 1d",
        "match_criteria": [{"event_type": "door.*"}],
        "fire_criteria": [{"event_type": "door.*"}],
        "fire_pipeline": "p/q",
    }
    conn.put_trigger(**trigger)
    emitted = conn.emit("door.opened", {"door": "n"})
    assert conn.trigger("a/b")["name"] == "a/b"
    assert client.get("/triggers/a%2Fb/explain", params={"event": emitted["id"]}).json()["matches"] is True
    assert client.delete("/triggers/a%2Fb/checks").json() == {"cleared": "a/b"}
    assert client.delete("/triggers/a%2Fb").json()["name"] == "a/b"
    conn.delete_hook("shop/order.paid")
    with pytest.raises(UnknownHook):
        conn.hook("shop/order.paid")


@pytest.mark.parametrize("spec", [{"summary": "x"}, {"name": 7}, {"name": ""}])
def test_a_hook_without_a_name_is_refused_with_the_reason(conn, spec):
    with pytest.raises(InvalidInput, match="put_hook: the dict has no member 'name'"):
        conn.put_hook(spec)


def test_the_same_id_again(conn):
    first = conn.emit("door.opened", {"door": "n"}, id="one")
    again = conn.emit("door.opened", {"door": "n"}, id="one")
    assert (again["seq"], again["duplicate"]) == (first["seq"], True)
    with pytest.raises(EventConflict):
        conn.emit("door.opened", {"door": "s"}, id="one")


def test_a_bad_payload_is_refused_with_its_path(conn):
    with pytest.raises(InvalidPayload) as caught:
        conn.emit("door.opened", {"door": "n", "count": "many"})
    assert caught.value.details["path"] == "$.count"
    with pytest.raises(InvalidPayload) as caught:
        conn.emit("door.opened", {"door": {"x": object()}})
    assert caught.value.details["path"] == "$.door.x"
    with pytest.raises(InvalidPayload):
        conn.emit("door.opened", {"door": "n", "count": float("nan")})
    with pytest.raises(InvalidInput, match="tags"):
        conn.emit("door.opened", {"door": "n"}, tags="demo")


def test_emit_many_refuses_singly_and_keeps_the_order(conn):
    items = [
        {"hook": "door.opened", "payload": {"door": "a"}, "id": "a"},
        ("door.opened", {"door": "b"}),
        NewEvent(hook="door.opened", payload={"door": "c"}, time_us=1_700_000_000_000_000),
        {"hook": "door.opened", "payload": {"door": 1}},
        {"hook": "door.opened", "payload": {"door": object()}},
        {"hook": "dor.opened", "payload": {}},
        {"hook": "door.opened", "payload": {"door": "z"}, "colour": "red"},
        "nonsense",
    ]
    done = conn.emit_many(items)
    assert [("error" in item) for item in done] == [False, False, False, True, True, True, True, True]
    assert done[0]["id"] == "a"
    assert [item["error"]["code"] for item in done[3:]] == [
        *("invalid_payload", "invalid_payload", "unknown_hook", "invalid", "invalid")
    ]
    assert len(conn.events(limit=None)) == 3


def test_emit_many_in_several_requests(conn):
    done = conn.emit_many(("compute.done", {"n": n}) for n in range(1201))
    assert len({item["seq"] for item in done}) == 1201
    assert [event["payload"]["n"] for event in conn.events(limit=None)] == list(range(1200, -1, -1))
    assert len(conn.events(limit=700)) == 700


def test_module_level_emit_uses_the_environment(api, monkeypatch):
    monkeypatch.setenv("EVENTPROC_ENDPOINTS", api.url)
    monkeypatch.setenv("EVENTPROC_API_KEY", api.keys["emitter"])
    done = emit("door.opened", {"door": "n"})
    with Connection() as conn:
        assert conn.event(done["id"])["payload"] == {"door": "n"}
        assert emit("door.opened", {"door": "n"}, conn=conn, id=done["id"])["duplicate"] is True


def test_pause_resume_replay_dry_run(conn, admin):
    handler = conn.register(opened, hook="door.opened")
    assert conn.pause(handler.id)["paused"] is True
    assert conn.resume(handler.id)["paused"] is False
    assert admin.pause("door.opened")["paused"] is True
    assert admin.resume("door.opened")["paused"] is False
    trial = conn.dry_run(handler.id, payload={"door": "n", "count": 3})
    assert trial["result"] == "n 6"
    done = conn.emit("door.opened", {"door": "n"}, time="2026-01-02T03:04:05Z")
    replayed = conn.replay("door.opened", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "2026-01-03T00:00:00Z")
    assert replayed["events"] == 1
    assert conn.dry_run(handler.id, event_id=done["id"])["result"] == "n 2"


def test_administration(admin):
    assert admin.health()["status"]
    assert admin.me()["name"] == "admin"
    assert admin.add_user("eve", "viewer")["role"] == "viewer"
    assert admin.update_user("eve", role="emitter")["role"] == "emitter"
    assert "eve" in [user["name"] for user in admin.users()]
    key = admin.add_key("eve", "laptop")
    with Connection(admin.endpoint, key["key"]) as eve:
        assert eve.me()["name"] == "eve"
        with pytest.raises(Forbidden):
            eve.add_user("mallory", "admin")
        admin.revoke_key(key["prefix"])
        with pytest.raises(Unauthorized):
            eve.me()
    assert [found["label"] for found in admin.keys("eve")] == ["laptop"]
    admin.put_hook("mine.done", summary="Mine.", schema={"type": "object"}, sample={})
    assert admin.hook("mine.done")["summary"] == "Mine."
    assert "mine.done" in [spec["name"] for spec in admin.hook_specs()]
    admin.delete_hook("mine.done")
    admin.put_schedule("nightly", "0 3 * * *", payload={"a": 1})
    assert admin.schedule("nightly")["cron"] == "0 3 * * *"
    assert len(admin.schedules()) == 1
    admin.delete_schedule("nightly")
    assert admin.notices() == []
    assert admin.series() == []
    assert admin.audit()
    with pytest.raises(UnknownHandler):
        admin.handler(4711)


def test_files_are_downloaded_by_code_or_url(api, conn, tmp_path):
    with pytest.raises(NotFound):
        conn.download("0" * 32, io.BytesIO())
    target = tmp_path / "there"
    target.write_bytes(b"")
    with pytest.raises(FileExistsError):
        conn.download("0" * 32, target)


def test_a_wrong_key_is_unauthorized_and_not_repeated(api):
    with Connection(api.url, "wrong-key-4711") as conn, pytest.raises(Unauthorized) as caught:
        conn.hooks()
    assert "wrong-key-4711" not in str(caught.value)
    assert "wrong-key-4711" not in json.dumps(caught.value.details)


def test_threads_share_a_connection(conn):
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(lambda n: conn.emit("compute.done", {"n": n})["seq"], range(200)))
    assert len(set(done)) == 200


def test_a_forked_process_goes_on(conn):
    """Parent and child use one Connection in turn, and neither reads the other's answers."""
    conn.emit("compute.done", {"who": "parent"})
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)

    def child() -> None:
        try:
            writer.send([conn.emit("compute.done", {"who": "child", "n": n})["duplicate"] for n in range(5)])
        except BaseException as error:  # noqa: BLE001 - the parent has to see it
            writer.send(repr(error))
        os._exit(0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the test's own server runs in threads
        process = context.Process(target=child)
        process.start()
    mine = [conn.emit("compute.done", {"who": "parent", "n": n})["duplicate"] for n in range(5)]
    assert reader.recv() == mine == [False] * 5
    process.join()
    assert len(conn.events()) == 11


def test_a_closed_connection_says_so(conn):
    conn.hooks()
    conn.close()
    with pytest.raises(Exception, match="closed"):
        conn.hooks()


def test_state_errors_come_through(conn):
    handler = conn.register(opened, hook="door.opened")
    done = conn.emit("door.opened", {"door": "n"})
    with pytest.raises(Conflict):
        conn.requeue(done["runs"][0])
    with pytest.raises(NotFound):
        conn.set_current(handler.id, 7)
