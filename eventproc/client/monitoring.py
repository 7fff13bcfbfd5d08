"""The calls about metrics and their models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventproc.client.calls import Calls, given
from eventproc.client.metrics import Time, moment
from eventproc.client.paths import segment


class Monitoring(Calls):
    """
    The part of a Connection that gives metrics their models.

    A metric is named by its name or its uid. Answers are dicts with `uid`, `name`, `status` (UNMONITORED, PENDING_DATA,
    CREATE_PENDING, ACTIVE, ERROR), `message`, `parameters`, `last_rowid`, `scored_rowid`, `waiting`, …
    """

    def create_metric(self, name: str, *, resource: str | None = None) -> dict[str, Any]:
        """Create a metric before its first sample. Raises Conflict for one that is there; its uid is in `details`."""
        return self._object("POST", "/metrics", json={"name": name, "resource": resource})

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
            params = given(
                {"min": min, "max": max, "minResolution": min_resolution, "enableClassifier": predictions or None}
            )
            metric_spec = given({"metric": metric, "resource": resource})
            wanted: dict[str, Any] = {"datasource": "custom", "metricSpec": metric_spec}
            spec = wanted | ({"modelParams": params} if params else {}) | ({"options": options} if options else {})
        return self._object("POST", "/models", json=spec)

    def unmonitor(self, which: str) -> dict[str, Any]:
        """Take a metric's model and its scores away; the samples stay."""
        return self._object("DELETE", f"/models/{segment(which)}")

    def activate(self, which: str) -> dict[str, Any]:
        """Estimate the range of values now, from the samples that there are."""
        return self._object("POST", f"/models/{segment(which)}/activate")

    def retry_model(self, which: str, *, fresh: bool = False) -> dict[str, Any]:
        """Take a metric out of ERROR; what arrived meanwhile is scored. `fresh` starts with a new model."""
        return self._object("POST", f"/models/{segment(which)}/retry", json={"fresh": fresh})

    def models(
        self, *, status: str | None = None, name: str | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """List the monitored metrics; `name` may be a glob."""
        return list(self.pages("/models", {"status": status, "name": name}, limit))

    def model(self, which: str) -> dict[str, Any]:
        """Return one metric with its model."""
        return self._object("GET", f"/models/{segment(which)}")

    def models_status(self) -> dict[str, Any]:
        """Return all models at a glance: metrics by status, samples that wait, workers."""
        return self._object("GET", "/models/status")

    def export_model(
        self, which: str, *, days: float | None = None, start: Time = None, end: Time = None
    ) -> dict[str, Any]:
        """
        Return a model's specification and `data`: [value, time] of its metric's samples.

        :param days: the samples of so many days before now; 14 unless a start or an end is given, 0: all samples
        :param start: instead of days: samples with start <= time < end
        """
        params = given({"days": days, "start": moment(start), "end": moment(end)})
        return self._object("GET", f"/models/{segment(which)}/export", params=params)

    def import_model(self, exported: Mapping[str, Any]) -> dict[str, Any]:
        """Make a model of what `export_model` gave; its data are stored if the metric has none."""
        return self._object("POST", "/models/import", json=dict(exported))
