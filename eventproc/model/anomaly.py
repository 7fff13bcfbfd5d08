"""Anomaly models of metrics, as rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class NewModel:
    """A model that is asked for. `params` is None where the range of values must be estimated from samples first."""

    metric_id: int
    spec: Mapping[str, Any]
    params: Mapping[str, Any] | None
    command_id: str
    owner_id: int | None = None
    origin_rowid: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """
    A metric's model. `id` is another one whenever the metric is monitored anew.

    `params`: what `models.parameters.model_params` gives. `origin_rowid`: it learns the samples behind that row.
    `failures` counts what went wrong since it last went well, `retry_us` says when it is tried again; `message` is why
    the metric is in ERROR.
    """

    id: int
    metric_id: int
    spec: Mapping[str, Any]
    params: Mapping[str, Any] | None
    likelihood: Mapping[str, Any] = field(default_factory=dict)
    command_id: str
    owner_id: int | None
    created_us: int
    defined_us: int | None
    origin_rowid: int
    failures: int
    retry_us: int | None
    message: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A model's saved state as of row `rowid`; the stored samples behind that row bring it up to date."""

    metric_id: int
    model_id: int
    rowid: int
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a metric and its model stand, in a transaction that keeps others from changing it."""

    metric_id: int
    status: int
    scored_rowid: int
    model_id: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardLease:
    """A share of the metrics, held until `until_us`; `token` grows with every change of hands."""

    shard: int
    token: int
    until_us: int


SHARDS = 64  # of all metrics: a metric's is its id modulo this
