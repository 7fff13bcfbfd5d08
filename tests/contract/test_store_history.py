"""
A long history, or a long paused backlog, makes nothing slower.

SQLite counts the steps of its virtual machine: unlike time, they are the same on every run and machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy
from store_world import World, make_event

from eventproc.abc import RetentionPolicy, Tx
from eventproc.model import Failure, HookSpec, Isolation, NewNotice, NewRun, Options, RunFilter, RunState
from eventproc.store import open_store

SHORT, LONG = 200, 10_000  # events
STEPS = 5  # the counter's resolution
POLICY = RetentionPolicy(
    events_s=10**6,
    runs_s=10**6,
    failed_runs_s=10**6,
    logs_s=10**6,
    files_s=10**6,
    notices_s=10**6,
    audit_s=10**6,
    dedup_s=10**6,
)


class Counted(World):
    """A world that counts the steps of a transaction."""

    def steps(self, action: Callable[[Tx], object]) -> int:
        count = 0

        def step() -> int:
            nonlocal count
            count += 1
            return 0

        with self.store.begin() as tx:
            dbapi = tx.work.conn.connection.dbapi_connection  # type: ignore[attr-defined]
            dbapi.set_progress_handler(step, STEPS)
            try:
                action(tx)
            finally:
                dbapi.set_progress_handler(None, 0)
        return count * STEPS

    def history(self, count: int) -> None:
        handlers = [self.handler(name=name, options=Options(isolation=Isolation.BATCH)) for name in ("one", "two")]
        for start in range(0, count, 1000):
            number = min(1000, count - start)
            with self.store.begin() as tx:
                added = tx.events.add(
                    [
                        make_event(
                            f"past-{start + n}",
                            hook=("test.happened", "test.other")[n % 2],
                            key=f"key-{n % 50}",
                            tags=(f"tag-{n % 20}",),
                            time_us=start + n,
                        )
                        for n in range(number)
                    ]
                )
                runs = [
                    (event.seq, NewRun(handler_id=handler.id, version=0, isolation="batch"))
                    for event, _ in added
                    for handler in handlers
                ]
                tx.runs.add_many(runs, now_us=self.now_us)
            self.work_off()
        last = self.run(handlers[0], isolation="batch")
        for claim in self.claim():
            self.finish(claim, RunState.FAILED, failure=Failure(kind="exception", message="no"))
        with self.store.begin() as tx:
            tx.notices.add([NewNotice(run_id=last, outcome="failure", recipients=("a@x",), due_us=1)], now_us=1)

    def work_off(self) -> None:
        while claims := self.claim(1000):
            with self.store.begin() as tx:
                tx.runs.finish([_done(claim) for claim in claims], now_us=self.now_us)


def _done(claim):
    from eventproc.model import Finish

    return Finish(run_id=claim.run_id, token=claim.token, state=RunState.SUCCEEDED, result_json="null")


@pytest.fixture
def make_world(tmp_path, sqlite_template) -> Iterator[Callable[[int], Counted]]:
    stores = []

    def make(count: int) -> Counted:
        path = tmp_path / f"{len(stores)}.db"
        path.write_bytes(sqlite_template.read_bytes())
        store = open_store(f"sqlite:///{path}")
        stores.append(store)
        return Counted(store)

    yield make
    for store in stores:
        store.close()


def accept(world: World, prefix: str) -> Callable[[Tx], object]:
    def action(tx: Tx) -> None:
        added = tx.events.add([make_event(f"{prefix}-{n}", key=f"key-{n}", tags=("tag-1",)) for n in range(20)])
        runs = [(event.seq, NewRun(handler_id=1, version=0, isolation="run")) for event, _ in added]
        tx.runs.add_many(runs, now_us=world.now_us)

    return action


def claim(world: World) -> Callable[[Tx], object]:
    return lambda tx: tx.runs.claim(
        worker="w", pythons=(), want_run=10, want_batch=10, lease_us=10**7, now_us=world.now_us
    )


def costs(world: Counted) -> dict[str, int]:
    """Return the steps of the everyday operations."""
    world.steps(accept(world, "warm"))
    world.steps(claim(world))  # caches are filled
    with world.store.begin() as tx:
        newest = tx.events.page(limit=1)[0].seq
    found: dict[str, int] = {
        "accept": world.steps(accept(world, "new")),
        "claim": world.steps(claim(world)),
        "next due": world.steps(lambda tx: tx.runs.next_due_us()),
        "counts": world.steps(lambda tx: tx.runs.counts()),
        "expire": world.steps(
            lambda tx: tx.runs.expire_leases(now_us=world.now_us, max_interruptions=3),
        ),
        "notices": world.steps(lambda tx: tx.notices.claim(limit=5, lease_us=1, now_us=10)),
        "prune": world.steps(lambda tx: tx.retention.prune(POLICY, now_us=world.now_us, limit=100)),
        "events since": world.steps(lambda tx: tx.events.page(since_us=10**9)),
    }
    pages = {
        "newest": {},
        "hook": {"hook": "test.other"},
        "tag": {"tag": "tag-3"},
        "key": {"key": "key-3"},
        "deep": {"after": newest // 2},
    }
    for name, which in pages.items():
        found[f"events {name}"] = world.steps(lambda tx, which=which: tx.events.page(limit=10, **which))
    filters = {
        "newest": RunFilter(),
        "hook": RunFilter(hook="test.other"),
        "handler": RunFilter(handler_id=2),
        "failed": RunFilter(states=(RunState.FAILED,)),
        "running": RunFilter(states=(RunState.RUNNING, RunState.COMMITTING)),
        "failed of handler": RunFilter(handler_id=1, states=(RunState.FAILED,)),
        "event": RunFilter(event_id="past-7"),
    }
    for name, filter_ in filters.items():
        found[f"runs {name}"] = world.steps(lambda tx, which=filter_: tx.runs.page(which, limit=10))
    return found


def test_nothing_of_every_day_gets_slower_with_history(make_world):
    short, long = make_world(SHORT), make_world(LONG)
    short.history(SHORT)
    long.history(LONG)
    few, many = costs(short), costs(long)
    # "since" looks at the nearest 2000 events at most before it takes the index of times.
    few["events since"] += 2000 * 30
    slower = {name: (few[name], steps) for name, steps in many.items() if steps > few[name] * 1.3 + 200}
    assert slower == {}


@pytest.mark.parametrize("pause", ["handler", "hook", "glob"])
def test_a_paused_backlog_costs_a_claim_nothing(make_world, pause):
    worlds = [make_world(0), make_world(1)]
    found = []
    for world, backlog in zip(worlds, (20, LONG), strict=True):
        busy = world.handler("test.*" if pause == "glob" else "test.held", "held")
        world.handler("test.happened", "free")
        with world.store.begin() as tx:
            tx.hooks.put(HookSpec(name="test.held", summary="s"), now_us=1, by="ada")
            if pause == "handler":
                tx.handlers.set_paused(busy.id, paused=True, by="ada", now_us=1)
            else:
                tx.hooks.set_paused("test.held", paused=True)
            added = tx.events.add([make_event(f"held-{n}", hook="test.held") for n in range(backlog)])
            runs = [(event.seq, NewRun(handler_id=busy.id, version=0, isolation="run")) for event, _ in added]
            tx.runs.add_many(runs, now_us=1)
        handler = world.handler("test.happened", "free")
        ids = world.runs(handler, 30)
        world.steps(claim(world))
        found.append((world.steps(claim(world)), world.steps(lambda tx: tx.runs.next_due_us())))
        assert world.claim_ids(100) == ids[20:]
    (few, few_due), (many, many_due) = found
    assert many <= few * 1.3 + 100
    assert many_due <= few_due * 1.3 + 100


def test_a_blocked_backlog_costs_a_claim_a_bounded_search(make_world):
    found = []
    for world, backlog in zip((make_world(0), make_world(1)), (3000, LONG), strict=True):
        handler = world.handler()
        with world.store.begin() as tx:
            added = tx.events.add([make_event(f"blocked-{n}") for n in range(backlog)])
            runs = [
                (event.seq, NewRun(handler_id=handler.id, version=0, isolation="run", order_key="a"))
                for event, _ in added
            ]
            tx.runs.add_many(runs, now_us=1)
        other = world.run(handler, order_key="b")
        first = world.claim_ids(10)
        assert other in first
        assert len(first) == 2
        found.append(world.steps(claim(world)))
    assert found[1] <= found[0] * 1.3 + 100


def test_the_everyday_statements_use_indexes(make_world):
    world = make_world(0)
    world.history(50)
    plans: dict[str, str] = {}
    engine = world.store._writer  # type: ignore[attr-defined]

    @sqlalchemy.event.listens_for(engine, "before_cursor_execute", named=False)
    def explain(*given) -> None:
        conn, _, statement, parameters, _, many = given
        if many or not statement.lstrip().upper().startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
            return
        rows = conn.connection.dbapi_connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        plans[statement] = "; ".join(row[3] for row in rows)

    costs(world)
    # Walks from one end of an index, ended by a limit, are no scans of history: only those in the order of the key.
    allowed = ("ORDER BY events.seq", "ORDER BY runs.id")
    scans = {
        statement: plan
        for statement, plan in plans.items()
        if re.search(r"SCAN (runs|events|r|e|p|q|w|run_logs|notices)\b(?! USING COVERING INDEX)", plan)
        and not any(order in statement for order in allowed)
    }
    assert len(plans) > 20
    assert scans == {}
