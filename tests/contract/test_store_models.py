"""Models, checkpoints and shares of workers: one suite over every store."""

from __future__ import annotations

import threading

import pytest
from models_world import ModelsWorld, wave

from eventproc.errors import Conflict
from eventproc.model.anomaly import SHARDS, Checkpoint, NewModel
from eventproc.models import lifecycle
from eventproc.store import open_store


def new(metric_id, **values):
    given = {"spec": {"a": 1}, "params": {"b": 2}, "command_id": "c"} | values
    return NewModel(metric_id=metric_id, **given)


def test_a_model_is_stored_once_per_metric_and_found_again(store):
    with store.begin() as tx:
        first = tx.models.put(new(7), now_us=5)
        tx.models.put(new(3, params=None), now_us=5)
    with pytest.raises(Conflict), store.begin() as tx:
        tx.models.put(new(7), now_us=6)
    with store.read() as tx:
        assert tx.models.of_metric(7) == first
        assert set(tx.models.of_metrics([3, 7, 9])) == {3, 7}
        assert [model.metric_id for model in tx.models.page(after=3)] == [7]
        assert [model.metric_id for model in tx.models.undefined(now_us=5)] == [7]


def test_failures_are_counted_and_forgotten(store):
    with store.begin() as tx:
        tx.models.put(new(1), now_us=5)
        tx.models.failed(1, message="no", retry_us=100)
        tx.models.failed(1, message="still no", retry_us=200)
        assert tx.models.undefined(now_us=199) == []
        assert len(tx.models.undefined(now_us=200)) == 1
        found = tx.models.of_metric(1)
        assert (found.failures, found.message, found.retry_us) == (2, "still no", 200)
        tx.models.settle([1])
        found = tx.models.of_metric(1)
        assert (found.failures, found.message, found.retry_us) == (0, None, None)


def test_a_model_that_begins_anew_is_another_one_without_checkpoint(store):
    with store.begin() as tx:
        before = tx.models.put(new(1), now_us=5)
        tx.models.set_defined(1, now_us=6)
        tx.models.put_checkpoints([Checkpoint(metric_id=1, model_id=before.id, rowid=4, data=b"x")])
        tx.models.begin_anew(1, origin_rowid=9)
        after = tx.models.of_metric(1)
        assert after.id != before.id
        assert (after.origin_rowid, after.defined_us, after.spec) == (9, 6, before.spec)
        assert tx.models.checkpoints([1]) == {}


def test_checkpoints_are_replaced_and_go_with_their_model(store):
    with store.begin() as tx:
        model = tx.models.put(new(1), now_us=5)
        for rowid, data in ((10, b"old"), (20, b"newer")):
            tx.models.put_checkpoints([Checkpoint(metric_id=1, model_id=model.id, rowid=rowid, data=data)])
        assert tx.models.checkpoints([1, 2])[1].data == b"newer"
        assert tx.models.checkpoint_sizes([1]) == {1: (20, 5)}
        assert tx.models.delete(1)
        assert not tx.models.delete(1)
        assert tx.models.checkpoints([1]) == {}


def test_likelihoods_are_written_together(store):
    with store.begin() as tx:
        for metric_id in (1, 2):
            tx.models.put(new(metric_id), now_us=5)
        tx.models.set_likelihoods([(1, {"x": 1}), (2, {"x": 2}), (3, {"x": 3})])
        assert [tx.models.of_metric(i).likelihood for i in (1, 2)] == [{"x": 1}, {"x": 2}]


def test_shares_change_hands_with_a_new_token_only_when_free(store):
    with store.begin() as tx:
        assert tx.models.beat("a", alive_us=100, now_us=1000) == 1
        first = tx.models.take("a", wanted=SHARDS, until_us=1100, now_us=1000)
        assert len(first) == SHARDS
        assert tx.models.beat("b", alive_us=100, now_us=1000) == 2
        assert tx.models.take("b", wanted=5, until_us=1100, now_us=1000) == []
        tx.models.give("a", [3])
        (taken,) = tx.models.take("b", wanted=5, until_us=1100, now_us=1000)
        assert (taken.shard, taken.token) == (3, first[3].token + 1)
        assert tx.models.held("a", [(3, first[3].token), (4, first[4].token)]) == {4}
        assert tx.models.held("b", [(3, taken.token)]) == {3}
        assert tx.models.shares() == {"a": SHARDS - 1, "b": 1}
        tx.models.leave("b")
        assert tx.models.beat("a", alive_us=100, now_us=1050) == 1


def test_what_a_silent_worker_held_is_free_after_its_lease(store):
    with store.begin() as tx:
        tx.models.beat("a", alive_us=100, now_us=1000)
        tx.models.take("a", wanted=SHARDS, until_us=1100, now_us=1000)
        assert tx.models.take("b", wanted=SHARDS, until_us=1300, now_us=1100) == []
        assert len(tx.models.take("b", wanted=SHARDS, until_us=1300, now_us=1101)) == SHARDS
        assert tx.models.prolong("a", until_us=1400) == []


def test_workers_of_one_database_never_hold_the_same_share(store_url):
    taken = {}
    start = threading.Barrier(4)

    def work(name):
        opened = open_store(store_url)
        start.wait()
        with opened.begin() as tx:
            tx.models.beat(name, alive_us=10**9, now_us=1000)
        with opened.begin() as tx:
            taken[name] = {one.shard for one in tx.models.take(name, wanted=20, until_us=10**9, now_us=1000)}
        opened.close()

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(shards) for shards in taken.values()) == len(set.union(*taken.values())) == SHARDS


def test_models_are_scored_on_every_store(store):
    world = ModelsWorld(store, exchange="results")
    metrics = [world.metric(f"m{i}") for i in range(3)]
    for metric in metrics:
        world.monitor(metric, modelParams={"min": 0, "max": 100}, options={"likelihood": "table"})
        world.send(metric, wave(150))
    world.settle()
    assert world.scores(metrics[0]) == world.scores(metrics[1])
    assert all(world.now(metric).scored_rowid == 150 for metric in metrics)
    assert world.model(metrics[0]).likelihood["last_rowid_for_stats"] >= 100
    world.do(lifecycle.delete, metrics[0])
    world.settle()
    assert len(world.events("inference.batch_done")) == 3
