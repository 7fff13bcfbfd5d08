"""Huey on SQLite."""

import os

import job
from huey import SqliteHuey

# fsync: huey's own default is False, which means PRAGMA synchronous=OFF... the benchmark names what it uses.
huey = SqliteHuey("bench", filename=os.environ["BENCH_DB"], results=False, fsync=os.environ["BENCH_FSYNC"] == "1")


@huey.task()
def noop(sent_ns, payload):
    job.ran(sent_ns)


if __name__ == "__main__":
    job.main(lambda sent_ns, payload: noop(sent_ns, payload))
