"""Every attack is contained, at levels A and B, for a worker that is root and for one that is an ordinary user."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sandbox_attacks import ATTACKS
from sandbox_canaries import ORDINARY, SECRET, Canaries

TESTS = Path(__file__).parents[1]
SETTINGS = [(level, who) for level in ("A", "B") for who in ("root", "user")]


def interpreter_for(who: str) -> str:
    """Return an interpreter of our version that the user can start, with all we need on its path."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"]
    for candidate in candidates:
        if not shutil.which(candidate):
            continue
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [candidate, "-c", "import dill, numpy, structlog, eventproc"],
                user=ORDINARY if who == "user" else None,
                env=environment(),
                cwd="/",
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                return candidate
    pytest.skip(f"no Python {version} that user {ORDINARY} can start: install python{version} for all users")


def environment() -> dict[str, str]:
    packages = [path for path in sys.path if path.endswith("site-packages")]
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS), *packages]),
        "ENVIRONMENT": SECRET,
        "EVENTPROC_SECRET_KEY": SECRET,
    }


@pytest.fixture(scope="module")
def battles():
    """Run all attacks once per setting; each test then looks at one of them."""
    fought: dict[tuple[str, str], dict[str, Any]] = {}

    def fight(level: str, who: str) -> dict[str, Any]:
        if (level, who) not in fought:
            if os.geteuid() != 0 and who == "root":
                pytest.skip("needs root")
            canaries = Canaries()
            with canaries.stack:
                done = subprocess.run(
                    [interpreter_for(who), str(TESTS / "sandbox_attacks.py")],
                    input=json.dumps({"level": level, "canary": canaries.told(level, who)}),
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
            fought[level, who] = {"results": results, "touched": touched}
        assert fought[level, who]["results"], "the sandbox could not be used at all; its words are above"
        return fought[level, who]

    return fight


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("level", "who"), SETTINGS)
def test_the_attack_is_contained(battles, level, who, name):
    found = battles(level, who)["results"][name]
    if found["failure"] is not None:
        assert found["failure"][0] in ATTACKS[name][1], found
    else:
        assert str(found["result"]).startswith("contained"), found


@pytest.mark.parametrize(("level", "who"), SETTINGS)
def test_no_canary_was_touched(battles, level, who):
    assert battles(level, who)["touched"] == []


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
