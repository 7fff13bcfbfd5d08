"""
Attacks from other Pythons, and with packages: contained as they are from our own Python, whatever was granted.

By default a few of them run. All, in all settings:

    EVENTPROC_TEST_ALL_ATTACKS=1 pytest tests/integration/test_sandbox_attacks_elsewhere.py
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import json
import os
import subprocess

import pytest
from attacks.powers import POWER_ATTACKS, all_with
from pythons_world import needs_pypi, others
from sandbox_canaries import ORDINARY, Canaries, environment, interpreter_for

from eventproc.sandbox.installer import PASSED

EVERYTHING = bool(os.environ.get("EVENTPROC_TEST_ALL_ATTACKS"))
FEW = [
    *("read_shadow", "read_platform_file", "read_env_of_others", "scan_own_memory", "write_site_packages"),
    *("connect_loopback_tcp", "unix_path_socket", "kernel_surface", "new_userns", "process_vm_read_parent"),
    *("limit_others", "kill_others", "exec_shell", "fork_bomb", "memory_bomb", "inherited_fds", "ordinary_work"),
]
SETTINGS = [(level, who) for level in ("A", "B") for who in ("root", "user")]
POWERS = [
    (level, who, power)
    for level, who in SETTINGS
    for power in ("subprocess", "network")
    if power != "subprocess" or level == "A"
]
if not EVERYTHING:
    POWERS = [("A", "user", "subprocess"), ("A", "root", "network"), ("B", "user", "network")]
PYTHONS = ["3.8", "3.9", "3.10", "3.12", "3.13"] if EVERYTHING else ["3.8", "3.13"]


def fight(level: str, who: str, *, power: str = "", without: tuple[str, ...] = (), **order: object) -> None:
    """Let attacks loose, and see that each is contained and no canary was touched."""
    if os.geteuid() != 0 and who == "root":
        pytest.skip("needs root")
    drops = who == "user" and os.geteuid() == 0
    canaries = Canaries()
    attacks = all_with(power)
    with canaries.stack:
        names = [name for name in attacks if name not in without and (EVERYTHING or name in (*FEW, *POWER_ATTACKS))]
        told = {"level": level, "power": power, "canary": canaries.told(level, who), "only": names}
        done = subprocess.run(
            [interpreter_for(who), "-m", "attacks"],
            input=json.dumps({**told, **order}),
            user=ORDINARY if drops else None,
            group=ORDINARY if drops else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            env={
                **environment(),
                **{name: os.environ[name] for name in PASSED if name in os.environ and name != "HOME"},
            },
            cwd="/",
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        touched = canaries.touched()
    assert done.returncode == 0, "the sandbox could not be used at all; its words are above"
    results = json.loads(done.stdout.splitlines()[-1])
    assert results.pop("report")["level"] == level
    assert set(results) == set(names)
    escaped = {
        name: found
        for name, found in results.items()
        if not str(found["result"]).startswith("contained")
        and (found["failure"] is None or found["failure"][0] not in attacks[name][1])
    }
    assert escaped == {}
    assert touched == []


@needs_pypi
@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(("level", "who"), SETTINGS)
def test_attacks_from_another_python_are_contained(level, who, python):
    fight(level, who, python=_python(python, who), without=_beyond(python))


@needs_pypi
@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS if EVERYTHING else ["3.13"])
@pytest.mark.parametrize(("level", "who", "power"), POWERS)
def test_attacks_from_another_python_that_was_granted_more_are_contained(level, who, power, python):
    fight(level, who, power=power, python=_python(python, who), without=_beyond(python))


def _beyond(python: str) -> tuple[str, ...]:
    """Return what that Python can not do for want of a module."""
    return ("ordinary_work",) if python == "3.8" else ()  # it has no zoneinfo


def _python(version: str, who: str) -> str:
    """Return an interpreter of that version that the user can start; of EVENTPROC_TEST_PYTHONS, if set."""
    directory = os.environ.get("EVENTPROC_TEST_PYTHONS", "")
    candidates = [f"{directory}/{version}/bin/python{version}", f"/usr/local/bin/python{version}"]
    if version in others():
        candidates.append(others()[version].path)
    for path in candidates:
        try:
            done = subprocess.run(
                [path, "-I", "-c", ""],
                user=ORDINARY if who == "user" and os.geteuid() == 0 else None,
                check=False,
                cwd="/",
            )
        except OSError:
            continue
        if done.returncode == 0:
            return path
    pytest.skip(f"no Python {version} here that the user can start")


@pytest.mark.parametrize(("level", "who"), SETTINGS)
def test_attacks_with_packages_are_contained(level, who):
    fight(level, who, packages=True)


@pytest.mark.parametrize(("level", "who", "power"), POWERS)
def test_attacks_with_packages_and_more_granted_are_contained(level, who, power):
    fight(level, who, power=power, packages=True)
