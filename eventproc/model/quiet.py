"""Hooks of what happens so often that it is told of only where somebody asks for it by name."""

from __future__ import annotations

from typing import Final

SAMPLES_STORED: Final = "samples.stored"
SAMPLE_REJECTED: Final = "sample.rejected"
DEFINE_REQUESTED: Final = "model.define_requested"
MODEL_LOADED: Final = "model.loaded"
CHECKPOINT_SAVED: Final = "checkpoint.saved"
LIKELIHOOD_REFRESHED: Final = "likelihood.refreshed"
PURGED: Final = "gc.purged"
QUEUE_DEPTH: Final = "queue.depth"

# Where the platform itself reports from, in the transaction of what it reports: with no user and no run behind them,
# events of these are never sent again, so that nothing need be remembered of them once they are gone. Whoever else can
# send without a user, in a transaction of theirs, is refused these sources.
OWN_SOURCES: Final = frozenset({"engine", "metrics", "models"})

# No event of these exists unless a handler or a trigger names it, and `*` does not.
QUIET_HOOKS: Final = frozenset(
    {
        SAMPLES_STORED,
        SAMPLE_REJECTED,
        DEFINE_REQUESTED,
        MODEL_LOADED,
        CHECKPOINT_SAVED,
        LIKELIHOOD_REFRESHED,
        PURGED,
        QUEUE_DEPTH,
    }
)
