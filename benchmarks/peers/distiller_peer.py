"""Runs inside the peers' interpreter: stackdistiller and timex on the same work; prints operations per second."""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
import warnings

warnings.simplefilter("ignore")

import timex  # noqa: E402
import yaml  # noqa: E402
from stackdistiller.distiller import Distiller  # noqa: E402


def main() -> None:
    definitions, notifications, expression, count = sys.argv[1:]
    with open(definitions) as file:  # noqa: PTH123
        distiller = Distiller(yaml.safe_load(file))
    with open(notifications) as file:  # noqa: PTH123
        bodies = [json.loads(line) for line in file]
    began = time.perf_counter()
    for body in bodies:
        distiller.to_event(body)
    distilled = len(bodies) / (time.perf_counter() - began)
    now = dt.datetime(2015, 2, 27, 12)  # noqa: DTZ001
    began = time.perf_counter()
    for _ in range(int(count)):
        timex.parse(expression)(timestamp=now)
    evaluated = int(count) / (time.perf_counter() - began)
    print(json.dumps({"distilled": distilled, "evaluated": evaluated}))


main()
