"""The shares of the metrics that a worker holds: as many as its fellows, under leases, fenced by tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from eventproc.abc import Clock, Store, Tx
from eventproc.model import SECOND_US
from eventproc.model.anomaly import SHARDS

_SPREAD = 37  # what is given back is spread over all ids: metrics made together have neighbouring ones


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareSettings:
    """Times in seconds. A worker that is not heard of for `lease_s` loses its shares to the others."""

    lease_s: float = 15.0
    beats: int = 3  # per lease


class Shares:
    """
    A worker's part of all metrics. Not safe for several threads.

    Every beat prolongs what is held, gives back what is more than a fair part and takes what nobody holds, so that
    workers that come and go even out within a lease. What is written about a metric is checked against `held`.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        name: str,
        *,
        settings: ShareSettings | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.tokens: dict[int, int] = {}  # by shard
        self._store = store
        self._clock = clock
        self._settings = settings or ShareSettings()
        self._monotonic = monotonic
        self._next_beat = -math.inf

    def mine(self, metric_id: int) -> bool:
        return metric_id % SHARDS in self.tokens

    def beat_if_due(self) -> set[int]:
        """Beat if it is time; return the shards that are not held any more as they were."""
        if self._monotonic() < self._next_beat:
            return set()
        return self.beat()

    def beat(self) -> set[int]:
        """Say that this worker lives, and see to its shares; return the shards that are lost or held anew."""
        self._next_beat = self._monotonic() + self._settings.lease_s / self._settings.beats
        lease_us = round(self._settings.lease_s * SECOND_US)
        with self._store.begin() as tx:
            now_us = self._clock.now_us()
            until_us = now_us + lease_us
            alive = tx.models.beat(self.name, alive_us=lease_us, now_us=now_us)
            fair = math.ceil(SHARDS / max(1, alive))
            leases = tx.models.prolong(self.name, until_us=until_us)
            if len(leases) > fair:
                leases = sorted(leases, key=lambda lease: lease.shard * _SPREAD % SHARDS)
                tx.models.give(self.name, [lease.shard for lease in leases[fair:]])
                leases = leases[:fair]
            elif len(leases) < fair:
                wanted = fair - len(leases)
                leases = [*leases, *tx.models.take(self.name, wanted=wanted, until_us=until_us, now_us=now_us)]
        before, self.tokens = self.tokens, {lease.shard: lease.token for lease in leases}
        return {shard for shard, token in before.items() if self.tokens.get(shard) != token}

    def still_held(self, tx: Tx, metric_ids: list[int]) -> set[int]:
        """Return those of the metrics that nobody else may write about until the end of the transaction."""
        wanted = {metric_id % SHARDS for metric_id in metric_ids} & self.tokens.keys()
        held = tx.models.held(self.name, [(shard, self.tokens[shard]) for shard in sorted(wanted)])
        if held != wanted:
            self._next_beat = -math.inf
        return {metric_id for metric_id in metric_ids if metric_id % SHARDS in held}

    def leave(self) -> None:
        """Give everything back."""
        self.tokens = {}
        with self._store.begin() as tx:
            tx.models.leave(self.name)
