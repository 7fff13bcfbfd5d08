"""
Handlers are contained on older kernels and in narrow containers too, and what is lacking is said.

The kernel of this host behaves as an older one to the platform: a filter answers the calls that came later with ENOSYS.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from attacks import ATTACKS
from older_kernel import FILTERED, NEWEST_CALL
from sandbox_canaries import ORDINARY, Canaries, environment, interpreter_for

TRIED = [
    *("read_shadow", "read_platform_file", "list_host", "read_env_of_others", "write_site_packages", "watch_host"),
    *("modify_existing_code", "modify_platform_file", "connect_loopback_tcp", "unix_path_socket", "kernel_surface"),
    *("new_userns", "kill_others", "exec_shell", "mount_and_chroot", "inherited_fds", "disk_fill_scratch"),
    *("memory_bomb", "ordinary_work"),
]


@pytest.fixture
def fight():
    def let_loose(kernel: str, *, level: str = "A", who: str = "user", within: tuple[str, ...] = (), **order):
        if os.geteuid() != 0 and who == "root":
            pytest.skip("needs root")
        canaries = Canaries()
        with canaries.stack:
            told = {"level": level, "power": "", "canary": canaries.told(level, who), "kernel": kernel, "only": TRIED}
            drops = who == "user" and os.geteuid() == 0
            done = subprocess.run(
                [*within, interpreter_for(who), "-m", "attacks"],
                input=json.dumps({**told, **order}),
                user=ORDINARY if drops else None,
                group=ORDINARY if drops else None,
                extra_groups=[] if os.geteuid() == 0 else None,
                env=environment(),
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )
            assert canaries.touched() == []
        return done

    return let_loose


def results_of(done) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def escaped(results: dict) -> dict:
    return {
        name: found
        for name, found in results.items()
        if not str(found["result"]).startswith("contained")
        and (found["failure"] is None or found["failure"][0] not in ATTACKS[name][1])
    }


@pytest.mark.parametrize("who", ["root", "user"])
@pytest.mark.parametrize("kernel", NEWEST_CALL)
def test_level_a_stands_without_what_came_later(fight, kernel, who):
    results = results_of(fight(kernel, who=who))
    report = results.pop("report")
    assert report["level"] == "A"
    assert report["missing"].pop("landlock") == "the private root alone decides what handlers read and write"
    assert ("Linux 5.9" in str(report["missing"])) == (kernel != "5.10")
    assert escaped(results) == {}


def test_level_b_is_refused_without_landlock(fight):
    done = fight("5.10", level="B")
    assert done.returncode != 0
    assert "level B: this kernel has no Landlock" in done.stderr


@pytest.mark.parametrize("kernel", ["5.4", "4.18"])
def test_handlers_with_places_are_refused_where_the_worker_can_not_be_asked(fight, kernel):
    found = results_of(fight(kernel, power="network", only=["other_places"]))["other_places"]
    assert found["failure"][0] == "load"
    assert "network=[…]: this kernel can not hand connections to the worker (Linux 5.9 can)" in found["failure"][1]


def test_places_can_be_reached_on_the_oldest_kernel_that_asks(fight):
    found = results_of(fight("5.10", power="network", only=["other_places", "around_the_filter"]))
    assert str(found["other_places"]["result"]).startswith("contained")
    assert str(found["around_the_filter"]["result"]).startswith("contained")


@pytest.mark.parametrize("forbidden", FILTERED)
def test_a_filter_around_the_worker_is_named_when_it_ends_the_fork_server(fight, forbidden):
    done = fight(forbidden)
    assert done.returncode != 0
    assert "a filter around the worker forbids what the sandbox needs (systemd: SystemCallFilter=)" in done.stderr


@pytest.mark.parametrize("level", ["A", "B"])
def test_root_of_a_container_that_has_no_other_user_is_as_good_as_an_ordinary_user(fight, level):
    if not shutil.which("unshare"):
        pytest.skip("unshare (package util-linux) is not installed")
    results = results_of(fight("", level=level, within=("unshare", "--user", "--map-root-user")))
    assert results.pop("report")["level"] == level
    assert escaped(results) == {}
