"""The users' harness: handlers in memory, a clock that is moved by hand, mails that are collected."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from eventproc import register
from eventproc.errors import EventprocError, InvalidHandler, InvalidInput, InvalidPayload, PluginError, UnknownHook
from eventproc.testing import Harness, check_handler


@pytest.fixture
def platform():
    with Harness() as harness:
        harness.add_hook("order.placed", sample={"total": 21})
        yield harness


def double(db: Any, total: float, **kwargs: Any) -> float:
    print("doubling", total)
    return total * 2


def test_a_handler_runs_on_its_event(platform):
    platform.register(double, hook="order.placed")
    platform.emit("order.placed", {"total": 4})
    platform.run_until_idle()
    [run] = platform.runs
    assert (run.state, run.result, run.handler, run.logs) == ("succeeded", 8, "double", "doubling 4\n")


def test_without_a_payload_the_hooks_sample_is_taken(platform):
    platform.register(double, hook="order.placed")
    platform.emit("order.placed")
    platform.run_until_idle()
    assert platform.runs[0].result == 42


def test_what_register_marked_is_kept(platform):
    @register(name="marked", hook="order.placed", tags=["shop"], notify_on_success="a@example.com")
    def marked(db, **kwargs):
        return "well"

    platform.register(marked)
    platform.emit("order.placed", tags=["other"])
    platform.emit("order.placed", tags=["shop"])
    platform.run_until_idle()
    assert [run.handler for run in platform.runs] == ["marked"]
    assert [mail["To"] for mail in platform.mails] == ["a@example.com"]


def test_events_that_handlers_emit_run_further_handlers(platform):
    platform.add_hook("order.counted")
    platform.register(lambda db, total, **kw: ep.emit("order.counted", {"total": total}), hook="order.placed", name="a")  # noqa: F821
    platform.register(lambda db, total, **kw: f"counted {total}", hook="order.counted", name="b")
    platform.emit("order.placed", {"total": 1})
    platform.run_until_idle()
    assert [event.hook for event in platform.events] == ["order.placed", "order.counted"]
    assert platform.runs[1].result == "counted 1"
    assert platform.events[1].caused_by_run == platform.runs[0].id


def test_a_retry_waits_for_the_clock(platform):
    def fails_at_first(db, **kwargs):
        if ep.event.attempt == 1:  # noqa: F821
            raise ValueError("not yet")
        return "now"

    platform.register(fails_at_first, hook="order.placed", retries={"max": 1, "backoff": 60})
    platform.emit("order.placed")
    platform.run_until_idle()
    assert platform.runs[0].state == "retrying"
    platform.clock.advance(120)
    platform.run_until_idle()
    assert (platform.runs[0].state, platform.runs[0].result, platform.runs[0].attempt) == ("succeeded", "now", 2)


def test_a_failure_has_its_traceback_and_its_mail(platform):
    def boom(db, **kwargs):
        raise ValueError("the reason")

    platform.register(boom, hook="order.placed", notify_on_failure="b@example.com")
    platform.emit("order.placed")
    platform.run_until_idle()
    [run] = platform.runs
    assert run.state == "failed"
    assert run.failure.message == "the reason"
    assert "the reason" in platform.mails[0].get_body(("plain",)).get_content()


def test_nothing_of_a_failed_run_is_kept(platform):
    def half(db, **kwargs):
        ep.emit("order.placed", {"total": 1})  # noqa: F821
        raise ValueError("after all")

    platform.register(half, hook="order.placed")
    platform.emit("order.placed")
    platform.run_until_idle()
    assert len(platform.events) == 2  # the first, and run.failed
    assert platform.events[1].hook == "run.failed"


def test_files_can_be_read_afterwards(platform, tmp_path):
    (tmp_path / "made.txt").write_text("hello")

    def report(db, path, **kwargs):
        ep.upload_file(path, "report.txt")  # noqa: F821

    platform.register(report, hook="order.placed")
    platform.emit("order.placed", {"path": str(tmp_path / "made.txt")})
    platform.run_until_idle()
    assert platform.files == {"report.txt": b"hello"}
    assert platform.runs[0].files == {"report.txt": b"hello"}


def test_series_can_be_given_and_looked_at(platform):
    code = platform.add_series("temperature", [1, 2, 3], [1.0, 2.0, 3.0])

    def double_series(db, series, **kwargs):
        times, values = db.values(series, 0, 100)
        db.insert(series, [10, 20], [float(sum(values)), float(len(times))])

    platform.register(double_series, hook="order.placed")
    platform.emit("order.placed", {"series": code})
    platform.run_until_idle()
    assert platform.runs[0].failure is None
    assert platform.values(code) == ([1, 2, 3, 10, 20], [1.0, 2.0, 3.0, 6.0, 3.0])


def test_a_handler_of_scored_batches_gets_metrics_samples_and_scores(platform):
    uid = platform.add_metric("web.cpu", resource="web-1")
    assert platform.add_samples("web.cpu", [1.0, 2.0])[1] == platform.clock.now_us() / 1e6

    def worst(db, metric, results, **kwargs):
        row = max(results, key=lambda each: each["anomaly"])
        before = [sample.value for sample in db.samples(metric["name"], limit=10)]
        return [metric["resource"], row["value"], row["anomaly"], before]

    platform.register(worst, hook="inference.batch_done")
    platform.add_scores(uid, [0.1, 0.99999, 0.2], values=[3.0, 90.0, 4.0])
    platform.run_until_idle()
    resource, value, anomaly, before = platform.runs[0].result
    assert (resource, value, anomaly, sorted(before)) == ("web-1", 90.0, 0.99999, [1.0, 2.0, 3.0, 4.0, 90.0])
    with pytest.raises(InvalidInput, match="as many values"):
        platform.add_scores(uid, [0.1], values=[])
    with pytest.raises(InvalidInput, match="not newer"):
        platform.add_samples(uid, [1.0], times=[1.0])


def test_a_handler_can_decline_the_mail_of_its_success_but_not_of_its_failure(platform):
    def look(db, total, **kwargs):
        if total < 10:
            ep.quiet()  # noqa: F821 - there without import
        if total < 0:
            raise ValueError("below nothing")
        if total == 5:
            ep.on_commit(lambda: None)  # noqa: F821
        return f"total {total}"

    platform.register(look, hook="order.placed", notify_on_success="a@example.com", notify_on_failure="b@example.com")
    for total in (1, 5, 20, -1):
        platform.emit("order.placed", {"total": total})
    platform.run_until_idle()
    assert sorted(run.state for run in platform.runs) == ["failed", "succeeded", "succeeded", "succeeded"]
    assert sorted(mail["To"] for mail in platform.mails) == ["a@example.com", "b@example.com"]


def test_schedules_follow_the_clock(platform):
    platform.register(lambda db, **kw: "tick", hook="schedule.tick", name="clockwork")
    platform.use.schedules.put(platform.admin, "hourly", cron="0 * * * *")
    platform.run_until_idle()
    assert platform.runs == []
    platform.clock.advance(3600)
    platform.run_until_idle()
    assert [run.result for run in platform.runs] == ["tick"]


def test_events_are_as_they_were_reported(platform):
    moment = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
    platform.emit("order.placed", {"total": 1}, id="a", tags=["x"], key="k", time=moment)
    [event] = platform.events
    assert (event.id, event.payload, event.tags, event.key, event.time) == ("a", {"total": 1}, ("x",), "k", moment)


def test_a_paused_handlers_runs_do_not_keep_it_from_being_idle(platform):
    record = platform.register(double, hook="order.placed")
    platform.use.handlers.set_paused(platform.admin, record.id, paused=True)
    platform.emit("order.placed")
    platform.run_until_idle()
    assert platform.runs[0].state == "queued"


def test_mistakes_are_told_as_on_a_real_platform(platform):
    with pytest.raises(UnknownHook, match=r"order\.placed"):
        platform.emit("order.plased")
    with pytest.raises(InvalidPayload, match="metric"):
        platform.emit("inference.batch_done", {})
    with pytest.raises(InvalidInput, match="hook"):
        platform.register(lambda db: None)


def test_a_projects_hook_files_can_be_loaded_and_broken_ones_are_named(platform, tmp_path):
    (tmp_path / "good.yaml").write_text("hooks:\n  - name: shop.opened\n    summary: x\n    sample: {door: 1}\n")
    (tmp_path / "bad.yaml").write_text("hooks:\n  - nam: x\n")
    platform.load_hooks(tmp_path / "good.yaml")
    platform.register(lambda db, door, **kw: door, hook="shop.opened", name="greet")
    platform.emit("shop.opened")
    platform.run_until_idle()
    assert platform.runs[0].result == 1
    with pytest.raises(PluginError, match=r"bad\.yaml"):
        platform.load_hooks(tmp_path / "bad.yaml")


def test_harnesses_do_not_know_of_each_other():
    with Harness() as first, Harness() as second:
        first.add_hook("mine")
        with pytest.raises(EventprocError):
            second.emit("mine", {})


# ------------------------------------------------------------------------------------------------- check_handler


def test_check_handler_returns_the_run_on_the_sample():
    run = check_handler(lambda db, **payload: len(payload), "ctingress.on_complete")
    assert run.succeeded
    assert run.result > 0


def test_check_handler_takes_a_payload_for_a_hook_of_ones_own():
    assert check_handler(double, "my.own", payload={"total": 2}).result == 4


def test_check_handler_raises_the_handlers_own_words():
    def boom(db, **kwargs):
        raise RuntimeError("these words")

    with pytest.raises(AssertionError, match="these words"):
        check_handler(boom, "schedule.tick")


def test_check_handler_refuses_a_result_that_is_no_json():
    with pytest.raises(AssertionError, match="result"):
        check_handler(lambda db, **kw: {1, 2}, "schedule.tick")


def test_check_handler_refuses_what_can_not_travel():
    numbers = (number for number in range(3))
    with pytest.raises(InvalidHandler, match="generator"):
        check_handler(lambda db, **kw: list(numbers), "schedule.tick")
