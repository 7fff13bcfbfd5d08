"""Dramatiq on RabbitMQ."""

import os

import dramatiq
import job
from dramatiq.brokers.rabbitmq import RabbitmqBroker

broker = RabbitmqBroker(url=os.environ["BENCH_BROKER"])
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"])
def noop(sent_ns, payload):
    job.ran(sent_ns)


if __name__ == "__main__":
    job.main(lambda sent_ns, payload: noop.send(sent_ns, payload))
