"""Run attacks at one level, with one power, one Python and one set of packages; print what became of each."""

# mypy: ignore-errors

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import older_kernel
from pythons_world import make_wheels
from sandbox_world import Session, call, program

from attacks import LIMITS, by_value
from attacks.powers import all_with
from eventproc.model import Limits, NetworkGrant, NetworkPolicy, Policy
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.sandbox.interpreters import RUNNING, Interpreters
from eventproc.sandbox.provider import Provider

DUMP = """
import base64, json, sys
sys.path[:0] = [{tests!r}, {dill!r}]
import dill
from attacks import by_value
from attacks.powers import all_with
blobs = {{name: dill.dumps(by_value(each[0]), recurse=True) for name, each in all_with({power!r}).items()}}
print(json.dumps({{name: base64.b64encode(blob).decode() for name, blob in blobs.items()}}))
"""


class Battle:
    """One sandbox, and the programs to be let loose in it."""

    def __init__(self, order, root):
        self._order = order
        self._power = order["power"]
        settings = make_wheels(root / "wheels") if order.get("packages") else None
        interpreters = Interpreters([order["python"]]) if order.get("python") else None
        self._provider = Provider(root / "environments", settings=settings, interpreters=interpreters)
        policy = Policy(network=NetworkPolicy(grant=NetworkGrant.ANY))
        self.sandbox = ForkServerSandbox(levels=[order["level"]], policy=policy, provider=self._provider)
        self._version = RUNNING
        self._blobs = self._of_another_python() if order.get("python") else {}
        self._environment = self._provider.resolve(RUNNING, ["colours"]) if order.get("packages") else None

    def _of_another_python(self):
        """Have the other interpreter pickle the attacks, with the dill that its handlers find."""
        self._version = next(version for version in self.sandbox.pythons(wait=True) if version != RUNNING)
        self.sandbox.check(program(b"", python=self._version), Limits())
        dill = next(entry.path for entry in self._provider.environments.all() if f"-{self._version}" in entry.name)
        code = DUMP.format(tests=str(Path(__file__).parents[1]), dill=str(dill), power=self._power)
        command = [self._order["python"], "-I", "-B", "-c", code]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd="/")
        return {name: base64.b64decode(blob) for name, blob in json.loads(done.stdout).items()}

    def armed(self, name, function):
        return replace(
            program(self._blobs.get(name) or by_value(function), python=self._version),
            allow_subprocess=self._power == "subprocess",
            network=("127.0.0.1:9",) if self._power == "network" else (),
            environment=self._environment,
        )

    def fight(self, asked):
        child = self.sandbox.spawn(asked, Limits(**LIMITS))
        (outcome,) = child.execute([(call(1, self._order["canary"]), Session())])
        child.close()
        failure = outcome.failure
        return {
            "result": None if outcome.result_json is None else json.loads(outcome.result_json),
            "failure": None if failure is None else [failure.kind, failure.message[:500]],
        }


def main():
    order = json.loads(sys.stdin.read())
    if order.get("kernel"):
        older_kernel.pretend(order["kernel"])
    with tempfile.TemporaryDirectory(prefix="ep-attacks-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)
        battle = Battle(order, Path(directory))
        report = battle.sandbox.report()
        results = {"report": {"level": report.level, "layers": report.layers, "missing": dict(report.missing)}}
        attacks = all_with(order["power"])
        attacks = {name: attacks[name] for name in order.get("only") or attacks}
        programs = [
            battle.armed(name, attacks[name][0]) for name in attacks
        ]  # dill borrows sys.stdout: not from threads
        with ThreadPoolExecutor(3) as pool:  # many only wait for their end
            fought = pool.map(battle.fight, programs)
            results.update(zip(attacks, fought, strict=True))
        battle.sandbox.close()
    print(json.dumps(results))


main()
