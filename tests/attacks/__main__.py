"""Run all attacks at one level and with one power, and print what became of each."""

# mypy: ignore-errors

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from sandbox_world import Session, call, program

from attacks import LIMITS, by_value
from attacks.powers import all_with
from eventproc.model import Limits, NetworkGrant, NetworkPolicy, Policy
from eventproc.sandbox.forkserver import ForkServerSandbox


def main():
    order = json.loads(sys.stdin.read())
    power = order["power"]
    policy = Policy(network=NetworkPolicy(grant=NetworkGrant.ANY))
    sandbox = ForkServerSandbox(levels=[order["level"]], policy=policy)
    report = sandbox.report()
    results = {"report": {"level": report.level, "layers": report.layers, "missing": dict(report.missing)}}

    def armed(function):
        return replace(
            program(by_value(function)),
            allow_subprocess=power == "subprocess",
            network=("127.0.0.1:9",) if power == "network" else (),
        )

    def fight(asked):
        child = sandbox.spawn(asked, Limits(**LIMITS))
        (outcome,) = child.execute([(call(1, order["canary"]), Session())])
        child.close()
        failure = outcome.failure
        return {
            "result": None if outcome.result_json is None else json.loads(outcome.result_json),
            "failure": None if failure is None else [failure.kind, failure.message[:500]],
        }

    attacks = all_with(power)
    programs = [armed(function) for function, *_ in attacks.values()]  # dill borrows sys.stdout: not from threads
    with ThreadPoolExecutor(3) as pool:  # many only wait for their end
        fought = pool.map(fight, programs)
        results.update(zip(attacks, fought, strict=True))
    sandbox.close()
    print(json.dumps(results))


main()
