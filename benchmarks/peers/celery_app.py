"""Celery on RabbitMQ."""

import os

import job
from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_default_queue=os.environ["BENCH_QUEUE"],
    task_ignore_result=True,
    task_acks_late=os.environ.get("BENCH_LATE") == "1",
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="noop")
def noop(sent_ns, payload):  # noqa: ARG001  # the payload travels, nobody reads it
    job.ran(sent_ns)


send = noop.delay
