"""The datasource adapter: metrics and their models by htmengine's names and exceptions."""

# ruff: noqa: N802, N803 - htmengine's own names
from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from eventproc.compat.htmengine.exceptions import ObjectNotFoundError, translated
from eventproc.compat.htmengine.session import connection

CUSTOM = "custom"


class CustomDatasourceAdapter:
    """Metrics that samples are sent for."""

    def createMetric(self, metricName: str) -> str:
        """Create a metric and return its uid. Raises MetricAlreadyExists, which has its uid."""
        with translated():
            return str(connection().create_metric(metricName)["uid"])

    def deleteMetricByName(self, metricName: str) -> None:
        """Delete a metric with its model and its data. Raises ObjectNotFoundError."""
        with translated():
            connection().delete_metric(metricName)

    def monitorMetric(self, modelSpec: Mapping[str, Any]) -> str:
        """Give a metric a model; return its uid, the model's id. Raises ValueError, MetricAlreadyMonitored."""
        with translated():
            return str(connection().monitor(spec=modelSpec)["uid"])

    def activateModel(self, metricId: str) -> None:
        """Start the model with the values seen so far. Raises MetricStatisticsNotReadyError."""
        with translated():
            connection().activate(metricId)

    def unmonitorMetric(self, metricId: str) -> None:
        """Delete the metric's model and scores; its data stay."""
        with translated():
            connection().unmonitor(metricId)

    def exportModel(self, metricId: str) -> dict[str, Any]:
        """Return the specification and `data`: [value, datetime] of the last 14 days."""
        with translated():
            exported = connection().export_model(metricId)
        exported["data"] = [[value, _naive(when)] for value, when in exported["data"]]
        return exported

    def importModel(self, spec: Mapping[str, Any]) -> str:
        """Make a model of what `exportModel` gave; return its uid."""
        data = [[value, _text(when)] for value, when in spec.get("data") or ()]
        with translated():
            return str(connection().import_model({**spec, "data": data})["uid"])

    def getInstanceNameForModelSpec(self, spec: Mapping[str, Any]) -> str | None:
        """Return the name of the server that a metric belongs to."""
        metric = spec["metricSpec"]
        if metric.get("resource"):
            return str(metric["resource"])
        if metric.get("metric"):
            return str(metric["metric"])
        with translated():
            answer = connection().request("GET", f"/models/{quote(str(metric['uid']))}")
        return str(answer["resource"])

    def getMatchingResources(self, aggSpec: Mapping[str, Any]) -> None:
        """Not supported for custom metrics; see `eventproc aggregates`."""
        raise NotImplementedError("not-supported")


def createDatasourceAdapter(datasourceName: str) -> CustomDatasourceAdapter:
    """Return the adapter of that name."""
    if datasourceName != CUSTOM:
        raise ObjectNotFoundError(f"there is no datasource {datasourceName!r}; there is {CUSTOM!r}")
    return CustomDatasourceAdapter()


def createCustomDatasourceAdapter() -> CustomDatasourceAdapter:
    """Return the adapter of custom metrics."""
    return CustomDatasourceAdapter()


def listDatasourceNames() -> tuple[str, ...]:
    """Return the names of all datasources."""
    return (CUSTOM,)


def _naive(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC).replace(tzinfo=None)


def _text(when: Any) -> Any:
    return when.isoformat(sep=" ") if isinstance(when, dt.datetime) else when
