"""Whatever workers, users and crashes do, runs keep to their states."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from store_world import LEASE_US, World

from eventproc.model import FINAL_STATES, Claim, Concurrency, Failure, Finish, Options, RunState
from eventproc.store.memory import MemoryStore

MAX_INTERRUPTIONS = 2
FAILURE = Failure(kind="exception", message="no")
FROM_RUNNING = st.sampled_from(
    [
        RunState.SUCCEEDED,
        RunState.COMMITTING,
        RunState.FAILED,
        RunState.RETRYING,
        RunState.QUEUED,
        RunState.CANCELLED,
    ]
)
# What may follow each state; a state may also stay.
NEXT = {
    "queued": {"running", "cancelled"},
    "retrying": {"running", "cancelled"},
    "running": {"succeeded", "committing", "failed", "retrying", "queued", "cancelled", "commit_failed"},
    "committing": {"succeeded", "commit_failed"},
    "succeeded": set(),
    "failed": {"queued"},
    "commit_failed": {"queued"},
    "cancelled": {"queued"},
}


class Runs(RuleBasedStateMachine):
    """Two handlers, one of them limited to two runs at a time; three order keys."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.world = World(MemoryStore())
        self.handlers = [
            self.world.handler(name="free"),
            self.world.handler(name="limited", options=Options(concurrency=Concurrency(count=2))),
        ]
        self.ids: list[int] = []
        self.before: dict[int, str] = {}
        self.tokens: dict[int, int] = {}
        self.held: dict[int, Claim] = {}

    def teardown(self) -> None:
        self.world.store.close()

    @rule(handler=st.integers(0, 1), key=st.sampled_from([None, "a", "b"]))
    def accept(self, handler: int, key: str | None) -> None:
        self.ids.append(self.world.run(self.handlers[handler], order_key=key))

    @rule(target=claims, want=st.integers(1, 4))
    def claim(self, want: int):
        claims = self.world.claim(want)
        for claim in claims:
            assert claim.run_id not in self.held, "leased twice"
            assert claim.token > self.tokens.get(claim.run_id, 0), "the token does not fence"
            self.tokens[claim.run_id] = claim.token
            self.held[claim.run_id] = claim
        return multiple(*claims)

    @rule(claim=claims, state=FROM_RUNNING)
    def finish(self, claim: Claim, state: RunState) -> None:
        ours = self.held.get(claim.run_id) is claim
        if self.before.get(claim.run_id) == "committing":
            state = RunState.SUCCEEDED if state == RunState.SUCCEEDED else RunState.COMMIT_FAILED
        failed = state in (RunState.FAILED, RunState.COMMIT_FAILED, RunState.RETRYING)
        finish = Finish(
            run_id=claim.run_id,
            token=claim.token,
            state=state,
            failure=FAILURE if failed else None,
            due_us=self.world.now_us,
            count_attempt=state != RunState.QUEUED,
        )
        before = self.world.get(claim.run_id)
        with self.world.store.begin() as tx:
            written = tx.runs.finish([finish], now_us=self.world.now_us)
        assert written == ({claim.run_id} if ours else set()), "a stale lease wrote, or a good one did not"
        if not ours:
            assert self.world.get(claim.run_id) == before
        elif state != RunState.COMMITTING:
            del self.held[claim.run_id]

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        with self.world.store.begin() as tx:
            asked = tx.runs.cancel_requests([claim.run_id])
            kept = tx.runs.renew([(claim.run_id, claim.token)], lease_us=LEASE_US, now_us=self.world.now_us)
        ours = self.held.get(claim.run_id) is claim and not asked
        assert kept == ({claim.run_id} if ours else set())

    @rule(claim=consumes(claims))
    def forget(self, claim: Claim) -> None:
        """A worker dies."""

    @rule()
    def expire(self) -> None:
        self.world.later(61)
        with self.world.store.begin() as tx:
            gone = tx.runs.expire_leases(now_us=self.world.now_us, max_interruptions=MAX_INTERRUPTIONS)
        assert {run.id for run in gone} == set(self.held)
        self.held.clear()

    @rule(data=st.data())
    def cancel(self, data) -> None:
        if self.ids:
            chosen = data.draw(st.lists(st.sampled_from(self.ids), max_size=3, unique=True))
            with self.world.store.begin() as tx:
                cancelled, asked = tx.runs.cancel(chosen, now_us=self.world.now_us, reason="no need")
            assert asked == set(chosen) & set(self.held)
            assert cancelled == {run_id for run_id in chosen if self.before[run_id] in ("queued", "retrying")}

    @rule(data=st.data(), current=st.booleans())
    def requeue(self, data, current) -> None:
        if self.ids:
            chosen = data.draw(st.lists(st.sampled_from(self.ids), max_size=3, unique=True))
            recorded = {run_id for run_id in chosen if self.before[run_id] == "commit_failed"}
            with self.world.store.begin() as tx:
                queued = tx.runs.requeue(chosen, now_us=self.world.now_us, current=current)
            assert queued == {r for r in chosen if self.before[r] in ("failed", "commit_failed", "cancelled")}
            assert all(self.world.get(run_id).callbacks_only for run_id in recorded)

    @invariant()
    def states_follow_each_other(self) -> None:
        runs = {run_id: self.world.get(run_id) for run_id in self.ids}
        for run_id, run in runs.items():
            before = self.before.get(run_id, "queued")
            assert run.state == before or run.state in NEXT[before], f"{before} → {run.state}"
            assert (run.finished_us is not None) == (run.state in FINAL_STATES)
            assert (run.state in (RunState.RUNNING, RunState.COMMITTING)) == (run_id in self.held)
            assert run.interruptions <= MAX_INTERRUPTIONS + 1
            assert run.attempt >= 0
        self.before = {run_id: str(run.state) for run_id, run in runs.items()}

    @invariant()
    def limits_hold(self) -> None:
        leased = [self.world.get(run_id) for run_id in self.held]
        assert sum(run.handler_id == self.handlers[1].id for run in leased) <= 2
        keys = [(run.handler_id, run.order_key) for run in leased if run.order_key]
        assert len(keys) == len(set(keys)), "two runs of one order key at a time"

    @invariant()
    def counts_agree(self) -> None:
        expected: dict[str, int] = {}
        for state in (str(self.world.get(run_id).state) for run_id in self.ids):
            if state not in ("succeeded", "cancelled"):
                expected[state] = expected.get(state, 0) + 1
        with self.world.store.read() as tx:
            assert tx.runs.counts() == expected


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=40, stateful_step_count=30)
