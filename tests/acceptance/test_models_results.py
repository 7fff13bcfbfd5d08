"""Results on a real broker, as htmengine's consumers read them."""

from __future__ import annotations

import contextlib
import json
import zlib

import pika
import pytest
from models_world import EPOCH, wave
from servers import rabbitmq_server
from waiting import wait_until

pytestmark = pytest.mark.external_service

EXCHANGE = "eventproc.model.results"


@pytest.fixture(scope="module")
def rabbitmq():
    with rabbitmq_server() as server:
        yield server


def test_consumers_bound_to_the_results_exchange_get_every_result_also_after_the_broker_was_away(rabbitmq, serve):
    served = serve(EVENTPROC_BROKER_URL=rabbitmq.url)
    with consumer(rabbitmq) as arriving:
        conn = served.connect()
        uid = conn.monitor("cpu", min=0, max=100, resource="web-1", predictions=True)["uid"]
        conn.import_model({"metricSpec": {"metric": "later"}, "modelParams": {"min": 0, "max": 100}, "data": data(700)})
        wait_until(lambda: scored(arriving) == [*range(1, 701)], timeout_s=90, what="all results of `later`")
        received = list(arriving)
    kinds = [(headers.get("dataType"), body.get("method")) for headers, body in received]
    assert kinds.count(("model-cmd-result", "defineModel")) == 2
    (define,) = [body for headers, body in received if body.get("modelId") == uid]
    assert set(define) == {"method", "modelId", "commandId", "status", "errorMessage", "modelInfo"}
    results = [(headers, body) for headers, body in received if "results" in body]
    for headers, body in results:
        assert "dataType" not in headers
        assert set(body) == {"metric", "results"}
        assert set(body["results"][0]) == {
            "rowid",
            "ts",
            "value",
            "rawAnomaly",
            "anomaly",
            "multiStepBestPredictions",
        }
    rabbitmq.kill()
    conn.unmonitor("cpu")  # while nobody is there to be told
    rabbitmq.start()
    with consumer(rabbitmq) as late:
        wait_until(
            lambda: any(body.get("method") == "deleteModel" for _, body in late), timeout_s=120, what="deleteModel"
        )
        assert {body["modelId"] for _, body in late if "modelId" in body} == {uid}


def data(count):
    return [[value, EPOCH + 300 * i] for i, value in enumerate(wave(count))]


def scored(received):
    return [row["rowid"] for _, body in list(received) if "results" in body for row in body["results"]]


class Received(list):
    """Messages as they come: looking at the list fetches what has arrived."""

    def __init__(self, channel, queue) -> None:
        super().__init__()
        self._channel, self._queue = channel, queue

    def __iter__(self):
        while True:
            method, properties, body = self._channel.basic_get(self._queue, auto_ack=True)
            if method is None:
                return super().__iter__()
            self.append((properties.headers or {}, json.loads(zlib.decompress(body))))


@contextlib.contextmanager
def consumer(rabbitmq):
    """Bind a durable queue of one's own to the exchange, as htmengine's documentation tells consumers to."""
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
        channel = connection.channel()
        channel.exchange_declare(EXCHANGE, exchange_type="fanout", durable=True)
        channel.queue_declare("results", durable=True)
        channel.queue_bind("results", EXCHANGE, routing_key="")
        yield Received(channel, "results")
