"""The calls about metrics and their models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from eventproc.client.paths import segment


class Monitoring(ABC):
    """
    The part of a Connection that gives metrics their models.

    A metric is named by its name or its uid. Answers are dicts with `uid`, `name`, `status` (UNMONITORED, PENDING_DATA,
    CREATE_PENDING, ACTIVE, ERROR), `message`, `parameters`, `last_rowid`, `scored_rowid`, `waiting`, …
    """

    @abstractmethod
    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Any:
        """Call a route and return its JSON."""

    @abstractmethod
    def _pages(self, path: str, params: Mapping[str, Any], limit: int | None) -> Iterator[dict[str, Any]]: ...

    def create_metric(self, name: str, *, resource: str | None = None) -> dict[str, Any]:
        """Create a metric before its first sample. Raises Conflict for one that is there; its uid is in `details`."""
        answer: dict[str, Any] = self.request("POST", "/metrics", json={"name": name, "resource": resource})
        return answer

    def delete_metric(self, which: str) -> None:
        """Delete a metric with its model and its samples."""
        self.request("DELETE", f"/metrics/{segment(which)}")

    def monitor(
        self,
        metric: str | None = None,
        *,
        min: float | None = None,
        max: float | None = None,
        min_resolution: float | None = None,
        predictions: bool = False,
        resource: str | None = None,
        spec: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """
        Give a metric a model; one that is not there is created.

        Without `min` and `max` the range of values is estimated once there are 288 samples; with `range="learnt"` the
        model begins at once, and learns it for 656 samples.

        >>> conn.monitor("web.requests", min=0, max=1000)            # doctest: +SKIP
        >>> conn.monitor("web.requests", timezone="Europe/Berlin")   # doctest: +SKIP

        :param spec: a whole model specification instead (htmengine's `modelSpec`)
        :param options: detector, likelihood, timezone, timeOfDay, dayOfWeek, range, parameters

        Raises InvalidInput, and Conflict for a metric that is monitored; its uid is in `details`.
        """
        if spec is None:
            given = {"min": min, "max": max, "minResolution": min_resolution, "enableClassifier": predictions or None}
            params = {name: value for name, value in given.items() if value is not None}
            metric_spec = {"metric": metric, "resource": resource}
            wanted: dict[str, Any] = {
                "datasource": "custom",
                "metricSpec": {name: value for name, value in metric_spec.items() if value is not None},
            }
            spec = wanted | ({"modelParams": params} if params else {}) | ({"options": options} if options else {})
        answer: dict[str, Any] = self.request("POST", "/models", json=spec)
        return answer

    def unmonitor(self, which: str) -> dict[str, Any]:
        """Take a metric's model and its scores away; the samples stay."""
        answer: dict[str, Any] = self.request("DELETE", f"/models/{segment(which)}")
        return answer

    def activate(self, which: str) -> dict[str, Any]:
        """Estimate the range of values now, from the samples that there are."""
        answer: dict[str, Any] = self.request("POST", f"/models/{segment(which)}/activate")
        return answer

    def retry_model(self, which: str, *, fresh: bool = False) -> dict[str, Any]:
        """Take a metric out of ERROR; what arrived meanwhile is scored. `fresh` starts with a new model."""
        answer: dict[str, Any] = self.request("POST", f"/models/{segment(which)}/retry", json={"fresh": fresh})
        return answer

    def models(
        self, *, status: str | None = None, name: str | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """List the monitored metrics; `name` may be a glob."""
        return list(self._pages("/models", {"status": status, "name": name}, limit))

    def model(self, which: str) -> dict[str, Any]:
        """Return one metric with its model."""
        answer: dict[str, Any] = self.request("GET", f"/models/{segment(which)}")
        return answer

    def models_status(self) -> dict[str, Any]:
        """Return all models at a glance: metrics by status, samples that wait, workers."""
        answer: dict[str, Any] = self.request("GET", "/models/status")
        return answer

    def export_model(self, which: str, *, days: float = 14) -> dict[str, Any]:
        """Return a model's specification and `data`, [value, time] of the last days; 0 days: of all."""
        answer: dict[str, Any] = self.request("GET", f"/models/{segment(which)}/export", params={"days": days})
        return answer

    def import_model(self, exported: Mapping[str, Any]) -> dict[str, Any]:
        """Make a model of what `export_model` gave; its data are stored if the metric has none."""
        answer: dict[str, Any] = self.request("POST", "/models/import", json=dict(exported))
        return answer
