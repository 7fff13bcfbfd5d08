"""
Does the role that scores stay as large as it is? Thousands of models in turn, most of them not in memory.

    python benchmarks/models_memory.py [--models 1000] [--fit 100] [--rounds 40] [--trace]

All models get a sample in each round, and only --fit of them fit into memory: nearly every sample has a model loaded
from its checkpoint, scored, now and then saved, and thrown out again. Memory of the process's own is read after each
round. The first half is warming up: page cache of the database, threads, and the round in which all models are saved
(they were made together, so their 16th samples come together). `--trace` shows by tracemalloc what grew in Python in
the second half; its own books are in the sizes then. Exit code 1 when the second half grew by more than --allowed
megabytes.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from models_scale import fill, runner_of
from models_world import ModelsWorld, wave

from eventproc.store import open_store

MODEL_BYTES = 400_000  # a little more than one in memory


@dataclass(frozen=True)
class Soaked:
    """Resident memory after each round in megabytes, and how many models were in memory at the end."""

    sizes: list[float]
    loaded: int
    grown: list[str]  # what grew in Python in the second half, where that was asked for

    @property
    def growth(self) -> float:
        """Megabytes that the second half added: between the least of its first third and that of its last one."""
        late = self.sizes[len(self.sizes) // 2 :]
        part = max(1, len(late) // 3)
        return min(late[-part:]) - min(late[:part])


def resident() -> float:
    """Read what the process holds for itself: pages of the database's file are the kernel's to take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1000


def soak(directory: Path, *, models: int, fit: int, rounds: int, history: int, trace: bool = False) -> Soaked:
    """Give all models a sample, round after round."""
    store = open_store(f"sqlite:///{directory}/memory.db")
    store.upgrade()
    world = ModelsWorld(store)
    ids, _ = fill(world, models, history)
    runner = runner_of(world, "soak", 2, fit * MODEL_BYTES)
    sizes: list[float] = []
    before = None
    for turn in range(rounds):
        if trace and turn == rounds // 2:
            tracemalloc.start(8)
            before = tracemalloc.take_snapshot()
        now_us = time.time_ns() // 1000
        with store.begin() as tx:
            tx.samples.add_batch(ids, [now_us] * len(ids), wave(len(ids), start=turn))
        while runner.tick():
            pass
        runner.waits.clear()
        gc.collect()
        sizes.append(resident())
    grown = []
    if before is not None:
        after = tracemalloc.take_snapshot().compare_to(before, "lineno")
        grown = [str(one) for one in after[:15] if one.size_diff > 0]
    loaded = runner.loaded
    runner.close()
    store.close()
    return Soaked(sizes, loaded, grown)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--fit", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--history", type=int, default=300)
    parser.add_argument("--allowed", type=float, default=5.0, help="megabytes")
    parser.add_argument("--trace", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = soak(
            Path(directory),
            models=given.models,
            fit=given.fit,
            rounds=given.rounds,
            history=given.history,
            trace=given.trace,
        )
    print(f"load {os.getloadavg()[0]:.1f}; {given.models} models, {found.loaded} in memory, {given.rounds} rounds")
    print("resident MB after each round: " + " ".join(f"{size:.0f}" for size in found.sizes))
    print(f"the second half grew by {found.growth:+.1f} MB ({given.models * given.rounds // 2} loads and evictions)")
    print(*found.grown, sep="\n")
    return 1 if found.growth > given.allowed else 0


if __name__ == "__main__":
    sys.exit(main())
