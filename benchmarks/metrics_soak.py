"""
A day of metrics through a real platform, compressed in time, with roles killed in between.

    python benchmarks/metrics_soak.py [--metrics 2000] [--hours 24] [--kills 12]

Every --metrics metric gets a sample every five minutes of --hours simulated hours, over TCP through the Graphite port,
some of them bad, doubled or late. Listener, models and the whole platform are killed (-9) and restarted all the while,
in the middle of a step too. The sender closes its half and waits: a clean end says that all is stored, anything else
that it must send the step again. At the end every sample must be accounted for
(stored, or refused with a reason), every stored row of a monitored metric scored and told of exactly once, a few
metrics' scores the same as without any kill, and memory flat. Exit status 1 if anything of that is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from models_world import wave
from serving import Served, alive
from waiting import wait_until

from eventproc.models.parameters import model_params
from eventproc.models.scorer import Scorer
from eventproc.models.specs import parse_spec

STEP = 300
EPOCH = 1_386_201_600
SPEC = {"modelParams": {"min": 0, "max": 100}}
SETTLE_S = 300.0


@dataclass
class Soak:
    """The platform, what was sent, and what was measured on the way."""

    served: Served
    metrics: int
    steps: int
    kills: int
    seed: int = 1
    sent: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.values = wave(self.steps + 200)

    def name(self, number: int) -> str:
        return f"soak.host{number % 50}.metric{number}"

    def value(self, number: int, step: int) -> float:
        return self.values[step + number % 200]

    def run(self) -> list[str]:
        """Do it; return what is not as it should be."""
        conn = self.served.connect()
        started = time.monotonic()
        for number in range(self.metrics):
            conn.monitor(self.name(number), spec={"metricSpec": {"metric": self.name(number)}, **SPEC})
        print(f"{self.metrics} metrics monitored in {time.monotonic() - started:.0f} s", flush=True)
        doomed = sorted(self.random.sample(range(1, self.steps), min(self.kills, self.steps - 1)))
        started = time.monotonic()
        for step in range(self.steps):
            if step in doomed:
                self.kill_while_sending(step, doomed.index(step))
            else:
                self.send_step(step)
            if step % max(1, self.steps // 12) == 0:
                self.note_memory(step)
        seconds = time.monotonic() - started
        self.settle()
        total = time.monotonic() - started
        rows = self.metrics * self.steps
        print(f"{rows} samples sent in {seconds:.0f} s, all scored after {total:.0f} s: {rows / total:.0f}/s")
        self.note_memory(self.steps)
        return self.problems()

    def kill_while_sending(self, step: int, number: int) -> None:
        """Kill at some moment of a step's sending."""
        with ThreadPoolExecutor(1) as sender:
            sent = sender.submit(self.send_step, step)
            time.sleep(self.random.random() * 0.05)
            self.kill(number)
            sent.result()

    def send_step(self, step: int) -> None:
        lines = [f"{self.name(n)} {self.value(n, step)!r} {EPOCH + step * STEP}" for n in range(self.metrics)]
        self.sent["good"] += self.metrics
        if step:
            for number in self.random.sample(range(self.metrics), max(1, self.metrics // 100)):
                late, double = step - 1, step
                lines.append(f"{self.name(number)} 1 {EPOCH + late * STEP}")
                lines.append(f"{self.name(number)} {self.value(number, double)!r} {EPOCH + double * STEP}")
                lines.append(f"{self.name(number)} much {EPOCH + step * STEP}")
                self.sent["bad"] += 3
        wait_until(lambda: self.try_send(lines), timeout_s=120, what="the listener to take a batch")

    def try_send(self, lines: list[str]) -> bool:
        """Send, and say whether all is stored. What is sent again was perhaps stored, and is refused then."""
        with contextlib.suppress(OSError), self.connected() as client:  # killed: what the listener had is not known
            self.sent["again"] += len(lines)
            client.sendall("".join(f"{line}\n" for line in lines).encode())
            client.shutdown(socket.SHUT_WR)
            if client.recv(1) == b"":
                self.sent["again"] -= len(lines)
                return True
        return False

    def connected(self) -> socket.socket:
        """Return a new connection; OSError where the listener, or the whole platform, is just not there."""
        host, _, port = self.served.endpoints["graphite"].rpartition(":")
        return socket.create_connection((host, int(port)), timeout=60)

    def kill(self, number: int) -> None:
        what = ("models", "listener", "models", "all", "stop")[number % 5]
        if what == "all":
            self.served.kill_all()
            self.served.start()
        elif what == "stop":
            self.served.stop()
            self.served.start()
        else:
            self.served.kill_role(what)
        print(f"  {what} ended and came back", flush=True)

    def note_memory(self, step: int) -> None:
        found = {}
        for role in ("listener", "models", "api"):
            pid = self.served.pid_of(role)
            if pid is not None and alive(pid):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                found[role] = next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))
        self.memory.append((step, found))
        print(f"  step {step}: MB resident " + ", ".join(f"{k} {v:.0f}" for k, v in found.items()), flush=True)

    def query(self, sql: str) -> list[tuple[float, ...]]:
        conn = sqlite3.connect(self.served.data / "eventproc.db", timeout=60)
        try:
            return conn.execute(sql).fetchall()
        finally:
            conn.close()

    def settle(self) -> None:
        """Wait until all is scored; fail when nothing was for SETTLE_S."""
        want = self.metrics * self.steps
        scored = 0.0
        while scored < want:
            scored = wait_until(
                partial(self.scored_beyond, scored), timeout_s=SETTLE_S, what=f"more than {scored:.0f} of {want} scores"
            )

    def scored_beyond(self, before: float) -> float:
        """Return how many samples have their score, 0 where they are no more than `before`."""
        scored = self.query("SELECT sum(scored_rowid) FROM metric_states")[0][0]
        return scored if scored > before else 0.0

    def problems(self) -> list[str]:
        return [*self.samples(), *self.events(), *self.scores(), *self.growth()]

    def samples(self) -> list[str]:
        found = []
        want = self.metrics * self.steps
        (stored,) = self.query("SELECT count(*) FROM metric_samples")[0]
        (unscored,) = self.query("SELECT count(*) FROM metric_samples WHERE anomaly_score IS NULL")[0]
        refused = dict(self.query("SELECT reason, sum(rejected) FROM metric_rejects GROUP BY reason"))
        print(f"stored {stored} of {want}; refused: {refused}; sent: {dict(self.sent)}")
        if stored != want:
            found.append(f"{want} samples were good, {stored} are stored")
        if unscored:
            found.append(f"{unscored} rows are not scored")
        accounted = stored + sum(refused.values())
        once, again = self.sent["good"] + self.sent["bad"], self.sent["again"]
        if not once <= accounted <= once + again:  # an attempt that was cut short counts in part
            found.append(f"{once} samples were sent, and {again} in vain; {accounted} are accounted for")
        return found

    def events(self) -> list[str]:
        told: Counter[tuple[str, int]] = Counter()
        batches = 0
        for (payload,) in self.query("SELECT payload_json FROM events WHERE hook = 'inference.batch_done'"):
            read = json.loads(str(payload))
            batches += 1
            told.update((read["metric"]["name"], row["rowid"]) for row in read["results"])
        doubled = sum(1 for times in told.values() if times > 1)
        print(f"{batches} batches told of {len(told)} rows; {doubled} of them more than once")
        missing = self.metrics * self.steps - len(told)
        return [f"{missing} rows were not told of, {doubled} more than once"] if missing or doubled else []

    def scores(self) -> list[str]:
        """Compare a few metrics with a model that was never disturbed."""
        params = model_params(parse_spec({"metricSpec": {"metric": "x"}, **SPEC}))["detector"]
        times = (EPOCH + np.arange(self.steps) * STEP) * 1_000_000
        found = []
        for number in self.random.sample(range(self.metrics), min(10, self.metrics)):
            values = np.array([self.value(number, step) for step in range(self.steps)])
            expected = Scorer.new(params).score(values, times)
            rows = self.query(
                "SELECT raw_score, anomaly_score FROM metric_samples JOIN metrics ON id = metric_id"
                f" WHERE name = '{self.name(number)}' ORDER BY rowid"
            )
            if rows != list(zip(expected.raw.tolist(), expected.anomaly.tolist(), strict=True)):
                found.append(f"the scores of {self.name(number)} are not those of an undisturbed model")
        return found

    def growth(self) -> list[str]:
        """Compare the first half's largest resident memory with the second half's; models grow until all are loaded."""
        found = []
        half = self.steps // 2
        for role in ("listener", "api"):
            early = [sizes[role] for step, sizes in self.memory if step <= half and role in sizes]
            late = [sizes[role] for step, sizes in self.memory if step > half and role in sizes]
            if early and late and max(late) > 1.3 * max(early) + 30:
                found.append(f"{role} grew from {max(early):.0f} MB to {max(late):.0f} MB")
        models = [sizes["models"] for _, sizes in self.memory if "models" in sizes]
        allowed = 600 + 1.5 * 1074  # the interpreter with the compiler, and the default memory of models
        if models and max(models) > allowed:
            found.append(f"models took {max(models):.0f} MB")
        return found


def soak(directory: Path, *, metrics: int, steps: int, kills: int) -> list[str]:
    """Run it on a fresh data directory; return what is not as it should be."""
    served = Served(
        directory / "data",
        EVENTPROC_GRAPHITE="127.0.0.1:0",
        EVENTPROC_MODELS__LEASE="3s",
    )
    try:
        return Soak(served.start(), metrics, steps, kills).run()
    finally:
        served.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", type=int, default=2000)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--kills", type=int, default=12)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        steps = max(2, round(chosen.hours * 3600 / STEP))
        problems = soak(Path(directory), metrics=chosen.metrics, steps=steps, kills=chosen.kills)
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("all well" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
