"""The columns that queries name: `schema.metric_data.c.timestamp`, `.asc()`, `.desc()`."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace


@dataclass(frozen=True)
class Order:
    """An order of rows."""

    column: str
    descending: bool


@dataclass(frozen=True)
class Column:
    """A column by its name."""

    name: str

    def asc(self) -> Order:
        """Order by it, smallest first."""
        return Order(self.name, descending=False)

    def desc(self) -> Order:
        """Order by it, largest first."""
        return Order(self.name, descending=True)


@dataclass(frozen=True)
class Table:
    """A table: its name, and its columns as `c`."""

    name: str
    c: SimpleNamespace


def _table(name: str, *columns: str) -> Table:
    return Table(name, SimpleNamespace(**{column: Column(column) for column in columns}))


metric = _table(
    "metric", "uid", "datasource", "name", "description", "server", "location", "parameters", "status", "message",
    "collector_error", "last_timestamp", "poll_interval", "tag_name", "model_params", "last_rowid",
)  # fmt: skip
metric_data = _table(
    "metric_data", "uid", "rowid", "timestamp", "metric_value", "raw_anomaly_score", "anomaly_score", "display_value",
    "multi_step_best_predictions",
)  # fmt: skip
