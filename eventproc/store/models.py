"""Models of metrics, their checkpoints, and the shares of metrics that workers hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Text, bindparam, delete, func, insert, select, text, update

from eventproc.errors import Conflict
from eventproc.model.anomaly import SHARDS, Checkpoint, Model, NewModel, ShardLease, Standing
from eventproc.store.base import BulkUpdate, Rows, any_of, from_json, to_json
from eventproc.store.schema import UNDEFINED, metric_states, model_checkpoints, model_shards, model_workers, models

_OF = select(models).where(any_of(models.c.metric_id, "ids")).order_by(models.c.metric_id)
_UNDEFINED = (
    select(models)
    .where(
        text(UNDEFINED),
        models.c.metric_id > bindparam("after"),
        func.coalesce(models.c.retry_us, 0) <= bindparam("now_us"),
    )
    .order_by(models.c.metric_id)
    .limit(bindparam("wanted"))
)
_PAGE = (
    select(models)
    .where(models.c.metric_id > bindparam("after"))
    .order_by(models.c.metric_id)
    .limit(bindparam("wanted"))
)
_INSERT = insert(models)
_DELETE = delete(models).where(models.c.metric_id == bindparam("metric_id"))
_LIKELIHOODS = BulkUpdate(
    table=models,
    params={"likelihood_json": Text()},
    values=lambda p: {"likelihood_json": p("likelihood_json")},
)
_IDS = select(models.c.metric_id, models.c.id).where(any_of(models.c.metric_id, "ids"))
_FAILED = (
    update(models)
    .where(models.c.metric_id == bindparam("_metric_id"))
    .values(failures=models.c.failures + 1, message=bindparam("_message"), retry_us=bindparam("_retry_us"))
)
_SETTLE = (
    update(models)
    .where(any_of(models.c.metric_id, "_ids"), models.c.failures > 0)
    .values(failures=0, retry_us=None, message=None)
)

_STANDING = (
    select(metric_states.c.id, metric_states.c.status, metric_states.c.scored_rowid)
    .where(any_of(metric_states.c.id, "ids"))
    .order_by(metric_states.c.id)
    .with_for_update()
)
_CHECKPOINTS = select(model_checkpoints).where(any_of(model_checkpoints.c.metric_id, "ids"))
_SIZES = select(
    model_checkpoints.c.metric_id,
    model_checkpoints.c.rowid,
    func.length(model_checkpoints.c.data).label("size"),
).where(any_of(model_checkpoints.c.metric_id, "ids"))
_PUT_CHECKPOINT = text(
    "INSERT INTO model_checkpoints (metric_id, model_id, rowid, data) VALUES (:metric_id, :model_id, :rowid, :data)"
    " ON CONFLICT (metric_id) DO UPDATE SET model_id = excluded.model_id, rowid = excluded.rowid, data = excluded.data"
)
_DROP_CHECKPOINTS = delete(model_checkpoints).where(model_checkpoints.c.metric_id == bindparam("metric_id"))

_BEAT = text(
    "INSERT INTO model_workers (name, beat_us) VALUES (:name, :now_us)"
    " ON CONFLICT (name) DO UPDATE SET beat_us = excluded.beat_us"
)
_FORGET = delete(model_workers).where(model_workers.c.beat_us < bindparam("before_us"))
_SHARDS_KNOWN = select(func.count()).select_from(model_shards)
_ADD_SHARD = text(
    "INSERT INTO model_shards (shard, owner, token, lease_until_us) VALUES (:shard, NULL, 0, 0)"
    " ON CONFLICT (shard) DO NOTHING"
)
_ALIVE = select(func.count()).select_from(model_workers)
_LEAVE = delete(model_workers).where(model_workers.c.name == bindparam("name"))
_PROLONG = (
    update(model_shards)
    .where(model_shards.c.owner == bindparam("_owner"))
    .values(lease_until_us=bindparam("_until_us"))
)
_MINE = select(model_shards).where(model_shards.c.owner == bindparam("owner")).order_by(model_shards.c.shard)
_FREE = (
    select(model_shards.c.shard)
    .where((model_shards.c.owner.is_(None)) | (model_shards.c.lease_until_us < bindparam("now_us")))
    .order_by(model_shards.c.shard)
    .limit(bindparam("wanted"))
    .with_for_update(skip_locked=True)
)
_TAKE = (
    update(model_shards)
    .where(any_of(model_shards.c.shard, "_shards"))
    .values(owner=bindparam("_owner"), token=model_shards.c.token + 1, lease_until_us=bindparam("_until_us"))
)
_GIVE = (
    update(model_shards)
    .where(model_shards.c.owner == bindparam("_owner"), any_of(model_shards.c.shard, "_shards"))
    .values(owner=None, lease_until_us=0)
)
_HELD = (
    select(model_shards.c.shard, model_shards.c.token)
    .where(any_of(model_shards.c.shard, "shards"), model_shards.c.owner == bindparam("owner"))
    .order_by(model_shards.c.shard)
    .with_for_update(read=True)
)
_SHARES = (
    select(model_shards.c.owner, func.count().label("found"))
    .where(model_shards.c.owner.is_not(None))
    .group_by(model_shards.c.owner)
)


def _object(text_: str | None) -> Any:
    return None if text_ is None else from_json(text_)


def _model(row: Any) -> Model:
    return Model(
        id=row.id,
        metric_id=row.metric_id,
        spec=from_json(row.spec_json),
        params=_object(row.params_json),
        likelihood=_object(row.likelihood_json) or {},
        command_id=row.command_id,
        owner_id=row.owner_id,
        created_us=row.created_us,
        defined_us=row.defined_us,
        origin_rowid=row.origin_rowid,
        failures=row.failures,
        retry_us=row.retry_us,
        message=row.message,
    )


def _lease(row: Any) -> ShardLease:
    return ShardLease(shard=row.shard, token=row.token, until_us=row.lease_until_us)


class SqlModels(Rows):
    """Models by metric."""

    def put(self, new: NewModel, *, now_us: int) -> Model:
        """Insert a metric's model."""
        if self.of_metric(new.metric_id) is not None:
            raise Conflict("the metric has a model already", metric=new.metric_id)
        self.work.conn.execute(
            _INSERT,
            {
                "metric_id": new.metric_id,
                "spec_json": to_json(dict(new.spec)),
                "params_json": None if new.params is None else to_json(dict(new.params)),
                "likelihood_json": None,
                "command_id": new.command_id,
                "owner_id": new.owner_id,
                "created_us": now_us,
                "defined_us": None,
                "origin_rowid": new.origin_rowid,
                "failures": 0,
                "retry_us": None,
                "message": None,
            },
        )
        stored = self.of_metric(new.metric_id)
        assert stored is not None  # in this transaction
        return stored

    def of_metric(self, metric_id: int) -> Model | None:
        return self.of_metrics([metric_id]).get(metric_id)

    def of_metrics(self, metric_ids: Sequence[int]) -> dict[int, Model]:
        rows = self._all(_OF, {"ids": list(metric_ids)})
        return {row.metric_id: _model(row) for row in rows}

    def undefined(self, *, now_us: int, after: int = 0, limit: int = 100) -> list[Model]:
        return [_model(row) for row in self._all(_UNDEFINED, {"now_us": now_us, "after": after, "wanted": limit})]

    def set_params(self, metric_id: int, params: Mapping[str, Any], *, command_id: str | None = None) -> None:
        values: dict[str, Any] = {"params_json": to_json(dict(params))}
        if command_id is not None:
            values["command_id"] = command_id
        self._update(metric_id, **values)

    def set_defined(self, metric_id: int, *, now_us: int) -> None:
        self._update(metric_id, defined_us=now_us, failures=0, retry_us=None, message=None)

    def renew(self, metric_id: int, *, undefine: bool = False) -> None:
        values: dict[str, Any] = {"failures": 0, "retry_us": None, "message": None}
        if undefine:
            values["defined_us"] = None
        self._update(metric_id, **values)

    def begin_anew(self, metric_id: int, *, origin_rowid: int) -> None:
        row = self._first(_OF, {"ids": [metric_id]})
        self.delete(metric_id)
        values = {column.name: getattr(row, column.name) for column in models.c if column.name != "id"}
        self.work.conn.execute(_INSERT, values | {"origin_rowid": origin_rowid, "likelihood_json": None})

    def _update(self, metric_id: int, **values: Any) -> None:
        self.work.conn.execute(update(models).where(models.c.metric_id == metric_id).values(**values))

    def set_likelihoods(self, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        if not rows:
            return
        ids = {row.metric_id: row.id for row in self._all(_IDS, {"ids": [metric_id for metric_id, _ in rows]})}
        values = [
            {"id": ids[metric_id], "likelihood_json": to_json(dict(known))}
            for metric_id, known in rows
            if metric_id in ids
        ]
        if values:
            self.work.bulk.update(self.work.conn, _LIKELIHOODS, values)

    def failed(self, metric_id: int, *, message: str, retry_us: int | None) -> None:
        self.work.conn.execute(_FAILED, {"_metric_id": metric_id, "_message": message, "_retry_us": retry_us})

    def settle(self, metric_ids: Sequence[int]) -> None:
        if metric_ids:
            self.work.conn.execute(_SETTLE, {"_ids": list(metric_ids)})

    def standing(self, metric_ids: Sequence[int]) -> dict[int, Standing]:
        states = self._all(_STANDING, {"ids": list(metric_ids)})
        ids = {row.metric_id: row.id for row in self._all(_IDS, {"ids": list(metric_ids)})}
        return {
            row.id: Standing(
                metric_id=row.id, status=row.status, scored_rowid=row.scored_rowid, model_id=ids.get(row.id)
            )
            for row in states
        }

    def delete(self, metric_id: int) -> bool:
        """Delete the model and its checkpoint."""
        self.drop_checkpoints(metric_id)
        return self._changed(_DELETE, {"metric_id": metric_id}) > 0

    def page(self, *, after: int = 0, limit: int = 1000) -> list[Model]:
        return [_model(row) for row in self._all(_PAGE, {"after": after, "wanted": limit})]

    # Checkpoints.

    def checkpoints(self, metric_ids: Sequence[int]) -> dict[int, Checkpoint]:
        rows = self._all(_CHECKPOINTS, {"ids": list(metric_ids)})
        return {
            row.metric_id: Checkpoint(
                metric_id=row.metric_id, model_id=row.model_id, rowid=row.rowid, data=bytes(row.data)
            )
            for row in rows
        }

    def put_checkpoints(self, new: Sequence[Checkpoint]) -> None:
        rows = [
            {"metric_id": one.metric_id, "model_id": one.model_id, "rowid": one.rowid, "data": one.data} for one in new
        ]
        if rows:
            self.work.conn.execute(_PUT_CHECKPOINT, rows)

    def drop_checkpoints(self, metric_id: int) -> None:
        self.work.conn.execute(_DROP_CHECKPOINTS, {"metric_id": metric_id})

    def checkpoint_sizes(self, metric_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
        rows = self._all(_SIZES, {"ids": list(metric_ids)})
        return {row.metric_id: (int(row.rowid), int(row.size)) for row in rows}

    # Shares.

    def beat(self, worker: str, *, alive_us: int, now_us: int) -> int:
        """Say that a worker lives; return how many do."""
        self.work.conn.execute(_BEAT, {"name": worker, "now_us": now_us})
        if int(self._scalar(_SHARDS_KNOWN)) < SHARDS:
            self.work.conn.execute(_ADD_SHARD, [{"shard": shard} for shard in range(SHARDS)])
        self.work.conn.execute(_FORGET, {"before_us": now_us - alive_us})
        return int(self._scalar(_ALIVE))

    def leave(self, worker: str) -> None:
        self.give(worker, [row.shard for row in self._all(_MINE, {"owner": worker})])
        self.work.conn.execute(_LEAVE, {"name": worker})

    def prolong(self, worker: str, *, until_us: int) -> list[ShardLease]:
        self.work.conn.execute(_PROLONG, {"_owner": worker, "_until_us": until_us})
        return [_lease(row) for row in self._all(_MINE, {"owner": worker})]

    def take(self, worker: str, *, wanted: int, until_us: int, now_us: int) -> list[ShardLease]:
        free = [row.shard for row in self._all(_FREE, {"now_us": now_us, "wanted": wanted})]
        if not free:
            return []
        self.work.conn.execute(_TAKE, {"_shards": free, "_owner": worker, "_until_us": until_us})
        chosen = set(free)
        return [_lease(row) for row in self._all(_MINE, {"owner": worker}) if row.shard in chosen]

    def give(self, worker: str, shards: Sequence[int]) -> None:
        if shards:
            self.work.conn.execute(_GIVE, {"_owner": worker, "_shards": list(shards)})

    def held(self, worker: str, leases: Sequence[tuple[int, int]]) -> set[int]:
        tokens = dict(leases)
        rows = self._all(_HELD, {"shards": sorted(tokens), "owner": worker})
        return {row.shard for row in rows if row.token == tokens[row.shard]}

    def shares(self) -> dict[str, int]:
        return {row.owner: row.found for row in self._all(_SHARES)}


__all__ = ["SqlModels"]
