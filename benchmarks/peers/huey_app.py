"""Huey on SQLite."""

import os

import job
from huey import SqliteHuey

# fsync=True is what SQLite does where nothing is said (synchronous=FULL), False is synchronous=OFF.
huey = SqliteHuey("bench", filename=os.environ["BENCH_DB"], results=False, fsync=os.environ["BENCH_FSYNC"] == "1")


@huey.task()
def noop(sent_ns, payload):  # noqa: ARG001  # the payload travels, nobody reads it
    job.ran(sent_ns)


send = noop
