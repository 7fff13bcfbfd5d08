"""What can be done with models, their checkpoints and the shares that workers hold, inside a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from eventproc.model.anomaly import Checkpoint, Model, NewModel, ShardLease, Standing


class ModelRows(Protocol):
    def put(self, new: NewModel, *, now_us: int) -> Model:
        """Insert a metric's model. The caller holds the metric's lock and has seen that there is none."""

    def of_metric(self, metric_id: int) -> Model | None: ...

    def of_metrics(self, metric_ids: Sequence[int]) -> dict[int, Model]:
        """Return models by metric id."""

    def undefined(self, *, now_us: int, after: int = 0, limit: int = 100) -> list[Model]:
        """Return models that have their parameters, are not defined and may be tried now, by metric id."""

    def set_params(self, metric_id: int, params: Mapping[str, Any], *, command_id: str | None = None) -> None: ...
    def set_defined(self, metric_id: int, *, now_us: int) -> None: ...

    def renew(self, metric_id: int, *, undefine: bool = False) -> None:
        """Forget failures and message; `undefine` has the model defined anew."""

    def begin_anew(self, metric_id: int, *, origin_rowid: int) -> None:
        """Make the model one that has learnt nothing: its id is another one, its checkpoint is gone."""

    def set_likelihoods(self, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Write (metric id, parameters of its likelihood)."""

    def failed(self, metric_id: int, *, message: str, retry_us: int | None) -> None:
        """Count a failure; `retry_us` None: it is not tried again."""

    def settle(self, metric_ids: Sequence[int]) -> None:
        """Forget the failures of models that went well."""

    def standing(self, metric_ids: Sequence[int]) -> dict[int, Standing]:
        """Return where metrics stand, and keep others from changing it until the end of the transaction."""

    def delete(self, metric_id: int) -> bool:
        """Delete the model and its checkpoints."""

    def page(self, *, after: int = 0, limit: int = 1000) -> list[Model]:
        """Return models by metric id."""

    # Checkpoints.

    def checkpoints(self, metric_ids: Sequence[int]) -> dict[int, Checkpoint]:
        """Return the checkpoints by metric id."""

    def put_checkpoints(self, new: Sequence[Checkpoint]) -> None:
        """Replace checkpoints."""

    def drop_checkpoints(self, metric_id: int) -> None: ...

    def checkpoint_sizes(self, metric_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Return (rowid, bytes) of what is saved of each."""

    # Shares.

    def beat(self, worker: str, *, alive_us: int, now_us: int) -> int:
        """Say that a worker lives; return how many do. Those not heard of for `alive_us` are forgotten."""

    def leave(self, worker: str) -> None:
        """Give all of the worker's shares back and forget it."""

    def prolong(self, worker: str, *, until_us: int) -> list[ShardLease]:
        """Prolong what the worker holds, and return it."""

    def take(self, worker: str, *, wanted: int, until_us: int, now_us: int) -> list[ShardLease]:
        """Take at most `wanted` shares that nobody holds."""

    def give(self, worker: str, shards: Sequence[int]) -> None:
        """Give shares back."""

    def held(self, worker: str, leases: Sequence[tuple[int, int]]) -> set[int]:
        """Return those (shard, token) whose token still stands, kept so until the end of the transaction."""

    def shares(self) -> dict[str, int]:
        """Return how many shares each worker holds."""
