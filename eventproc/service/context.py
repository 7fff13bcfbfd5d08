"""What the use cases need from the world, built by the composition root."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from eventproc.abc import Blobs, Bus, Clock, Sandbox, Store, Tx
from eventproc.engine.group import GroupCommit
from eventproc.model import MAX_PAYLOAD_BYTES, Policy, User
from eventproc.registry.catalogue import Catalogue, CatalogueCache
from eventproc.registry.options import MaxLimits
from eventproc.service.turns import Turns
from eventproc.service.vault import Vault

MIB = 1 << 20
MAX_TRIALS = 24  # handlers that are being loaded to see whether they can be, each in a thread of the forty of an API
MAX_TRIALS_OF_ONE = 8  # user


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceSettings:
    """The values that the use cases need; the composition root fills them from the settings."""

    base_url: str = "http://127.0.0.1:8080"  # where people reach the platform; links are built from it
    max_payload_bytes: int = MAX_PAYLOAD_BYTES
    max_body_bytes: int = 32 * MIB  # of a JSON request
    max_archive_bytes: int = 1024 * MIB  # of an uploaded archive
    max_blob_bytes: int = 16 * MIB  # of a pickled handler
    warn_blob_bytes: int = 1_000_000
    max_batch: int = 10_000  # events in one request
    max_effect_bytes: int = 128 * MIB  # that one run's effects may hold in memory
    check_timeout_s: float = 30.0  # for loading a handler at registration
    prepare_timeout_s: float = 720.0  # for installing what it needs, and loading it, at a worker
    auth_cache_s: float = 2.0  # how long another process may go on accepting a revoked key
    max_ahead_s: float | None = 366 * 86_400.0  # how far ahead of the clock a sample's time may lie
    results_exchange: str | None = None  # of the broker, for results of models
    max_limits: MaxLimits = field(default_factory=MaxLimits)  # what a handler may ask for
    policy: Policy = field(default_factory=Policy)  # likewise
    work_dir: Path | None = None  # for uploads on their way; None for the system's own


@dataclass(frozen=True, kw_only=True)
class ServiceContext:
    """The ports and values that every use case is given."""

    store: Store
    bus: Bus
    blobs: Blobs
    sandbox: Sandbox
    clock: Clock
    cache: CatalogueCache
    group: GroupCommit
    settings: ServiceSettings = field(default_factory=ServiceSettings)
    vault: Vault | None = None  # without it there are no secrets
    delegates: bool = False  # whether workers of their own may try handlers in our place
    trials: Turns = field(default_factory=lambda: Turns("registrations", most=MAX_TRIALS, of_one=MAX_TRIALS_OF_ONE))
    draining: threading.Event = field(default_factory=threading.Event)  # set when the process is about to stop

    def catalogue(self, tx: Tx) -> Catalogue:
        return self.cache.current(tx)

    def wake_after(self, tx: Tx, *topics: str) -> None:
        """Wake the topics once the transaction is committed."""
        tx.after_commit(lambda: self.bus.wake(*topics))

    def audit(self, tx: Tx, principal: User, action: str, object: str, **detail: object) -> None:
        """Write down, in the same transaction, who changed what."""
        tx.audit.add(user=principal.name, action=action, object=object, detail=detail, now_us=self.clock.now_us())
