"""
Every attack is contained, at levels A and B, for a worker that is root and for one that is an ordinary user.

So it is when the handler was granted processes, or a place on the network.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
from attacks.powers import all_with
from sandbox_canaries import ORDINARY, Canaries, environment, interpreter_for

SETTINGS = [(level, who) for level in ("A", "B") for who in ("root", "user")]
POWERS = [
    (level, who, power)
    for level, who in SETTINGS
    for power in ("", "subprocess", "network")
    if power != "subprocess" or level == "A"
]
FIGHTS = [(*setting, name) for setting in POWERS for name in all_with(setting[2])]


@pytest.fixture(scope="module")
def battles():
    """Run all attacks once per setting; each test then looks at one of them."""
    fought: dict[tuple[str, str, str], dict[str, Any]] = {}

    def fight(level: str, who: str, power: str = "") -> dict[str, Any]:
        if (level, who, power) not in fought:
            if os.geteuid() != 0 and who == "root":
                pytest.skip("needs root")
            canaries = Canaries()
            with canaries.stack:
                done = subprocess.run(
                    [interpreter_for(who), "-m", "attacks"],
                    input=json.dumps({"level": level, "power": power, "canary": canaries.told(level, who)}),
                    user=ORDINARY if who == "user" and os.geteuid() == 0 else None,
                    group=ORDINARY if who == "user" and os.geteuid() == 0 else None,
                    extra_groups=[] if os.geteuid() == 0 else None,
                    env=environment(),
                    cwd="/",
                    stdout=subprocess.PIPE,
                    text=True,
                    check=False,
                )
                touched = canaries.touched()
            results = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
            fought[level, who, power] = {"results": results, "touched": touched}
        assert fought[level, who, power]["results"], "the sandbox could not be used at all; its words are above"
        return fought[level, who, power]

    return fight


@pytest.mark.parametrize(("level", "who", "power", "name"), FIGHTS)
def test_the_attack_is_contained(battles, level, who, power, name):
    found = battles(level, who, power)["results"][name]
    if found["failure"] is not None:
        assert found["failure"][0] in all_with(power)[name][1], found
    else:
        assert str(found["result"]).startswith("contained"), found


@pytest.mark.parametrize(("level", "who", "power"), POWERS)
def test_no_canary_was_touched(battles, level, who, power):
    assert battles(level, who, power)["touched"] == []


@pytest.mark.parametrize(("level", "who"), SETTINGS)
def test_the_report_names_what_stands_and_what_is_missing(battles, level, who):
    report = battles(level, who)["results"]["report"]
    assert report["level"] == level
    assert {"seccomp", "landlock", "no_new_privs", "no capabilities", "rlimits"} <= set(report["layers"])
    if level == "A":
        assert {"pid namespace", "mount namespace", "network namespace", "private root"} <= set(report["layers"])
        assert report["missing"] == {}
    else:
        assert {"private root", "capped scratch", "pid namespace"} <= set(report["missing"])
