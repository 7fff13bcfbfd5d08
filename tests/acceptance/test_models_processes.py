"""Two processes that score, on each database: they share the metrics, and one does the other's part when that dies."""

from __future__ import annotations

import pytest
from models_world import EPOCH, wave
from servers import postgres_server
from serving import command_line, kill, parents_of_all
from waiting import wait_until

SPEC = {"modelParams": {"min": 0, "max": 100}}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.external_service)])
def served(request, serve):
    settings = {"EVENTPROC_MODELS__PROCESSES": "2", "EVENTPROC_MODELS__LEASE": "2s"}
    if request.param == "sqlite":
        yield serve(**settings)
        return
    with postgres_server() as server:
        platform = serve(EVENTPROC_DATABASE_URL=server.url(server.create()), **settings)
        yield platform
        platform.close()


def pids(served):
    return [pid for pid in parents_of_all() if command_line(pid)[-2:] == ["--role", "models"] and pid in served.tree()]


def results(conn, name):
    events = conn.events(hook="inference.batch_done", limit=100_000)
    payloads = [event["payload"] for event in reversed(list(events)) if event["payload"]["metric"]["name"] == name]
    return [(row["rowid"], row["raw_score"], row["anomaly"]) for payload in payloads for row in payload["results"]]


def test_two_processes_share_the_metrics_and_one_is_killed(served):
    conn = served.connect()
    wait_until(lambda: sorted(conn.models_status()["workers"].values()) == [32, 32], what="equal shares")
    values = wave(600, spikes=[500])
    data = [[value, EPOCH + 300 * i] for i, value in enumerate(values)]
    names = [f"m{i}" for i in range(8)]
    for number, name in enumerate(names):
        conn.import_model({"metricSpec": {"metric": name}, "data": data, **SPEC})
        if number == 3:
            kill(pids(served)[0])
    wait_until(
        lambda: all(conn.model(name)["scored_rowid"] == 600 for name in names), timeout_s=120, what="all to be scored"
    )
    found = [results(conn, name) for name in names]
    assert [row[0] for row in found[0]] == [*range(1, 601)]
    assert all(rows == found[0] for rows in found)
    wait_until(lambda: len(pids(served)) == 2, what="the killed one to be back")
    wait_until(lambda: sorted(conn.models_status()["workers"].values()) == [32, 32], what="equal shares again")
