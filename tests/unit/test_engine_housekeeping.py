"""Schedules, lost leases, retention, forgotten files: what must happen by the clock."""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import replace

import pytest
from engine_lab import Lab
from waiting import wait_until

from eventproc.engine.clock import ManualClock, SystemClock
from eventproc.engine.housekeeping import DEFAULT_POLICY, WAITS, Housekeeper, HousekeeperSettings
from eventproc.engine.schedules import next_due_us, ticks
from eventproc.engine.steadiness import Steadiness
from eventproc.errors import InvalidInput
from eventproc.model import (
    SECOND_US,
    FileRecord,
    NewMetric,
    NewOutgoing,
    NewReject,
    RejectReason,
    RunState,
    Schedule,
    from_datetime,
    isoformat,
    to_datetime,
)

S = RunState
HOUR_US = 3600 * 10**6


def at(text: str) -> int:
    return from_datetime(dt.datetime.fromisoformat(text))


START = at("2026-03-28T12:00:00+00:00")


@pytest.fixture
def lab():
    with Lab(clock=ManualClock(START)) as made:
        yield made


@pytest.fixture
def keeper(lab):
    return Housekeeper(store=lab.store, bus=lab.bus, clock=lab.clock, blobs=lab.blobs, cache=lab.cache)


def schedule(lab, name="nightly", cron="30 2 * * *", timezone="UTC", **more):
    fields = {"hook": "schedule.tick", "tags": (), "payload": {}} | more
    with lab.store.begin() as tx:
        return tx.schedules.put(
            Schedule(
                id=0,
                name=name,
                cron=cron,
                timezone=timezone,
                next_us=next_due_us(cron, timezone, lab.now_us()),
                user_id=lab.user.id,
                **fields,
            )
        )


# --------------------------------------------------------------------------------------------------- schedules


def test_a_due_schedule_is_one_event(lab, keeper):
    schedule(lab, tags=("night",), payload={"depth": 3})
    keeper.tick()
    assert lab.events("schedule.tick") == []
    lab.clock.set(at("2026-03-29T02:30:00+00:00"))
    keeper.tick()
    keeper.tick()
    due = "2026-03-29T02:30:00.000000Z"
    assert lab.events("schedule.tick") == [{"schedule": "nightly", "due": due, "missed": 0, "depth": 3}]
    with lab.store.read() as tx:
        (event,) = tx.events.page(hook="schedule.tick")
        assert tx.schedules.get("nightly").next_us == at("2026-03-30T02:30:00+00:00")
    assert event.id == f"schedule:nightly:{due}"
    assert event.time_us == at(due)
    assert (event.tags, event.source, event.user_id) == (("night",), "schedule:nightly", lab.user.id)


def test_a_disabled_users_schedule_is_silent_until_they_are_enabled(lab, keeper):
    schedule(lab, cron="0 * * * *")
    with lab.store.begin() as tx:
        tx.users.update(lab.user.id, disabled=True)
    lab.clock.set(at("2026-03-28T15:00:00+00:00"))
    keeper.tick()
    assert lab.events("schedule.tick") == []
    with lab.store.begin() as tx:
        tx.users.update(lab.user.id, disabled=False)
    keeper.tick()
    assert lab.events("schedule.tick") == []
    lab.clock.set(at("2026-03-28T16:00:00+00:00"))
    keeper.tick()
    (payload,) = lab.events("schedule.tick")
    assert payload["due"] == "2026-03-28T16:00:00.000000Z"


def test_of_missed_ticks_only_the_latest_is_an_event(lab, keeper):
    schedule(lab)
    lab.clock.set(at("2026-04-02T17:00:00+00:00"))
    keeper.tick()
    (payload,) = lab.events("schedule.tick")
    assert payload["due"] == "2026-04-02T02:30:00.000000Z"
    assert payload["missed"] == 4


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_is_set_back_does_not_silence_schedules(lab, keeper, restarted):
    """It was days ahead for a while: what is due next goes by the time it is now, and no tick is told of twice."""
    schedule(lab, cron="0 * * * *")
    lab.clock.set(at("2026-03-28T13:00:00+00:00"))
    keeper.tick()
    lab.clock.set(at("2026-04-07T00:30:00+00:00"))
    keeper.tick()
    lab.clock.set(at("2026-03-28T12:30:00+00:00"))
    if restarted:
        keeper = Housekeeper(store=lab.store, bus=lab.bus, clock=lab.clock, blobs=lab.blobs, cache=lab.cache)
    keeper.tick()
    for hour in (13, 14, 15):
        lab.clock.set(at(f"2026-03-28T{hour}:00:00+00:00"))
        keeper.tick()
    times = [payload["due"][:16] for payload in lab.events("schedule.tick")]
    assert times == ["2026-03-28T13:00", "2026-04-07T00:00", "2026-03-28T14:00", "2026-03-28T15:00"]


def test_a_minutely_schedule_that_slept_for_years_wakes_quickly(lab, keeper):
    schedule(lab, cron="* * * * *")
    lab.clock.set(at("2029-01-01T00:00:30+00:00"))
    keeper.tick()
    (payload,) = lab.events("schedule.tick")
    assert payload["due"] == "2029-01-01T00:00:00.000000Z"


def test_two_housekeepers_make_one_event_of_a_tick(lab):
    schedule(lab, cron="* * * * *")
    keepers = [Housekeeper(store=lab.store, bus=lab.bus, clock=lab.clock) for _ in range(4)]
    lab.clock.advance(90)
    threads = [threading.Thread(target=keeper.tick) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lab.events("schedule.tick")) == 1


def test_a_schedule_may_emit_another_hook_with_its_own_payload(lab, keeper):
    schedule(lab, hook="test.happened", payload={"n": 1}, cron="0 * * * *")
    lab.clock.advance(3600)
    keeper.tick()
    assert lab.events("test.happened") == [{"n": 1}]
    assert lab.events("schedule.tick") == []


def test_a_tick_that_can_not_be_an_event_is_recorded_and_spoils_no_other(lab, keeper):
    schedule(lab, name="bad", hook="run.failed", cron="0 * * * *")
    schedule(lab, name="good", cron="0 * * * *")
    lab.clock.advance(3600)
    keeper.tick()
    assert [payload["schedule"] for payload in lab.events("schedule.tick")] == ["good"]
    with lab.store.read() as tx:
        (entry,) = tx.audit.page()
        assert (entry.action, entry.object) == ("schedule.refused", "schedule:bad")
        assert "required" in entry.detail["error"]
        assert tx.schedules.get("bad").next_us > lab.now_us()


def test_a_paused_schedule_does_not_fire(lab, keeper):
    schedule(lab, cron="0 * * * *", paused=True)
    lab.clock.advance(7200)
    keeper.tick()
    assert lab.events("schedule.tick") == []


def first(cron, zone, start, count):
    found = ticks(cron, zone, at(start))
    return [isoformat(next(found))[:16] for _ in range(count)]


def test_summer_time_neither_skips_nor_doubles_a_nightly_job():
    assert first("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00+00:00", 2) == [
        "2026-03-29T01:00",  # 02:30 does not exist that night: right after the gap
        "2026-03-30T00:30",
    ]
    assert first("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00+00:00", 2) == [
        "2026-10-25T00:30",  # once, though 02:30 comes twice
        "2026-10-26T01:30",
    ]


def test_backwards_gives_the_same_ticks():
    zone, until = "Europe/Berlin", at("2026-11-05T00:00:00+00:00")
    begin = at("2026-10-20T00:00:00+00:00")
    forward = [tick for tick, _ in zip(ticks("15 */7 * * 1-5", zone, begin), range(1000), strict=False) if tick < until]
    backward = [tick for tick, _ in zip(ticks("15 */7 * * 1-5", zone, until, reverse=True), range(1000), strict=False)]
    assert forward == sorted(tick for tick in backward if tick > begin)


@pytest.mark.parametrize(
    ("cron", "zone", "text"),
    [
        ("", "UTC", "no cron expression"),
        ("* * * *", "UTC", "no cron expression"),
        ("61 * * * *", "UTC", "minute"),
        ("@daily", "UTC", "five fields"),
        ("0 0 30 2 *", "UTC", "no cron expression"),
        ("* * * * *", "Mars/Olympus", "unknown time zone"),
        ("* * * * *", "../etc/passwd", "unknown time zone"),
    ],
)
def test_a_bad_schedule_is_refused(cron, zone, text):
    with pytest.raises(InvalidInput, match=text):
        next_due_us(cron, zone, START)


# --------------------------------------------------------------------------------------------------- leases


def nothing(db, **payload):
    return None


def lost(lab, run_id, times=1, *, committing=False):
    """Have workers lease the run and never come back."""
    keeper = Housekeeper(store=lab.store, bus=lab.bus, clock=lab.clock, cache=lab.cache)
    for _ in range(times):
        with lab.store.begin() as tx:
            (claim,) = tx.runs.claim(
                worker="gone", pythons=[], want_run=1, want_batch=1, lease_us=10**6, now_us=lab.now_us()
            )
            if committing:
                from eventproc.model import Finish

                tx.runs.finish([Finish(run_id=run_id, token=claim.token, state=S.COMMITTING)], now_us=lab.now_us())
        lab.clock.advance(2)
        keeper.expire_leases()


def test_a_lost_run_is_queued_again_and_workers_are_woken(lab):
    lab.register(nothing)
    (run_id,) = lab.emit().runs
    listener = lab.bus.listen("runs")
    lost(lab, run_id)
    run = lab.run(run_id)
    assert (run.state, run.interruptions) == (S.QUEUED, 1)
    assert listener.wait(60) == {"runs"}
    assert lab.notices(run_id) == []
    lab.start()
    assert lab.ended(run_id).state is S.SUCCEEDED


def test_a_run_that_is_lost_too_often_fails_with_its_notice_and_event(lab):
    lab.register(nothing, failure="a@example.com")
    (run_id,) = lab.emit(tags=["t"]).runs
    lost(lab, run_id, times=4)
    run = lab.run(run_id)
    assert (run.state, run.failure.kind) == (S.FAILED, "lost")
    assert lab.notices(run_id) == [("failure", ("a@example.com",))]
    (payload,) = lab.events("run.failed")
    assert (payload["run"], payload["state"], payload["failure"]["kind"]) == (run_id, "failed", "lost")


def test_lost_leases_are_not_counted_as_tries_of_the_handler(lab, tmp_path):
    def fails_once(db, path):
        import pathlib

        if not pathlib.Path(path).exists():
            pathlib.Path(path).touch()
            raise ValueError("once")

    lab.register(fails_once, retries={"max": 1, "backoff": "1ms"})
    (run_id,) = lab.emit(payload={"path": str(tmp_path / "x")}).runs
    lost(lab, run_id, times=2)
    lab.start(poll_s=0.05)
    lab.in_state(run_id, S.RETRYING)
    lab.clock.advance(1)
    assert lab.ended(run_id).state is S.SUCCEEDED


def test_a_run_lost_while_committing_is_a_commit_failure(lab):
    lab.register(nothing, failure="a@example.com")
    (run_id,) = lab.emit().runs
    lost(lab, run_id, committing=True)
    run = lab.run(run_id)
    assert (run.state, run.failure.kind) == (S.COMMIT_FAILED, "interrupted")
    assert lab.notices(run_id) == [("failure", ("a@example.com",))]
    assert [payload["state"] for payload in lab.events("run.failed")] == ["commit_failed"]


@pytest.mark.parametrize("order_by", [None, "key"])
def test_workers_are_woken_when_a_run_becomes_due(lab, keeper, order_by):
    def fails(db, **payload):
        raise ValueError("no")

    lab.register(fails, retries={"max": 1, "backoff": "1h", "jitter": 0}, order_by=order_by)
    worker = lab.start()
    (run_id,) = lab.emit(key="k").runs
    lab.in_state(run_id, S.RETRYING)
    worker.stop(5)
    if order_by:
        lab.emit(key="k")  # due long before, and waiting behind the other one
    listener = lab.bus.listen("runs")
    keeper.tick()
    assert listener.wait(0) == set()
    lab.clock.advance(3601)
    keeper.tick()
    assert listener.wait(60) == {"runs"}
    keeper.tick()
    assert listener.wait(0) == set()


# --------------------------------------------------------------------------------------------------- retention


def test_old_events_and_runs_go_in_chunks_and_failed_ones_stay_longer(lab):
    def sometimes(db, n):
        if n == 0:
            raise ValueError("no")

    lab.register(sometimes)
    lab.start()
    runs = [lab.emit(payload={"n": n}).runs[0] for n in range(6)]
    for run in runs:
        lab.ended(run)
    settings = HousekeeperSettings(chunk=2, breath_s=0.0, policy=DEFAULT_POLICY)
    keeper = Housekeeper(store=lab.store, bus=lab.bus, clock=lab.clock, blobs=lab.blobs, settings=settings)
    keeper.prune()
    assert len(lab.runs(hook="test.happened")) == 6
    lab.clock.advance(31 * 86400)
    keeper.prune()
    left = lab.runs(hook="test.happened")
    assert [run.id for run in left] == [runs[0]]
    lab.clock.advance(60 * 86400)
    keeper.prune()
    assert lab.runs(hook="test.happened") == []


def test_old_samples_refusals_and_given_up_messages_go_by_their_settings(lab):
    """As htmengine's garbage collector with 90 days: rows of 91 and 92 days go, of 0, 88 and 89 days stay."""
    now_us = lab.now_us()
    day_us = 86_400 * SECOND_US
    with lab.store.begin() as tx:
        kept, deleted = (
            metric.id for metric, _ in tx.metrics.create([NewMetric(name="kept"), NewMetric(name="gone")], now_us=1)
        )
        ages = [92, 91, 89, 88, 0]
        for metric_id in (kept, deleted):
            tx.samples.add_batch([metric_id] * 5, [now_us - age * day_us for age in ages], [*map(float, ages)])
        tx.metrics.delete(deleted)
        reject = NewReject(reason=RejectReason.LATE, source="s", metric="kept", count=1)
        tx.rejects.add([reject], now_us=now_us - 31 * day_us)
        tx.outbox.add([NewOutgoing(kind="http", target="http://x", body=b"")], now_us=now_us - 31 * day_us)
        [message] = tx.outbox.claim(kind="http", limit=1, lease_us=1, now_us=now_us)
        tx.outbox.failed(message.id, message.token, error="no", retry_us=None)
    policy = replace(DEFAULT_POLICY, samples_s=90 * 86_400, rejects_s=30 * 86_400, outbox_s=30 * 86_400)
    settings = HousekeeperSettings(chunk=1, breath_s=0.0, policy=policy)
    done = Housekeeper(store=lab.store, bus=lab.bus, clock=lab.clock, blobs=lab.blobs, settings=settings).prune()
    assert {kind: done[kind] for kind in ("samples", "refused samples", "messages")} == {
        "samples": 7,
        "refused samples": 1,
        "messages": 1,
    }
    with lab.store.read() as tx:
        assert [sample.value for sample in tx.samples.query(kept)] == [89, 88, 0]
        assert tx.samples.query(deleted) == []
        assert tx.rejects.page() == []
        assert tx.outbox.page() == []


def put_file(lab, code, *, with_row):
    size, digest = lab.blobs.put(code, [b"data"], max_bytes=100)
    if with_row:
        lab.register(nothing, name=f"h{code[0]}")
        (run_id, *_) = lab.emit().runs
        with lab.store.begin() as tx:
            tx.files.add(
                [FileRecord(code=code, run_id=run_id, name="x", size=size, digest=digest, created_us=lab.now_us())]
            )


def test_bytes_of_files_that_no_run_owns_go_after_a_day(lab, keeper, monkeypatch):
    put_file(lab, "a" * 32, with_row=True)
    put_file(lab, "b" * 32, with_row=False)
    monkeypatch.setattr(lab.blobs, "codes", lambda *, older_than_us: iter(["a" * 32, "b" * 32]))
    assert keeper.delete_orphans() == 1
    assert lab.blobs.open("a" * 32).read() == b"data"
    with pytest.raises(Exception, match="b" * 32):
        lab.blobs.open("b" * 32)


# --------------------------------------------------------------------------------------------------- the loop


def test_the_loop_does_its_duties_until_it_is_stopped(lab):
    schedule(lab, cron="* * * * *")
    keeper = Housekeeper(store=lab.store, bus=lab.bus, clock=lab.clock, settings=HousekeeperSettings(poll_s=0.01))
    thread = threading.Thread(target=keeper.run)
    thread.start()
    lab.clock.advance(60)
    wait_until(lambda: lab.events("schedule.tick"), what="the tick")
    keeper.stop(60)
    thread.join(60)
    assert not thread.is_alive()


def test_nothing_waits_until_history_is_summed_up(lab):
    begun, end = threading.Event(), threading.Event()

    class Long(Housekeeper):
        def sum_up_traits(self) -> int:
            begun.set()
            end.wait()
            return 0

    schedule(lab, cron="* * * * *")
    keeper = Long(store=lab.store, bus=lab.bus, clock=lab.clock, settings=HousekeeperSettings(poll_s=0.01))
    thread = threading.Thread(target=keeper.run)
    thread.start()
    try:
        assert begun.wait(30)
        lab.clock.advance(60)
        wait_until(lambda: lab.events("schedule.tick"), what="the tick")
    finally:
        end.set()
        keeper.stop(60)
        thread.join()


def test_a_duty_that_fails_does_not_stop_the_others(lab, keeper, caplog):
    def broken(**_):
        raise RuntimeError("disk on fire")

    schedule(lab, cron="* * * * *")
    with lab.store.begin() as tx:
        kind = type(tx.runs)
    lab.clock.advance(60)
    original = kind.expire_leases
    kind.expire_leases = lambda self, **more: broken(**more)
    try:
        keeper.tick()
    finally:
        kind.expire_leases = original
    assert "disk on fire" in caplog.text
    assert len(lab.events("schedule.tick")) == 1
    assert to_datetime(lab.now_us())


# --------------------------------------------------------------------------------------------------- clocks that jump


class Machine:
    """The time that went by, and a housekeeper that compares the clock with it."""

    def __init__(self, lab):
        self.lab, self.passed_s = lab, 1000.0
        self.keeper = Housekeeper(
            store=lab.store,
            bus=lab.bus,
            clock=lab.clock,
            blobs=lab.blobs,
            cache=lab.cache,
            steadiness=Steadiness(lab.clock, passed_s=lambda: self.passed_s),
        )

    def later(self, hours):
        self.passed_s += hours * 3600
        self.lab.clock.advance(hours * 3600)
        self.keeper.tick()

    def jump(self, days):
        self.lab.clock.advance(days * 86_400)
        self.keeper.tick()

    @property
    def events(self):
        return len(self.lab.events("test.happened"))

    @property
    def told(self):
        with self.lab.store.read() as tx:
            return tx.get_meta(WAITS) or ""


@pytest.fixture
def machine(lab):
    lab.emit(id="e-1")
    return Machine(lab)


def test_a_clock_that_jumps_ahead_deletes_nothing_until_it_has_stayed_for_a_day(machine, caplog):
    machine.jump(400)
    machine.later(23)
    assert machine.events == 1
    assert "jumped ahead by 400.0 days" in machine.told
    assert "restart `eventproc serve`" in machine.told
    assert "jumped ahead by 400.0 days" in caplog.text
    machine.later(2)
    assert (machine.events, machine.told) == (0, "")


def test_a_clock_that_was_set_back_again_deletes_nothing(machine):
    machine.jump(400)
    machine.jump(-400)
    assert machine.told == ""
    machine.later(30)
    assert machine.events == 1


def test_the_worlds_clock_is_steady():
    assert Steadiness(SystemClock()).look() == (0, 0.0)


def test_a_second_jump_is_waited_for_by_itself(machine):
    machine.jump(20)
    machine.later(20)
    machine.jump(20)
    machine.later(20)
    assert machine.events == 1
    machine.later(5)
    assert machine.events == 0


def test_weeks_in_which_the_machine_slept_or_was_stopped_are_no_jump(machine, lab):
    machine.later(31 * 24)
    assert (machine.events, machine.told) == (0, "")
    lab.emit(id="e-2")
    lab.clock.advance(31 * 86_400)
    again = Machine(lab)
    again.keeper.tick()
    assert (again.events, again.told) == (0, "")


def test_a_restart_says_that_the_time_is_right(machine, lab):
    machine.jump(400)
    again = Machine(lab)
    again.keeper.tick()
    assert (again.events, again.told) == (0, "")


def test_files_of_runs_that_are_at_work_stay_when_the_clock_jumps(machine, lab):
    put_file(lab, "b" * 32, with_row=False)
    machine.jump(40_000)
    assert lab.blobs.open("b" * 32).read() == b"data"
    assert machine.keeper.delete_orphans() == 1  # it was only waiting
