"""Models at work: states, scores, events, restarts, redelivery, failures."""

from __future__ import annotations

import contextlib
import json
import math
from itertools import pairwise

import numpy as np
import pytest
from models_world import EPOCH, STEP, ModelsWorld, wave
from store_world import World

from eventproc.errors import Conflict, MetricAlreadyMonitored, MetricNotMonitored, StatisticsNotReady
from eventproc.htm import AnomalyModel
from eventproc.model import SECOND_US, MetricStatus
from eventproc.models import lifecycle, messages
from eventproc.models.display import likelihood_of
from eventproc.models.scorer import Scorer
from eventproc.store.memory import MemoryStore

RANGE = {"modelParams": {"min": 0, "max": 100}}


@pytest.fixture
def world():
    store = MemoryStore()
    yield ModelsWorld(store, exchange="results")
    store.close()


def payloads(world, hook="inference.batch_done"):
    return [json.loads(event.payload_json) for event in world.events(hook)]


def rows_told(world):
    return [row["rowid"] for payload in payloads(world) for row in payload["results"]]


def test_a_metric_with_a_range_becomes_active_and_all_of_its_samples_are_scored(world):
    metric = world.metric()
    world.send(metric, [5.0, 6.0, 7.0])
    assert world.monitor(metric, **RANGE).status == MetricStatus.CREATE_PENDING
    world.settle()
    assert world.status(metric) is MetricStatus.ACTIVE
    assert [sample.anomaly_score for sample in world.samples(metric)] == [0.0, 0.0, 0.0]
    assert rows_told(world) == [1, 2, 3]
    told = payloads(world)[0]
    assert (told["metric"]["uid"], told["row_range"], told["tail_ts"]) == (metric.uid, [1, 3], EPOCH + 2 * STEP)


def test_while_kernels_are_being_compiled_every_model_goes_on_in_small_portions(world):
    speed = iter([False] * 7)
    slow = world.new_runner("slow", full_speed=lambda: next(speed, True))
    metrics = [world.metric(f"m{i}") for i in range(6)]
    for metric in metrics:
        world.send(metric, wave(100))
        world.monitor(metric, **RANGE)
    done = []
    for _ in range(8):
        slow.tick()
        done.append([world.now(metric).scored_rowid for metric in metrics])
    # four metrics a cycle, 32 rows of each, and who waited longest comes first
    assert done[0] == [32, 32, 32, 32, 0, 0]
    assert done[1] == [64, 64, 32, 32, 32, 32]
    assert all(sum(later) - sum(before) <= 4 * 32 for before, later in pairwise(done))
    world.settle(slow)
    assert sorted(rows_told(world)) == sorted([*range(1, 101)] * 6)
    assert len({tuple(world.scores(metric)) for metric in metrics}) == 1


def test_a_model_that_learns_its_range_scores_from_the_first_sample_on(world):
    metric = world.metric()
    assert world.monitor(metric, options={"range": "learnt"}).status == MetricStatus.CREATE_PENDING
    world.send(metric, wave(50))
    world.settle()
    assert world.now(metric).scored_rowid == 50
    world.send(metric, wave(950, start=50, spikes=[900]))
    world.settle()
    alone = AnomalyModel().score_many(wave(1000, spikes=[900]), EPOCH + STEP * np.arange(1000.0))
    assert [anomaly for _, anomaly in world.scores(metric)] == likelihood_of(alone).tolist()
    assert world.scores(metric)[900][1] > 0.99999


def test_models_of_other_workers_do_not_hide_ones_own(world):
    one, two = world.new_runner("left", page=2), world.new_runner("right", page=2)
    for runner in (one, two, one, two):
        runner._shares.beat()
    metrics = [world.metric(f"m{i}") for i in range(24)]
    for metric in metrics:
        world.monitor(metric, **RANGE)
    world.settle(two)  # the other one does nothing meanwhile
    active = {metric.id for metric in metrics if world.status(metric) is MetricStatus.ACTIVE}
    assert active == {metric.id for metric in metrics if two._shares.mine(metric.id)}
    assert 0 < len(active) < len(metrics)


def test_without_a_range_288_samples_are_awaited_and_a_fifth_is_added(world):
    metric = world.metric()
    world.send(metric, [0.0, 100.0])
    assert world.monitor(metric).status == MetricStatus.PENDING_DATA
    world.send(metric, [7000.0] * 285)
    world.settle()
    assert world.status(metric) is MetricStatus.PENDING_DATA
    world.send(metric, [7000.0])
    world.settle()
    assert world.status(metric) is MetricStatus.ACTIVE
    parameters = world.model(metric).params["detector"]["parameters"]
    assert (parameters["minimum"], parameters["maximum"]) == (-1400.0, 8400.0)
    assert [sample.anomaly_score is not None for sample in world.samples(metric)] == [True] * 288


def test_enough_samples_before_monitoring_are_used_at_once(world):
    metric = world.metric()
    world.send(metric, [5000.0] + [7000.0] * 287)
    assert world.monitor(metric).status == MetricStatus.CREATE_PENDING
    encoder = world.model(metric).params["modelConfig"]["modelParams"]["sensorParams"]["encoders"]["c1"]
    assert encoder["resolution"] == pytest.approx(2800 / 130)


def test_activation_does_not_wait_and_keeps_what_was_asked_for(world):
    metric = world.metric()
    world.monitor(metric, modelParams={"minResolution": 10, "enableClassifier": True})
    with pytest.raises(StatisticsNotReady, match="no samples"):
        world.do(lifecycle.activate, metric)
    world.send(metric, [0.0, 100.0])
    assert world.do(lifecycle.activate, metric).status == MetricStatus.CREATE_PENDING
    config = world.model(metric).params["modelConfig"]["modelParams"]
    assert config["clEnable"] is True
    assert config["sensorParams"]["encoders"]["c1"]["resolution"] >= 10
    world.settle()
    assert world.status(metric) is MetricStatus.ACTIVE
    assert world.do(lifecycle.activate, metric).status == MetricStatus.ACTIVE


def test_a_monitored_metric_is_not_monitored_twice(world):
    metric = world.metric()
    world.monitor(metric, **RANGE)
    with pytest.raises(MetricAlreadyMonitored) as caught:
        world.monitor(metric, **RANGE)
    assert caught.value.uid == metric.uid


def test_unmonitoring_takes_scores_and_model_away_and_keeps_the_samples(world):
    metric = world.metric()
    world.send(metric, wave(50))
    world.monitor(metric, **RANGE)
    world.settle()
    world.do(lifecycle.unmonitor, metric)
    world.settle()
    assert world.status(metric) is MetricStatus.UNMONITORED
    assert world.model(metric) is None
    assert world.scores(metric) == [(None, None)] * 50
    with pytest.raises(MetricNotMonitored):
        world.do(lifecycle.unmonitor, metric)


@pytest.mark.parametrize("between", [False, True], ids=["at once", "after some work"])
def test_a_metric_that_is_monitored_anew_ends_active_with_all_rows_scored(world, between):
    metric = world.metric()
    world.send(metric, wave(300))
    world.monitor(metric, **RANGE)
    world.settle()
    world.do(lifecycle.unmonitor, metric)
    if between:
        world.settle()
    world.monitor(metric, **RANGE)
    world.settle()
    assert world.status(metric) is MetricStatus.ACTIVE
    assert all(score is not None for _, score in world.scores(metric))
    assert rows_told(world) == [*range(1, 301)] * 2
    assert len(world.events("model.deleted")) == 1


def test_a_deleted_metric_leaves_nothing_and_its_name_begins_anew(world):
    metric = world.metric()
    world.send(metric, wave(20))
    world.monitor(metric, **RANGE)
    world.settle()
    world.do(lifecycle.delete, metric)
    [told] = payloads(world, "metric.deleted")
    assert (told["metric"]["uid"], told["samples"]) == (metric.uid, 20)
    world.settle()
    again = world.metric()
    assert again.uid != metric.uid
    assert world.model(metric) is None
    world.monitor(again, **RANGE)
    world.send(again, wave(5))
    world.settle()
    assert world.now(again).scored_rowid == 5


def feed(world, metric, values, sizes):
    """Send values in batches of those sizes in turn, and let each be scored."""
    at = 0
    while at < len(values):
        for size in sizes:
            world.send(metric, values[at : at + size])
            world.settle()
            at += size
            if at >= len(values):
                break


@pytest.mark.parametrize("likelihood", ["default", "table", "two_sided"])
def test_scores_do_not_depend_on_batches(world, likelihood):
    values = wave(1000, spikes=[800, 801])
    spec = RANGE | {"options": {"likelihood": likelihood}}
    found = []
    for name, sizes in (("a", [1000]), ("b", [200]), ("c", [288, 1, 1, 50, 100])):
        metric = world.metric(name)
        world.monitor(metric, **spec)
        world.settle()
        feed(world, metric, values, sizes)
        found.append(world.scores(metric))
    assert found[0] == found[1] == found[2]
    assert max(score for _, score in found[0]) > 0.99


def test_each_fit_of_a_historical_likelihood_is_told_of_once_where_somebody_asks(world):
    values = wave(400)
    metric, quiet = world.metric("loud"), world.metric("quiet")
    world.monitor(metric, **RANGE, options={"likelihood": "table"})
    world.monitor(quiet, **RANGE)
    world.settle()
    feed(world, metric, values[:150], [150])
    assert payloads(world, "likelihood.refreshed") == []  # nobody asked
    World(world.store, now_us=world.clock.us).handler("likelihood.*", "fits")
    for number, start in enumerate(range(150, 400, 50)):
        world.send(metric, values[start : start + 50])
        world.send(quiet, values[start : start + 50])
        world.clock.us += 60 * SECOND_US
        world.settle(world.new_runner(f"worker {number}"))  # replays what its predecessor learnt and told of
    told = payloads(world, "likelihood.refreshed")
    assert [payload["last_rowid"] for payload in told] == [*range(172, 401, 24)]
    assert {payload["metric"]["name"] for payload in told} == {"loud"}
    assert [payload["stdev"] == 1000 for payload in told] == [payload["last_rowid"] <= 288 for payload in told]
    known = world.model(metric).likelihood["params"]["distribution"]
    assert (told[-1]["mean"], told[-1]["stdev"]) == (known["mean"], known["stdev"])


def test_a_worker_that_is_killed_at_any_point_changes_no_score(world):
    values = wave(700, spikes=[500])
    straight, broken = world.metric("straight"), world.metric("broken")
    for metric in (straight, broken):
        world.monitor(metric, **RANGE)
    world.settle()
    feed(world, straight, values, [700])
    for number, start in enumerate(range(0, 700, 70)):
        world.send(broken, values[start : start + 70])
        world.clock.us += 60 * SECOND_US  # the predecessor's lease has run out
        world.settle(world.new_runner(f"worker {number}"))  # and is not heard of again
    assert world.scores(broken) == world.scores(straight)
    told = [
        row["rowid"]
        for payload in payloads(world)
        if payload["metric"]["name"] == "broken"
        for row in payload["results"]
    ]
    assert told == [*range(1, 701)]


class DyingStore:
    """Commits or rolls back, and then lets the process seem to die."""

    def __init__(self, store, *, commits: bool) -> None:
        self._store, self._commits = store, commits
        self.armed = False

    def __getattr__(self, name):
        return getattr(self._store, name)

    def begin(self):
        return _Dying(self._store.begin(), self) if self.armed else self._store.begin()


class _Dying:
    def __init__(self, inner, store) -> None:
        self._inner, self._store = inner, store

    def __enter__(self):
        return self._inner.__enter__()

    def __exit__(self, *exc):
        if self._store._commits:
            self._inner.__exit__(*exc)
        else:
            error = KeyboardInterrupt()
            with contextlib.suppress(KeyboardInterrupt):
                self._inner.__exit__(type(error), error, None)
        raise KeyboardInterrupt


@pytest.mark.parametrize("commits", [False, True], ids=["before the commit", "after the commit"])
def test_dying_around_the_commit_loses_and_doubles_nothing(world, commits):
    values = wave(400)
    straight, broken = world.metric("straight"), world.metric("broken")
    for metric in (straight, broken):
        world.monitor(metric, **RANGE)
    world.settle()
    feed(world, straight, values, [400])
    for number, start in enumerate(range(0, 400, 50)):
        world.send(broken, values[start : start + 50])
        world.clock.us += 60 * SECOND_US
        runner = world.new_runner(f"worker {number}")
        runner.tick()  # takes its shares
        store = runner._store = DyingStore(world.store, commits=commits)
        store.armed = world.now(broken).scored_rowid < world.now(broken).last_rowid
        if store.armed:
            with pytest.raises(KeyboardInterrupt):
                runner.tick()
    world.clock.us += 60 * SECOND_US
    world.settle(world.new_runner("last"))
    assert world.scores(broken) == world.scores(straight)
    told = [
        row["rowid"]
        for payload in payloads(world)
        if payload["metric"]["name"] == "broken"
        for row in payload["results"]
    ]
    assert told == [*range(1, 401)]


def test_little_memory_only_costs_time(world):
    values = wave(420, spikes=[400])
    metrics = [world.metric(f"m{i}") for i in range(6)]
    for metric in metrics:
        world.monitor(metric, **RANGE)
    small = world.new_runner("small", memory=500_000)
    world.clock.us += 60 * SECOND_US
    world.settle(small)
    for start in range(0, 420, 30):
        for metric in metrics:
            world.send(metric, values[start : start + 30])
        world.settle(small)
        assert small.loaded == 1
    scorer = Scorer.new(world.model(metrics[0]).params["detector"])
    times = np.array([sample.time_us for sample in world.samples(metrics[0])])
    expected = scorer.score(np.array(values), times)
    for metric in metrics:
        assert world.scores(metric) == list(zip(expected.raw.tolist(), expected.anomaly.tolist(), strict=True))


def damage(world, metric, data=b"EPMODEL\x01 but nothing more"):
    with world.store.begin() as tx:
        found = tx.models.checkpoints([metric.id])[metric.id]
        tx.models.put_checkpoints(
            [type(found)(metric_id=metric.id, model_id=found.model_id, rowid=found.rowid, data=data)]
        )


def restarted(world):
    world.clock.us += 60 * SECOND_US
    return world.new_runner("restarted")


def test_a_damaged_checkpoint_is_made_again_from_the_samples(world):
    metric, straight = world.metric("damaged"), world.metric("straight")
    for one in (metric, straight):
        world.monitor(one, **RANGE)
        world.send(one, wave(500))
    world.settle()
    damage(world, metric)
    world.send(metric, wave(50, start=500, spikes=[530]))
    world.send(straight, wave(50, start=500, spikes=[530]))
    world.settle(restarted(world))
    assert world.status(metric) is MetricStatus.ACTIVE
    assert world.scores(metric) == world.scores(straight)


def test_a_damaged_checkpoint_without_its_samples_is_an_error_with_a_way_out(world):
    metric = world.metric()
    world.monitor(metric, **RANGE)
    world.send(metric, wave(500))
    world.settle()
    damage(world, metric)
    with world.store.begin() as tx:
        while tx.samples.prune((EPOCH + 100 * STEP) * SECOND_US, limit=1000):
            pass
    world.send(metric, wave(10, start=500))
    runner = restarted(world)
    world.settle(runner)
    assert world.status(metric) is MetricStatus.ERROR
    assert "retry --fresh" in world.model(metric).message
    before = [sample for sample in world.samples(metric) if sample.rowid <= 500]
    world.send(metric, wave(10, start=510))
    world.do(lifecycle.retry, metric, fresh=True)
    world.settle(runner)
    assert world.status(metric) is MetricStatus.ACTIVE
    after = world.samples(metric)
    assert [sample for sample in after if sample.rowid <= 500] == before
    assert all(sample.anomaly_score is not None for sample in after if sample.rowid > 500)


class Moody:
    """A detector that fails as long as it is told to."""

    kind = "moody"
    failing = True
    nan_at = math.inf

    def __init__(self) -> None:
        self.seen = 0

    def process_one(self, x, t=None):
        if type(self).failing:
            raise RuntimeError("not today")
        self.seen += 1
        reading = AnomalyModel().ask_one(x, t)
        score = math.nan if self.seen == type(self).nan_at else 0.25
        return type(reading)(score=score, actual=x, strength=0.5)


@pytest.fixture
def moody(monkeypatch):
    from eventproc.models import scorer, specs

    monkeypatch.setattr(Moody, "failing", True)
    monkeypatch.setattr(Moody, "nan_at", math.inf)
    find = scorer._class_of
    monkeypatch.setattr(scorer, "_class_of", lambda name: Moody if name == "moody" else find(name))
    monkeypatch.setattr(specs, "known_detectors", lambda: ["default", "moody"])
    return Moody


def test_a_model_that_keeps_failing_rests_ever_longer_and_ends_in_error_that_retry_leads_out_of(world, moody):
    metric, neighbour = world.metric("moody"), world.metric("neighbour")
    world.monitor(metric, options={"detector": "moody"}, **RANGE)
    world.monitor(neighbour, **RANGE)
    world.send(metric, wave(20))
    world.send(neighbour, wave(20))
    rests = []
    for _ in range(100):
        if world.status(metric) is MetricStatus.ERROR:
            break
        world.settle()
        model = world.model(metric)
        if model.retry_us is not None:
            rests.append(model.retry_us - world.clock.us)
            world.clock.us = model.retry_us
    assert world.status(metric) is MetricStatus.ERROR
    assert "not today" in world.model(metric).message
    assert rests == sorted(set(rests))
    assert world.now(neighbour).scored_rowid == 20
    world.send(metric, wave(5, start=20))  # stored all the same
    moody.failing = False
    world.do(lifecycle.retry, metric)
    world.settle()
    assert world.status(metric) is MetricStatus.ACTIVE
    assert [score for _, score in world.scores(metric)] == [0.25] * 25
    assert world.model(metric).message is None
    with pytest.raises(Conflict, match="not in ERROR"):
        world.do(lifecycle.retry, metric)


def test_results_that_can_not_be_written_for_a_fault_of_ours_cost_their_own_metric_only(world, monkeypatch):
    make = messages.batch_event

    def faulty(metric, *args, **kwargs):
        if metric.name == "broken":
            raise TypeError("a fault of the platform")
        return make(metric, *args, **kwargs)

    monkeypatch.setattr(messages, "batch_event", faulty)
    broken, neighbour = world.metric("broken"), world.metric("neighbour")
    for metric in (broken, neighbour):
        world.monitor(metric, **RANGE)
        world.send(metric, wave(20))
    world.settle()
    assert world.now(neighbour).scored_rowid == 20
    assert (world.now(broken).scored_rowid, world.model(broken).failures) == (0, 1)
    assert "a fault of the platform" in world.model(broken).message
    monkeypatch.undo()
    world.clock.us = world.model(broken).retry_us
    world.settle()
    assert (world.now(broken).scored_rowid, world.model(broken).failures) == (20, 0)


def test_a_row_without_a_number_is_refused_by_itself(world, moody):
    moody.failing, moody.nan_at = False, 3
    metric = world.metric()
    world.monitor(metric, options={"detector": "moody"}, **RANGE)
    world.send(metric, wave(5))
    world.settle()
    assert [score for _, score in world.scores(metric)] == [0.25, 0.25, None, 0.25, 0.25]
    assert rows_told(world) == [1, 2, 4, 5]
    assert [(told["reason"], told["rowids"]) for told in payloads(world, "inference.batch_rejected")] == [
        ("the detector gave no number", [3])
    ]


def test_a_model_that_can_not_be_made_is_told_of_and_can_be_tried_again(world, monkeypatch):
    metric = world.metric()
    world.monitor(metric, **RANGE)
    with monkeypatch.context() as patched:

        def broken(_params, _uploads=None):
            raise RuntimeError("no such thing")

        patched.setattr("eventproc.models.runner.Scorer.new", broken)
        world.settle()
    assert world.status(metric) is MetricStatus.ERROR
    assert "no such thing" in world.model(metric).message
    assert len(world.events("model.define_failed")) == 1
    message = messages.unpack(world.outgoing()[-1].body)
    assert (message["method"], message["status"]) == ("defineModel", 1)
    assert "modelInfo" not in message
    world.send(metric, wave(5))
    world.do(lifecycle.retry, metric)
    world.settle()
    assert world.status(metric) is MetricStatus.ACTIVE
    assert world.now(metric).scored_rowid == 5


def test_messages_of_the_results_exchange_have_exactly_the_known_fields(world):
    metric = world.metric(resource="web-1")
    world.monitor(metric, **RANGE)
    world.send(metric, [5.0])
    world.settle()
    world.do(lifecycle.unmonitor, metric)
    define, inference, delete = [messages.unpack(one.body) for one in world.outgoing()]
    model_spec = {"datasource": "custom", "metricSpec": {"metric": "cpu"}, **RANGE}
    assert define == {
        "method": "defineModel",
        "modelId": metric.uid,
        "commandId": define["commandId"],
        "status": 0,
        "errorMessage": None,
        "modelInfo": {"metricName": "cpu", "resource": "web-1", "modelSpec": model_spec},
    }
    assert inference == {
        "metric": {
            "uid": metric.uid,
            "name": "cpu",
            "description": "Custom metric cpu",
            "resource": "web-1",
            "location": "",
            "datasource": "custom",
            "spec": {"metric": "cpu"},
        },
        "results": [
            {
                "rowid": 1,
                "ts": EPOCH,
                "value": 5.0,
                "rawAnomaly": 1.0,
                "anomaly": 0.0,
                "multiStepBestPredictions": None,
            }
        ],
    }
    assert set(delete) == {"method", "modelId", "commandId", "status", "errorMessage"}
    kinds = [one.headers.get("header.dataType") for one in world.outgoing()]
    assert kinds == ["model-cmd-result", None, "model-cmd-result"]


def test_two_workers_share_the_metrics_and_a_dead_ones_part_is_taken_over(world):
    metrics = [world.metric(f"m{i}") for i in range(20)]
    for metric in metrics:
        world.monitor(metric, **RANGE)
    one, two = world.new_runner("left"), world.new_runner("right")
    for _ in range(3):
        world.clock.us += 6 * SECOND_US
        one.tick()
        two.tick()
    assert {len(one._shares.tokens), len(two._shares.tokens)} == {32}
    for metric in metrics:
        world.send(metric, wave(10))
    world.settle(one)
    world.settle(two)
    assert one.rows_scored + two.rows_scored == 200
    assert min(one.rows_scored, two.rows_scored) >= 80
    for metric in metrics:
        world.send(metric, wave(10, start=10))
    for _ in range(5):
        world.clock.us += 6 * SECOND_US  # the other one is dead
        one.tick()
    world.settle(one)
    assert all(world.now(metric).scored_rowid == 20 for metric in metrics)


def test_a_worker_that_lost_its_share_writes_nothing(world):
    metric = world.metric()
    world.monitor(metric, **RANGE)
    frozen = world.new_runner("frozen")
    world.clock.us += 60 * SECOND_US
    frozen.tick()
    world.send(metric, wave(10))
    with world.store.begin() as tx:  # it stands still for so long that another takes everything
        tx.models.leave("frozen")
        tx.models.take("other", wanted=64, until_us=world.clock.us + 10**9, now_us=world.clock.us)
    frozen.tick()
    assert world.now(metric).scored_rowid == 0
    assert world.events("inference.batch_done") == []


def test_live_metrics_do_not_wait_for_a_backlog(world):
    late = [world.metric(f"late{i}") for i in range(30)]
    live = world.metric("live")
    for metric in (*late, live):
        world.monitor(metric, **RANGE)
    world.settle()
    for metric in late:
        world.send(metric, wave(2000))
    world.send(live, wave(1))
    world.runner.tick()
    assert world.now(live).scored_rowid == 1
    assert sum(world.now(metric).scored_rowid for metric in late) < 30 * 2000


def test_every_late_metric_gets_its_turn(world):
    late = [world.metric(f"late{i}") for i in range(30)]
    live = world.metric("live")
    for metric in (*late, live):
        world.monitor(metric, **RANGE)
    world.settle()
    for metric in late:
        world.send(metric, wave(1000))
    for turn in range(6):
        world.send(live, wave(1, start=turn))
        world.runner.tick()
    assert all(world.now(metric).scored_rowid > 0 for metric in late)
