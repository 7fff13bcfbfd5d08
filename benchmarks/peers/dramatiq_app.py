"""Dramatiq on RabbitMQ."""

import os

import dramatiq
import job
from dramatiq.brokers.rabbitmq import RabbitmqBroker

broker = RabbitmqBroker(url=os.environ["BENCH_BROKER"])
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"])
def noop(sent_ns, payload):  # noqa: ARG001  # the payload travels, nobody reads it
    job.ran(sent_ns)


send = noop.send
