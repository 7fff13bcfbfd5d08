"""What handlers can ask of the platform, and with whose rights."""

from __future__ import annotations

import numpy as np
import pytest
from waiting import wait_until

from eventproc.abc import Registration
from eventproc.blobs import MemoryBlobs
from eventproc.bus.memory import MemoryBus
from eventproc.engine import series as samples
from eventproc.engine.accept import accept_events
from eventproc.engine.clock import ManualClock
from eventproc.engine.group import GroupCommit
from eventproc.errors import (
    Conflict,
    EventConflict,
    Forbidden,
    InvalidInput,
    InvalidPayload,
    NotFound,
    TooLarge,
    UnknownHook,
)
from eventproc.model import (
    MAX_HOPS,
    Claim,
    Effects,
    Event,
    HandlerBundle,
    HandlerVersion,
    HookSpec,
    Limits,
    NewEvent,
    Options,
    Role,
    Series,
)
from eventproc.registry import CatalogueCache
from eventproc.sandbox.memory import InProcessSandbox
from eventproc.service import lately as lately_module
from eventproc.service import world as world_module
from eventproc.service.context import ServiceContext, ServiceSettings
from eventproc.service.world import World
from eventproc.store.memory import MemoryStore

UUID = "6f0c9c51-5a0e-4b0e-9d7a-3c1c8e0f7a11"
SCHEMA = {"type": "object", "properties": {"level": {"type": "number"}}, "required": ["level"]}


class Setting:
    """A world with one owner, and sessions for made-up runs."""

    def __init__(self, **settings):
        self.store = MemoryStore()
        self.context = ServiceContext(
            store=self.store,
            bus=MemoryBus(),
            blobs=MemoryBlobs(),
            sandbox=InProcessSandbox(),
            clock=ManualClock(),
            cache=CatalogueCache(self.store),
            group=GroupCommit(self.store),
            settings=ServiceSettings(**settings),
        )
        self.world = World(self.context)
        self.sessions = []
        with self.store.begin() as tx:
            tx.hooks.put(HookSpec(name="tank.filled", summary="", schema=SCHEMA), now_us=1, by="test")
            self.owner = tx.users.add("olga", Role.DEVELOPER, now_us=1)

    def session(self, *, hops=0, run_id=7, **limits):
        version = HandlerVersion(
            handler_id=1,
            version=0,
            digest="",
            size=0,
            python="3.11",
            dill="0",
            source=None,
            filename=None,
            qualname="f",
            kind="function",
            globals=(),
            tags=(),
            notify_on_success=None,
            notify_on_failure=None,
            options=Options(limits=Limits(**limits)),
            created_us=0,
            created_by="olga",
        )
        event = Event(
            seq=1,
            id="cause",
            hook="tank.filled",
            source="test",
            time_us=1,
            tags=(),
            key=None,
            payload_json='{"level":1}',
            digest="",
            trace_parent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
            hops=hops,
            accepted_us=1,
        )
        claim = Claim(
            run_id=run_id,
            token=1,
            attempt=1,
            interruptions=0,
            lease_until_us=0,
            owner_id=self.owner.id,
            handler_name="filler",
            handler=version,
            event=event,
        )
        self.sessions.append(self.world.open(claim))
        return self.sessions[-1]

    def set_role(self, role=None, *, disabled=None):
        with self.store.begin() as tx:
            tx.users.update(self.owner.id, role=role, disabled=disabled)

    def add_series(self, uuid=UUID, **fields):
        with self.store.begin() as tx:
            tx.series.put(Series(uuid=uuid, name=fields.pop("name", "level"), **fields))

    def close(self):
        for session in self.sessions:
            session.discard()
        self.world.close()
        self.context.group.close()
        self.store.close()


@pytest.fixture
def setting():
    made = Setting()
    yield made
    made.close()


def encoded(times, values):
    return np.array(times, "<i8").tobytes() + np.array(values, "<f8").tobytes()


# ---------------------------------------------------------------------------------------------------- emit


def test_an_emitted_event_is_kept_until_the_commit_and_follows_its_cause(setting):
    session = setting.session(hops=2)
    value, bodies = session.call("emit", {"hook": "tank.filled", "payload": {"level": 3}, "tags": ["a"]}, b"")
    assert list(bodies) == []
    (event,) = session.effects().events
    assert event.id == value["id"]
    assert (event.hops, event.caused_by_run) == (3, 7)
    assert event.trace_parent == "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    with setting.store.read() as tx:
        assert tx.events.page() == []


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        ({"hook": "tank.filled", "payload": {"level": "high"}}, InvalidPayload, "$.level"),
        ({"hook": "tank.filed", "payload": {"level": 1}}, UnknownHook, "tank.filled"),
        ({"hook": "tank.filled", "payload": [1]}, InvalidInput, "payload"),
        ({"hook": "tank.filled", "payload": {"level": float("nan")}}, InvalidPayload, "$.level"),
        ({"payload": {}}, InvalidInput, "hook"),
        ({"hook": "tank.filled", "payload": {"level": 1}, "tags": "red"}, InvalidInput, "tags"),
        ({"hook": "tank.filled", "payload": {"level": 1}, "tags": ["t"] * 10_000}, InvalidInput, "10000 tags"),
        ({"hook": "tank.filled", "payload": {"level": 1}, "id": 5}, InvalidInput, "event id"),
        ({"hook": "tank.filled", "payload": {"level": 1, "pad": "x" * 1_000_000}}, TooLarge, "1,000,000"),
    ],
)
def test_a_bad_event_is_refused_when_it_is_emitted(setting, args, error, says):
    session = setting.session()
    with pytest.raises(error, match=says.replace("$", r"\$").replace("[", r"\[")):
        session.call("emit", args, b"")
    assert session.effects() == Effects()


def test_a_chain_of_events_ends_at_the_hop_limit(setting):
    with pytest.raises(InvalidInput, match="loop of handlers"):
        setting.session(hops=MAX_HOPS).call("emit", {"hook": "tank.filled", "payload": {"level": 1}}, b"")


def test_an_id_that_is_taken_is_refused_when_it_is_emitted(setting):
    with setting.store.begin() as tx:
        event = NewEvent(hook="tank.filled", payload={"level": 1}, id="e-1")
        accept_events(tx, setting.context.catalogue(tx), [event], user_id=None, now_us=1)
    session = setting.session()
    same = {"hook": "tank.filled", "payload": {"level": 1}, "id": "e-1"}
    assert session.call("emit", same, b"")[0] == {"id": "e-1"}
    with pytest.raises(EventConflict):
        session.call("emit", {**same, "payload": {"level": 2}}, b"")
    fresh = setting.session()
    with pytest.raises(EventConflict, match="already"):
        fresh.call("emit", {**same, "payload": {"level": 2}}, b"")


def test_the_same_event_twice_in_one_run_is_one(setting):
    session = setting.session()
    event = {"hook": "tank.filled", "payload": {"level": 1}, "id": "e-2"}
    session.call("emit", event, b"")
    session.call("emit", event, b"")
    assert len(session.effects().events) == 1


def test_the_limit_of_effects_is_named(setting):
    session = setting.session(effects=3)
    for _ in range(3):
        session.call("emit", {"hook": "tank.filled", "payload": {"level": 1}}, b"")
    with pytest.raises(TooLarge, match="'effects'"):
        session.call("emit", {"hook": "tank.filled", "payload": {"level": 1}}, b"")


def test_effects_can_not_fill_the_workers_memory():
    setting = Setting(max_effect_bytes=1000)
    setting.add_series()
    session = setting.session()
    with pytest.raises(TooLarge, match="1,000 bytes"):
        session.call("insert", {"uuid": UUID}, encoded(range(100), range(100)))
    setting.close()


def test_after_the_commit_began_nothing_can_be_added(setting):
    session = setting.session()
    session.effects()
    with pytest.raises(Conflict, match="commit and rollback functions"):
        session.call("emit", {"hook": "tank.filled", "payload": {"level": 1}}, b"")
    assert session.call("collections", {}, b"") == ([], ())


# ---------------------------------------------------------------------------------------------------- series


def test_inserted_samples_are_kept_until_the_commit(setting):
    setting.add_series()
    session = setting.session()
    assert session.call("insert", {"uuid": UUID}, encoded([3, 1], [0.5, 0.25])) == (None, ())
    (insert,) = session.effects().inserts
    assert insert.series == UUID
    assert np.frombuffer(insert.times_ns, "<i8").tolist() == [3, 1]
    assert np.frombuffer(insert.values, "<f8").tolist() == [0.5, 0.25]
    assert session.call("count", {"uuid": UUID}, b"")[0] == {"count": 0}


@pytest.mark.parametrize(
    ("uuid", "body", "error"),
    [
        (UUID, b"123", InvalidInput),
        (UUID, encoded([(1 << 63) - 1], [1.0]), InvalidInput),
        ("no-uuid", b"", InvalidInput),
        ("00000000-0000-4000-8000-000000000000", encoded([1], [1.0]), NotFound),
    ],
)
def test_bad_samples_are_refused_when_they_are_inserted(setting, uuid, body, error):
    setting.add_series()
    with pytest.raises(error):
        setting.session().call("insert", {"uuid": uuid}, body)


def test_a_series_of_another_layout_is_not_written_here(setting):
    setting.add_series(layout="metric")
    with pytest.raises(Conflict):
        setting.session().call("insert", {"uuid": UUID}, encoded([1], [1.0]))


def test_a_stream_can_be_created_and_filled_in_the_same_run(setting):
    session = setting.session()
    made, _ = session.call("create_stream", {"name": "volume", "collection": "tanks/1", "unit": "l"}, b"")
    assert (made["name"], made["collection"], made["unit"], made["count"]) == ("volume", "tanks/1", "l", 0)
    session.call("insert", {"uuid": made["uuid"]}, encoded([1], [2.0]))
    session.call("set_annotations", {"uuid": made["uuid"], "annotations": {"who": "me"}}, b"")
    effects = session.effects()
    assert [series.uuid for series in effects.series] == [made["uuid"]]
    assert effects.series[0].owner_id == setting.owner.id
    assert dict(effects.annotations[0].annotations) == {"who": "me"}


def test_a_stream_without_uuid_is_the_same_one_each_time(setting):
    args = {"name": "volume", "collection": "tanks/1"}
    first, _ = setting.session().call("create_stream", args, b"")
    second, _ = setting.session().call("create_stream", args, b"")
    other, _ = setting.session().call("create_stream", {**args, "collection": "tanks/2"}, b"")
    assert first["uuid"] == second["uuid"] != other["uuid"]


def test_a_uuid_that_is_another_stream_is_refused(setting):
    setting.add_series()
    session = setting.session()
    with pytest.raises(Conflict, match="another name"):
        session.call("create_stream", {"uuid": UUID, "name": "other"}, b"")
    assert session.call("create_stream", {"uuid": UUID, "name": "level"}, b"")[0]["uuid"] == UUID
    assert session.effects().series == ()


def test_values_and_windows_come_as_raw_arrays(setting):
    setting.add_series(collection="tanks/1", tags={"kind": "level"})
    with setting.store.begin() as tx:
        samples.insert(tx, UUID, np.arange(10) * 10, np.arange(10) * 1.5)
    session = setting.session()
    value, (times, values) = session.call("values", {"uuid": UUID, "start": 20, "end": 50}, b"")
    assert value == {"count": 3, "next": None}
    assert np.frombuffer(times, "<i8").tolist() == [20, 30, 40]
    assert np.frombuffer(values, "<f8").tolist() == [3.0, 4.5, 6.0]
    value, columns = session.call("windows", {"uuid": UUID, "start": 0, "end": 100, "width": 50}, b"")
    assert (value, len(columns)) == ({"count": 2, "next": None}, 6)
    assert np.frombuffer(columns[0], "<i8").tolist() == [0, 50]
    assert np.frombuffer(columns[3], "<f8").tolist() == [6.0, 13.5]
    assert np.frombuffer(columns[4], "<i8").tolist() == [5, 5]
    value, columns = session.call("aligned_windows", {"uuid": UUID, "start": 0, "end": 100, "pointwidth": 5}, b"")
    assert np.frombuffer(columns[0], "<i8").tolist() == [0, 32, 64]
    assert session.call("earliest", {"uuid": UUID}, b"")[0] == {"time": 0, "value": 0.0}
    assert session.call("latest", {"uuid": UUID}, b"")[0] == {"time": 90, "value": 13.5}
    assert session.call("count", {"uuid": UUID, "start": 5, "end": 25}, b"")[0] == {"count": 2}
    (found,) = session.call("streams", {"collection": "tanks", "prefix": True}, b"")[0]
    assert (found["uuid"], found["count"], found["earliest"], found["latest"]) == (UUID, 10, 0, 90)
    assert session.call("streams", {"tags": {"kind": "other"}}, b"")[0] == []
    assert session.call("collections", {"prefix": "ta"}, b"")[0] == ["tanks/1"]
    assert session.call("stream", {"uuid": UUID}, b"")[0] == found


def test_streams_by_uuid_leaves_out_those_that_do_not_exist(setting):
    setting.add_series()
    missing = "00000000-0000-4000-8000-000000000000"
    session = setting.session()
    assert [row["uuid"] for row in session.call("streams", {"uuids": [missing, UUID]}, b"")[0]] == [UUID]
    with pytest.raises(NotFound):
        session.call("stream", {"uuid": missing}, b"")


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("values", {"uuid": UUID, "start": 5, "end": 1}),
        ("values", {"uuid": UUID, "start": "now", "end": 1}),
        ("values", {"uuid": UUID, "start": 0, "end": 1 << 70}),
        ("windows", {"uuid": UUID, "start": 0, "end": 10, "width": 0}),
        ("aligned_windows", {"uuid": UUID, "start": 0, "end": 10, "pointwidth": 99}),
        ("streams", {"name": "\x00"}),
        ("streams", {"tags": ["a"]}),
        ("nonsense", {}),
    ],
)
def test_bad_arguments_become_errors_in_the_handler(setting, op, args):
    setting.add_series()
    with pytest.raises(InvalidInput):
        setting.session().call(op, args, b"")


def test_of_very_many_windows_only_a_page_is_made(setting):
    setting.add_series()
    answer, _ = setting.session().call("windows", {"uuid": UUID, "start": 0, "end": 10**12, "width": 3}, b"")
    assert answer == {"count": 1 << 18, "next": 3 << 18}


def test_past_events_can_be_read(setting):
    with setting.store.begin() as tx:
        events = [NewEvent(hook="tank.filled", payload={"level": n}, tags=[f"t{n}"]) for n in range(3)]
        accept_events(tx, setting.context.catalogue(tx), events, user_id=None, now_us=1)
    rows, _ = setting.session().call("events", {"hook": "tank.filled", "limit": 2}, b"")
    assert [row["payload"] for row in rows] == [{"level": 2}, {"level": 1}]
    rows, _ = setting.session().call("events", {"tag": "t0"}, b"")
    assert [row["payload"] for row in rows] == [{"level": 0}]


# ---------------------------------------------------------------------------------------------------- files


def upload(session, name="plot.png", data=b"bytes", size=None):
    opened, _ = session.call("upload_open", {"name": name, "size": len(data) if size is None else size}, b"")
    for start in range(0, len(data), 1000):
        session.call("upload_write", {"code": opened["code"]}, data[start : start + 1000])
    closed, _ = session.call("upload_close", {"code": opened["code"]}, b"")
    return opened, closed


def test_an_uploaded_files_bytes_are_stored_and_its_row_waits_for_the_commit(setting):
    session = setting.session()
    data = bytes(range(256)) * 20
    opened, closed = upload(session, data=data)
    assert closed == {"size": len(data), "url": opened["url"]}
    assert opened["url"] == f"http://127.0.0.1:8080/{opened['code']}"
    (file,) = session.effects().files
    assert (file.code, file.name, file.size) == (opened["code"], "plot.png", len(data))
    with setting.context.blobs.open(file.code) as stored:
        assert stored.read() == data


def test_discarding_removes_the_bytes(setting):
    session = setting.session()
    opened, _ = upload(session)
    session.call("upload_open", {"name": "never closed"}, b"")
    session.discard()
    with pytest.raises(NotFound):
        setting.context.blobs.open(opened["code"])
    assert session.effects() == Effects()


@pytest.mark.parametrize("name", ["", "x" * 201, "../plot.png", "a\\b", "a\nb", ".."])
def test_bad_file_names_are_refused(setting, name):
    with pytest.raises(InvalidInput):
        setting.session().call("upload_open", {"name": name}, b"")


def test_the_upload_limit_counts_all_files_of_the_run(setting):
    session = setting.session(upload_bytes=3000)
    upload(session, data=b"x" * 2000)
    with pytest.raises(TooLarge, match="'upload'"):
        session.call("upload_open", {"name": "b", "size": 1001}, b"")
    opened, _ = session.call("upload_open", {"name": "b"}, b"")
    session.call("upload_write", {"code": opened["code"]}, b"x" * 1000)
    with pytest.raises(TooLarge):
        session.call("upload_write", {"code": opened["code"]}, b"x")


def test_writing_to_an_upload_that_is_not_open_is_an_error(setting):
    with pytest.raises(NotFound):
        setting.session().call("upload_write", {"code": "0" * 32}, b"x")


# ---------------------------------------------------------------------------------------------------- rights


def test_a_disabled_owner_gets_nothing(setting):
    setting.set_role(disabled=True)
    with pytest.raises(Forbidden, match="disabled"):
        setting.session().call("collections", {}, b"")


def test_rights_are_those_the_owner_has_now(setting, monkeypatch):
    monkeypatch.setattr(world_module, "OWNER_S", -1.0)
    monkeypatch.setattr(lately_module, "LATELY_S", -1.0)
    setting.add_series()
    session = setting.session()
    session.call("insert", {"uuid": UUID}, encoded([1], [1.0]))
    setting.set_role(Role.EMITTER)
    with pytest.raises(Forbidden, match="'developer'"):
        session.call("insert", {"uuid": UUID}, encoded([2], [1.0]))
    session.call("emit", {"hook": "tank.filled", "payload": {"level": 1}}, b"")
    setting.set_role(Role.VIEWER)
    with pytest.raises(Forbidden, match="'emitter'"):
        session.call("emit", {"hook": "tank.filled", "payload": {"level": 1}}, b"")
    assert session.call("stream", {"uuid": UUID}, b"")[0]["uuid"] == UUID


# ---------------------------------------------------------------------------------------------------- output


def test_output_can_be_taken_for_the_runs_own_transaction(setting):
    session = setting.session()
    session.log("stdout", "one ")
    session.log("stdout", "two\n")
    session.log("stderr", "three")
    assert [(chunk.stream, chunk.text, chunk.attempt) for chunk in session.take_logs()] == [
        ("stdout", "one two\n", 1),
        ("stderr", "three", 1),
    ]
    assert session.take_logs() == []


def test_output_is_cut_at_the_limit_and_says_so_once(setting):
    session = setting.session(output_bytes=10)
    session.log("stdout", "äöü" * 5)
    session.log("stdout", "more")
    (chunk,) = session.take_logs()
    assert chunk.text.startswith("äöüäö\n[output cut here")
    assert "more" not in chunk.text.partition("]")[2]


def test_output_that_no_database_can_hold_is_replaced(setting):
    session = setting.session()
    session.log("stdout", "a\x00b\ud800c")
    assert session.take_logs()[0].text == "a\N{REPLACEMENT CHARACTER}b?c"


def test_output_of_a_running_handler_shows_before_it_ends(setting):
    with setting.store.begin() as tx:
        bundle = HandlerBundle(
            blob=b"x", digest="", python="3.11", dill="0", source=None, filename=None, qualname="f", kind="function"
        )
        registration = Registration(
            hook="tank.filled",
            name="filler",
            bundle=bundle,
            tags=(),
            notify_on_success=None,
            notify_on_failure=None,
            options=Options(),
        )
        tx.handlers.put(registration, owner=setting.owner, now_us=1)
        event = NewEvent(hook="tank.filled", payload={"level": 1})
        (accepted,) = accept_events(tx, setting.context.catalogue(tx), [event], user_id=None, now_us=1)
    (run_id,) = accepted.runs
    session = setting.session(run_id=run_id)
    session.log("stdout", "working\n")
    setting.session(run_id=12345).log("stdout", "of a run that is gone")

    def shown():
        with setting.store.read() as tx:
            return tx.runs.logs(run_id)

    (chunk,) = wait_until(shown, what="the output")
    assert chunk.text == "working\n"
    assert session.take_logs() == []
