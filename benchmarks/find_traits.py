"""
How long a search of events by a member of their payload takes: the member is in the first event, the search reads all.

    python benchmarks/find_traits.py [--events 100000] [--no-postgres] [--json]

The engine sums up events in blocks after they were accepted; a search passes over blocks that can not hold the member.
Each search is measured before and after that; `summing up` is what it takes of the engine's time, in all.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers.servers import servers
from streams import START_US, batches, databases, harness, notifications
from table import machine, show

from eventproc.engine.accept import accept_events
from eventproc.engine.housekeeping import Housekeeper, HousekeeperSettings
from eventproc.testing import Harness

PAGES = (("text, absent", {"instance_id": "nobody"}), ("text, in the oldest", {"instance_id": "instance-0"}))
PAGES += (("number, absent", {"memory_mb": 7}),)


def searches(name: str, url: str, count: int) -> Iterator[dict[str, Any]]:
    with harness(url) as made:
        for batch in batches(list(notifications(count, 18))):
            with made.store.begin() as tx:
                accept_events(tx, made.cache.current(tx), batch, user_id=None, now_us=START_US)
        yield from _searches(name, "without", made, count)
        house = Housekeeper(
            store=made.store, bus=made.bus, clock=made.clock, settings=HousekeeperSettings(breath_s=0.0)
        )
        house.sum_up_traits()
        began = time.perf_counter()
        blocks = house.sum_up_traits()
        took = time.perf_counter() - began
        row = {"database": name, "summaries": "summing up", "trait": f"{blocks} blocks", "found": "", "seconds": took}
        yield {**row, "seconds": round(took, 3), "events/s": round(count / took)}
        yield from _searches(name, "with", made, count)


def _searches(name: str, summaries: str, made: Harness, count: int) -> Iterator[dict[str, Any]]:
    for what, traits in PAGES:
        with made.store.read() as tx:
            began = time.perf_counter()
            found = tx.events.page(traits=traits, limit=18)
            took = time.perf_counter() - began
        row = {"database": name, "summaries": summaries, "trait": what, "found": len(found), "seconds": round(took, 3)}
        yield {**row, "events/s": round(count / took)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--no-postgres", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    print(machine(), file=sys.stderr)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = None if options.no_postgres else stack.enter_context(servers(peers=False))[0]
        rows = [row for name, fresh in databases(folder, postgres) for row in searches(name, fresh(), options.events)]
    show(f"Search of {options.events:,} events by a member of their payload", rows, as_json=options.json)


if __name__ == "__main__":
    main()
