"""Why did it run, run it again, and what would happen: explain, replay, dry run."""

# ruff: noqa: F821 - `ep` is there for handlers

from __future__ import annotations

import json

import pytest
from engine_lab import Lab

from eventproc.engine.clock import ManualClock
from eventproc.engine.dryrun import dry_run
from eventproc.engine.explain import why
from eventproc.engine.replay import ReplayQuery, replay
from eventproc.errors import InvalidInput
from eventproc.model import RunState

S = RunState


@pytest.fixture
def lab():
    with Lab(clock=ManualClock()) as made:
        yield made


def version(db, **payload):
    return 1


def other_version(db, **payload):
    return 2


def ask(lab, event_id, handler_id):
    with lab.store.read() as tx:
        event, handler = tx.events.get(event_id), tx.handlers.get(handler_id)
        return why(tx, lab.cache.current(tx), event, handler, now_us=lab.now_us())


# --------------------------------------------------------------------------------------------------- why


def test_a_run_that_happened_is_named_with_its_end(lab):
    handler = lab.register(version)
    lab.start()
    accepted = lab.emit()
    lab.ended(accepted.runs[0])
    answer = ask(lab, accepted.id, handler.id)
    assert answer.verdict.startswith(f"run {accepted.runs[0]} succeeded")
    assert all(reason.ok for reason in answer.reasons)
    assert [run.id for run in answer.runs] == list(accepted.runs)


@pytest.mark.parametrize(
    ("options", "check", "text"),
    [
        ({"hook": "test.other"}, "hook", "does not match"),
        ({"tags": ["x"]}, "tags", "none in common"),
        ({"filter": {"v": [{"numeric": [">", 5]}]}}, "filter", "at: v"),
    ],
)
def test_what_kept_an_event_from_a_handler_is_said(lab, options, check, text):
    handler = lab.register(version, **options)
    accepted = lab.emit(tags=["a"], payload={"v": 1})
    answer = ask(lab, accepted.id, handler.id)
    assert text in answer.verdict
    assert [reason.check for reason in answer.reasons if not reason.ok] == [check]
    assert answer.runs == ()


def test_a_handler_registered_later_did_not_run(lab):
    accepted = lab.emit()
    lab.clock.advance(5)
    handler = lab.register(version)
    answer = ask(lab, accepted.id, handler.id)
    assert "replay the event" in answer.verdict
    assert "registered at" in answer.verdict


def test_what_holds_a_waiting_run_is_said(lab):
    handler = lab.register(version)
    accepted = lab.emit()
    assert "waits for a worker" in ask(lab, accepted.id, handler.id).verdict
    with lab.store.begin() as tx:
        tx.handlers.set_paused(handler.id, paused=True, by="ada", now_us=1)
    assert "the handler is paused" in ask(lab, accepted.id, handler.id).verdict
    with lab.store.begin() as tx:
        tx.handlers.set_paused(handler.id, paused=False, by="ada", now_us=1)
        tx.hooks.set_paused("test.*", paused=True)
    assert "the hook 'test.*' is paused" in ask(lab, accepted.id, handler.id).verdict
    with lab.store.begin() as tx:
        tx.hooks.set_paused("test.*", paused=False)
        tx.users.update(lab.user.id, disabled=True)
    assert "owner 'ada' is disabled" in ask(lab, accepted.id, handler.id).verdict


def test_a_failure_is_quoted(lab):
    def fails(db, **payload):
        raise ValueError("the pump is dry")

    handler = lab.register(fails)
    lab.start()
    accepted = lab.emit()
    lab.ended(accepted.runs[0])
    assert "the pump is dry" in ask(lab, accepted.id, handler.id).verdict


def test_a_newer_version_is_mentioned(lab):
    lab.register(version, name="h")
    accepted = lab.emit()
    lab.clock.advance(5)
    handler = lab.register(other_version, name="h")
    answer = ask(lab, accepted.id, handler.id)
    assert any("version 1 is newer" in reason.text for reason in answer.reasons)


# --------------------------------------------------------------------------------------------------- replay


def emit_hours(lab, count):
    accepted = []
    for n in range(count):
        accepted.append(lab.emit(payload={"n": n}, time_us=lab.now_us()))
        lab.clock.advance(3600)
    return accepted


def again(lab, **query):
    query = {"hook": "test.happened", "since_us": 0, "until_us": lab.now_us() + 1} | query
    return replay(lab.store, lab.cache, ReplayQuery(**query), clock=lab.clock, bus=lab.bus)


def test_events_of_a_time_range_run_again_in_order(lab):
    start = lab.now_us()
    emit_hours(lab, 6)
    lab.register(version)
    done = again(lab, since_us=start + 3600 * 10**6, until_us=start + 4 * 3600 * 10**6)
    assert done.events == 3
    with lab.store.read() as tx:
        events = [tx.events.by_seq([lab.run(run).event_seq]) for run in done.runs]
    assert [json.loads(next(iter(event.values())).payload_json)["n"] for event in events] == [1, 2, 3]
    lab.start()
    assert all(lab.ended(run).state is S.SUCCEEDED for run in done.runs)


def test_each_replay_is_a_round_of_its_own(lab):
    lab.register(version)
    accepted = lab.emit()
    first, second = again(lab), again(lab)
    assert len({*accepted.runs, *first.runs, *second.runs}) == 3
    assert [lab.run(run).round for run in (*accepted.runs, *first.runs, *second.runs)] == [0, 1, 2]


def test_a_filter_and_a_handler_narrow_a_replay(lab):
    one = lab.register(version, name="one")
    lab.register(version, name="two")
    emit_hours(lab, 4)
    done = again(lab, pattern={"n": [{"numeric": [">=", 2]}]}, handler_id=one.id)
    assert done.events == 2
    assert {lab.run(run).handler_name for run in done.runs} == {"one"}
    assert len(done.runs) == 2


def test_a_replay_uses_the_current_version_or_that_of_the_earlier_run(lab):
    lab.register(version, name="h")
    lab.emit()
    lab.register(other_version, name="h")
    assert [lab.run(run).version for run in again(lab).runs] == [1]
    # The run before, that of the replay just made, had version 1 already; so ask about another event.
    with lab.store.begin() as tx:
        handler = tx.handlers.find("test.happened", "h")
        tx.handlers.set_current(handler.id, 0, by="ada", now_us=1)
    accepted = lab.emit("test.happened", {"new": 1})
    with lab.store.begin() as tx:
        tx.handlers.set_current(handler.id, 1, by="ada", now_us=1)
    done = again(lab, pattern={"new": [1]}, current=False)
    assert [lab.run(run).version for run in (*accepted.runs, *done.runs)] == [0, 0]


def test_many_events_are_replayed_in_chunks(lab, monkeypatch):
    monkeypatch.setattr("eventproc.engine.replay.CHUNK", 3)
    lab.register(version)
    for n in range(10):
        lab.emit(payload={"n": n})
    done = again(lab)
    assert done.events == len(done.runs) == 10


def test_an_empty_range_and_a_bad_filter_are_refused(lab):
    with pytest.raises(InvalidInput, match="time range is empty"):
        again(lab, since_us=5, until_us=5)
    with pytest.raises(InvalidInput, match=r"filter\.a"):
        again(lab, pattern={"a": 3})
    lab.register(version)
    emit_hours(lab, 3)
    with pytest.raises(InvalidInput, match="more than 2 events"):
        again(lab, max_events=2)
    assert len(lab.runs()) == 3


# --------------------------------------------------------------------------------------------------- dry run


def tries(db, **payload):
    import pathlib

    print("working on", payload["n"])
    ep.emit("test.result", {"n": payload["n"]}, tags=["t"])
    stream = db.create(collection="c", name="s")
    db.insert(stream, [1, 2, 3], [0.1, 0.2, 0.3])
    ep.on_commit(lambda: pathlib.Path(payload["path"]).write_text("committed"))
    if payload.get("fail"):
        raise ValueError("dry, too")
    return "fine"


def dry(lab, handler, accepted):
    with lab.store.read() as tx:
        blob = tx.handlers.blob(handler.id, handler.current.version)
        event = tx.events.get(accepted.id)
    return dry_run(lab.sandbox, lab.world, handler=handler, version=handler.current, blob=blob, event=event)


def test_a_dry_run_reports_effects_and_writes_nothing(lab, tmp_path):
    handler = lab.register(tries)
    accepted = lab.emit(payload={"n": 7, "path": str(tmp_path / "x")})
    tried = dry(lab, handler, accepted).to_json()
    assert tried["failure"] is None
    assert tried["result"] == "fine"
    assert tried["logs"] == [{"stream": "stdout", "text": "working on 7\n"}]
    assert tried["callbacks"]
    (emitted,) = tried["effects"]["events"]
    assert (emitted["hook"], emitted["payload"], emitted["tags"]) == ("test.result", {"n": 7}, ["t"])
    (insert,) = tried["effects"]["inserts"]
    assert (insert["count"], insert["start"], insert["end"]) == (3, 1, 3)
    assert [series["name"] for series in tried["effects"]["series"]] == ["s"]
    assert json.dumps(tried)
    assert lab.events("test.result") == []
    with lab.store.read() as tx:
        assert tx.series.find() == []
    assert not (tmp_path / "x").exists()
    assert lab.run(accepted.runs[0]).state is S.QUEUED


def test_a_dry_run_shows_a_failure(lab, tmp_path):
    handler = lab.register(tries)
    accepted = lab.emit(payload={"n": 7, "path": str(tmp_path / "x"), "fail": True})
    tried = dry(lab, handler, accepted)
    assert tried.failure.message == "dry, too"
    assert tried.effects == {}
    assert tried.logs == (("stdout", "working on 7\n"),)
