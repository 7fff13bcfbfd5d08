"""An application of htmengine runs after changing its imports: the flow of its tutorial, on a running platform."""

from __future__ import annotations

import calendar
import datetime as dt
import json
import zlib

import pytest
from waiting import wait_until

from eventproc.compat.htmengine import htmengineerrno, repository, session
from eventproc.compat.htmengine.adapters.datasource import (
    createCustomDatasourceAdapter,
    createDatasourceAdapter,
    listDatasourceNames,
)
from eventproc.compat.htmengine.exceptions import (
    MetricAlreadyExists,
    MetricAlreadyMonitored,
    MetricStatisticsNotReadyError,
    ObjectNotFoundError,
)
from eventproc.compat.htmengine.repository import schema
from eventproc.compat.htmengine.runtime.anomaly_service import AnomalyService
from eventproc.compat.nta.utils import message_bus_connector
from eventproc.compat.nta.utils.config import Config

START = 1386201600

APPLICATION = """
[repository]
db = skeleton
host = 127.0.0.1

[metric_streamer]
results_exchange_name = skeleton.model.results
chunk_size = 1440

[metric_listener]
plaintext_port = 2003
queue_name = skeleton.metric.custom.data
"""


@pytest.fixture
def app_config(tmp_path):
    (tmp_path / "application.conf").write_text(APPLICATION)
    return Config("application.conf", str(tmp_path))


@pytest.fixture
def application(serve, monkeypatch, app_config):
    """The tutorial's web application: PUT creates a model, POST sends samples, GET reads rows."""
    served = serve()
    monkeypatch.setenv("EVENTPROC_ENDPOINTS", served.endpoints["http"])
    monkeypatch.setenv("EVENTPROC_API_KEY", served.key)
    session.disconnect()
    yield Application(app_config)
    session.disconnect()


class Application:
    """Written as the tutorial's webapp is."""

    def __init__(self, config) -> None:
        self.config = config
        self.queue = config.get("metric_listener", "queue_name")
        self.bus = message_bus_connector.MessageBusConnector()

    def put(self, metric: str, body: str) -> str:
        model_spec = {"datasource": "custom", "metricSpec": {"metric": metric}, "modelParams": {}}
        model_spec["modelParams"].update(json.loads(body))
        adapter = createDatasourceAdapter(model_spec["datasource"])
        try:
            return f"Created {adapter.monitorMetric(model_spec)}"
        except MetricAlreadyMonitored:
            return f"Model already exists for {metric}"

    def post(self, metric: str, lines: list[str]) -> list[str]:
        said = []
        for line in lines:
            value, ts = line.split(" ")
            point = f"{metric} {float(value)!r} {int(ts)}"
            self.bus.publish(
                mqName=self.queue, body=json.dumps({"protocol": "plain", "data": [point]}), persistent=True
            )
            said.append(f"Saved {metric} {float(value):f} @ {int(ts)}")
        return said

    def get(self, metric: str) -> list[str]:
        with repository.engineFactory(self.config).connect() as conn:
            c = schema.metric_data.c
            found = repository.getCustomMetricByName(conn, metric, fields=[schema.metric.c.uid])
            rows = repository.getMetricData(
                conn,
                metricId=found.uid,
                fields=(c.metric_value, c.timestamp, c.rowid, c.anomaly_score),
                sort=c.timestamp.asc(),
            )
            return [
                f"{metric} {row.metric_value} {calendar.timegm(row.timestamp.timetuple())} {row.anomaly_score}"
                for row in rows
            ]


def test_the_tutorial_s_flow(application):
    metric = "/load_average"  # its metrics' names begin with a slash
    assert (
        application.post(metric, ["1.5 1386201600", "1.25 1386201900"])[0]
        == "Saved /load_average 1.500000 @ 1386201600"
    )
    assert application.get(metric) == ["/load_average 1.5 1386201600 None", "/load_average 1.25 1386201900 None"]
    created = application.put(metric, '{"min": 0, "max": 12}')
    assert created.startswith("Created ")
    assert application.put(metric, "{}") == "Model already exists for /load_average"
    application.post(metric, [f"{n}.5 {START + 600 + 300 * n}" for n in range(8)])
    wait_until(lambda: all(not line.endswith("None") for line in application.get(metric)), what="scores", timeout_s=180)
    assert application.get(metric)[0] == "/load_average 1.5 1386201600 0.0"
    with repository.engineFactory(application.config).connect() as conn:
        uid = created.split()[1]
        assert repository.getMetric(conn, uid).status == repository.MetricStatus.ACTIVE
        assert repository.getMetric(conn, uid).server == metric
        rows = repository.getMetricData(conn, uid, start=3, stop=5, sort=schema.metric_data.c.rowid.desc())
        assert [row.rowid for row in rows] == [5, 4, 3]
        since = dt.datetime(2013, 12, 5, 0, 40)  # noqa: DTZ001 - as htmengine has times
        assert [row.rowid for row in repository.getMetricData(conn, uid, fromTimestamp=since)] == [9, 10]
        assert repository.getMetricData(conn, uid, rowid=2)[0].metric_value == 1.25
        assert repository.getMetricStats(conn, uid) == {"min": 0.5, "max": 7.5}
        assert repository.getProcessedMetricDataCount(conn, uid) == 10
        assert repository.getMetricData(conn, uid, limit=1)[0].timestamp == dt.datetime(2013, 12, 5)  # noqa: DTZ001
        with pytest.raises(ValueError, match="exclude one another"):
            repository.getMetricData(conn, uid, rowid=1, start=2)


def test_the_adapter_s_errors_and_the_round_trip_of_a_model(application):
    adapter = createCustomDatasourceAdapter()
    uid = adapter.createMetric("cpu_percent")
    with pytest.raises(MetricAlreadyExists) as found:
        adapter.createMetric("cpu_percent")
    assert found.value.uid == uid
    spec = {"datasource": "custom", "metricSpec": {"uid": uid, "resource": "box"}, "modelParams": {"min": 0}}
    with pytest.raises(ValueError, match="min and max params must both be None or non-None"):
        adapter.monitorMetric(spec)
    spec["modelParams"] = {}
    assert adapter.monitorMetric(spec) == uid
    with pytest.raises(MetricAlreadyMonitored) as monitored:
        adapter.monitorMetric(spec)
    assert monitored.value.uid == uid
    with pytest.raises(MetricStatisticsNotReadyError):
        adapter.activateModel(uid)
    now = int(dt.datetime.now(dt.UTC).timestamp())
    application.post("cpu_percent", [f"0 {now - 600}", f"100 {now - 300}"])
    adapter.activateModel(uid)
    exported = adapter.exportModel(uid)
    assert exported["metricSpec"] == {"metric": "cpu_percent", "resource": "box"}
    assert [value for value, _ in exported["data"]] == [0.0, 100.0]
    assert adapter.getInstanceNameForModelSpec(exported) == "box"
    adapter.deleteMetricByName("cpu_percent")
    with pytest.raises(ObjectNotFoundError):
        adapter.unmonitorMetric(uid)
    again = adapter.importModel(exported)
    assert again != uid
    assert [value for value, _ in adapter.exportModel(again)["data"]] == [0.0, 100.0]
    adapter.unmonitorMetric(again)
    with repository.engineFactory().connect() as conn:
        row = repository.getMetric(conn, again)
        assert (row.status, row.parameters, row.model_params) == (0, None, None)
    with pytest.raises(NotImplementedError, match="not-supported"):
        adapter.getMatchingResources({})
    with pytest.raises(ObjectNotFoundError, match="there is no datasource 'cloudwatch'"):
        createDatasourceAdapter("cloudwatch")
    assert listDatasourceNames() == ("custom",)


def test_messages_of_the_results_exchange_are_read_also_those_without_predictions():
    message = {"metric": {"uid": "u", "name": "n"}, "results": [{"rowid": 1, "ts": 1, "value": 2, "anomaly": 0.5}]}
    read = AnomalyService.deserializeModelResult(zlib.compress(json.dumps(message).encode()))
    assert read["results"][0]["multiStepBestPredictions"] is None
    assert htmengineerrno.SUCCESS == 0


def test_configuration_files_with_overrides_and_environment(tmp_path, app_config, monkeypatch):
    assert app_config.getint("metric_streamer", "chunk_size") == 1440
    writable = Config("application.conf", str(tmp_path), mode=Config.MODE_OVERRIDE_ONLY)
    writable.set("metric_streamer", "chunk_size", "7")
    writable.save()
    app_config.loadConfig()
    assert app_config.getint("metric_streamer", "chunk_size") == 7
    assert app_config.get("repository", "db") == "skeleton"
    assert (
        Config("application.conf", str(tmp_path), mode=Config.MODE_BASELINE).getint("metric_streamer", "chunk_size")
        == 1440
    )
    monkeypatch.setenv("_NTA_UTILS_CONFIG__APPLICATION__METRIC_STREAMER__CHUNK_SIZE", "9")
    assert app_config.getint("metric_streamer", "chunk_size") == 9
    assert dict(app_config.items("metric_streamer"))["chunk_size"] == "9"
    monkeypatch.delenv("_NTA_UTILS_CONFIG__APPLICATION__METRIC_STREAMER__CHUNK_SIZE")
    writable.clearAllConfigOverrides()
    app_config.loadConfig()
    assert app_config.getint("metric_streamer", "chunk_size") == 1440
    with pytest.raises(ValueError, match="only overrides can be changed"):
        app_config.set("repository", "db", "other")


@pytest.mark.parametrize("body", ["{", '{"protocol": "pickle", "data": []}', '{"data": ["a 1 1"]}', "[]"])
def test_a_message_that_holds_no_samples_is_refused_by_itself(body):
    with pytest.raises(message_bus_connector.MessageQueueNotFound):
        message_bus_connector.MessageBusConnector().publish(mqName="q", body=body, persistent=True)
