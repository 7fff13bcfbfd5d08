"""Packages of handlers: locked, installed once, used read-only, removed when room is needed."""

# Handlers stand here as users write them.
# ruff: noqa: PTH101, PTH108, PTH118, PTH120, PTH123, SIM115, ICN001

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pythons_world import another, blob_of, make_wheel, make_wheels, needs_pypi, result_of
from sandbox_world import Session, call, program
from waiting import wait_until

from eventproc.errors import RequirementsError, SandboxError, UnsupportedOption
from eventproc.model import Limits
from eventproc.sandbox.environments import Environments
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.sandbox.installer import InstallSettings
from eventproc.sandbox.interpreters import RUNNING
from eventproc.sandbox.memory import InProcessSandbox
from eventproc.sandbox.provider import NoPackages, Provider


def painter():
    """Return a handler that is defined inside a function, and so travels by value."""

    def paints(db):
        import colours
        import paint

        return [paint.NAME, colours.__file__]

    return paints


def vandal():
    def tries_to_change(db):
        import os

        import colours

        found = []
        for attempt in (
            lambda: open(colours.__file__, "a"),
            lambda: os.chmod(colours.__file__, 0o777),
            lambda: os.unlink(colours.__file__),
            lambda: open(os.path.join(os.path.dirname(colours.__file__), "new.py"), "w"),
        ):
            try:
                attempt()
                found.append("done")
            except OSError as error:
                found.append(type(error).__name__)
        return found

    return tries_to_change


@pytest.fixture(scope="module", params=["A", "B"])
def sandbox(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(f"environments-{request.param}") / "data" / "environments"
    settings = make_wheels(root.parent.parent / "wheels")
    make_wheel(root.parent.parent / "wheels", "evil", "1", {"numpy/__init__.py": EVIL, "evil.py": ""})
    made = ForkServerSandbox(levels=[request.param], provider=Provider(root, settings=settings))
    yield made
    made.close()


EVIL = """
import os
WHERE = [os.getpid(), os.getuid()]
try:
    open("/etc/shadow").close(); WHERE.append("read")
except OSError:
    WHERE.append("refused")
"""


def with_packages(sandbox, handler, requirements, *, python=RUNNING, isolation="run"):
    base = program(handler, python=python)
    return replace(base, environment=sandbox.resolve(python, requirements), isolation=isolation)


def run(sandbox, wanted, calls=1):
    child = sandbox.spawn(wanted, Limits())
    try:
        return [*child.execute([(call(number + 1, {}), Session()) for number in range(calls)])]
    finally:
        child.close()


def test_a_handler_has_its_packages_and_what_they_need(sandbox):
    for isolation in ("run", "cell"):
        wanted = with_packages(sandbox, painter(), ["paint", "colours==1.*"], isolation=isolation)
        for outcome in run(sandbox, wanted, 2):
            name, where = result_of(outcome)
            assert name == "red"
            assert wanted.environment.digest in where


def test_two_versions_of_a_package_live_side_by_side(sandbox):
    old = with_packages(sandbox, painter(), ["paint", "colours<2"])
    new = with_packages(sandbox, painter(), ["paint"])
    assert old.environment.packages == ("colours==1.0", "paint==1.1")
    assert new.environment.packages == ("colours==2.0", "paint==1.1")
    assert [result_of(run(sandbox, each)[0])[0] for each in (old, new, old)] == ["red", "blue", "red"]


def test_a_lock_holds_the_hash_of_each_file_and_is_the_same_again(sandbox):
    first, second = (sandbox.resolve(RUNNING, ["paint"]) for _ in range(2))
    assert first == second
    assert first.lock.count("--hash=sha256:") == 2


def test_packages_can_not_be_changed_from_inside(sandbox):
    found = result_of(run(sandbox, with_packages(sandbox, vandal(), ["colours"]))[0])
    assert "done" not in found


def test_other_pythons_have_packages_too(sandbox):
    python = another()
    blob = blob_of(python, "def handler(db):\n    import paint, sys\n    return [paint.NAME, sys.version_info[1]]\n")
    wanted = with_packages(sandbox, blob, ["paint"], python=python.version)
    assert result_of(run(sandbox, wanted)[0]) == ["blue", python.release[1]]


def test_packages_are_imported_by_the_contained_process_only(sandbox):
    """A package that calls itself numpy does not run where handlers are forked from."""

    def handler(db):
        import os

        import numpy

        return [numpy.WHERE, os.getpid(), os.getuid()]

    (pid, uid, word), own_pid, own_uid = result_of(run(sandbox, with_packages(sandbox, handler, ["evil"]))[0])
    assert (pid, uid, word) == (own_pid, own_uid, "refused")


def test_without_requirements_nothing_of_them_is_seen(sandbox):
    run(sandbox, with_packages(sandbox, painter(), ["paint"]))
    (outcome,) = run(sandbox, program(painter()))
    assert outcome.failure.type == "ModuleNotFoundError"


@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        (["nosuchthing"], "nosuchthing was not found"),
        (["colours==9"], "colours==9"),
        (["paint", "colours<1"], "colours"),
    ],
)
def test_what_can_not_be_resolved_is_refused_with_the_installers_words(sandbox, requirements, words):
    with pytest.raises(RequirementsError, match="can not be resolved") as caught:
        sandbox.resolve(RUNNING, requirements)
    assert words in caught.value.message
    assert caught.value.details["output"]


def test_a_file_that_is_not_what_was_locked_is_refused(tmp_path):
    settings = make_wheels(tmp_path / "wheels")
    provider = Provider(tmp_path / "data" / "environments", settings=settings)
    sandbox = ForkServerSandbox(provider=provider)
    try:
        wanted = with_packages(sandbox, painter(), ["paint"])
        make_wheel(tmp_path / "wheels", "colours", "2.0", {"colours/__init__.py": "NAME = 'stolen'\n"})
        provider.installer.clean()
        with pytest.raises(RequirementsError, match=r"can not be installed(.|\n)*[Hh]ash"):
            sandbox.spawn(wanted, Limits())
        assert provider.environments.all() == []
    finally:
        sandbox.close()


def test_source_archives_are_not_built_unless_permitted(tmp_path):
    project = tmp_path / "source"
    project.mkdir()
    ran = tmp_path / "ran"
    (project / "setup.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='sourced', version='1')\n"
    )
    (tmp_path / "wheels").mkdir()
    with tarfile.open(tmp_path / "wheels" / "sourced-1.tar.gz", "w:gz") as archive:
        archive.add(project, "sourced-1")
    settings = InstallSettings(find_links=(str(tmp_path / "wheels"),), offline=True)
    provider = Provider(tmp_path / "data" / "environments", settings=settings)
    with pytest.raises(RequirementsError, match="sourced"):
        provider.resolve(RUNNING, ["sourced"])
    assert not ran.exists()


def test_where_it_is_not_allowed_it_is_refused_in_those_words(tmp_path):
    sandbox = ForkServerSandbox(provider=NoPackages(tmp_path / "environments"))
    with pytest.raises(UnsupportedOption, match=r"environments\.allowed"):
        sandbox.resolve(RUNNING, ["paint"])
    sandbox.close()
    plain = ForkServerSandbox()
    with pytest.raises(UnsupportedOption):
        plain.resolve(RUNNING, ["paint"])
    plain.close()


def test_in_this_process_the_packages_at_hand_are_compared():
    sandbox = InProcessSandbox()
    assert sandbox.resolve(RUNNING, ["numpy>=1", "nosuch; python_version < '3'"]).requirements[0] == "numpy>=1"
    with pytest.raises(RequirementsError, match=r"numpy is .*, not <1; nosuchthing is not installed"):
        sandbox.resolve(RUNNING, ["numpy<1", "nosuchthing"])


# ---------------------------------------------------------------------- the directories


def entries(root: Path, *, max_bytes: int = 1 << 30) -> Environments:
    return Environments(root / "environments", max_bytes=max_bytes, build_s=30)


def fill(size: int = 10):
    def build(target: Path, fd: int):
        (target / "file").write_bytes(os.urandom(size))
        return {"python": "3.11.7", "packages": ["x==1"]}

    return build


def test_many_who_ask_at_once_build_once(tmp_path):
    built, paths = [], []

    def build(target: Path, fd: int):
        built.append(target)
        time.sleep(0.2)
        return fill()(target, fd)

    def ask():
        held = entries(tmp_path).hold("one", build)
        paths.append(held.path)
        held.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert len(paths) == 8
    assert len(set(paths)) == 1


def test_a_build_that_fails_leaves_nothing_and_may_be_tried_again(tmp_path):
    def fails(target: Path, fd: int):
        (target / "half").write_text("made")
        raise RequirementsError("no such thing")

    kept = entries(tmp_path)
    with pytest.raises(RequirementsError):
        kept.hold("one", fails)
    assert kept.all() == []
    assert list((tmp_path / "environments" / "building").iterdir()) == []
    kept.hold("one", fill()).close()
    assert [entry.name for entry in kept.all()] == ["one"]


def test_the_longest_unused_goes_first_and_what_is_in_use_stays(tmp_path):
    kept = entries(tmp_path, max_bytes=350_000)
    held = kept.hold("oldest", fill(100_000))
    for name, age in (("older", 5000), ("newer", 4000)):
        kept.hold(name, fill(100_000)).close()
        os.utime(kept._place(name) / "eventproc-environment.json", (time.time() - age,) * 2)
    os.utime(held.path / "eventproc-environment.json", (time.time() - 9000,) * 2)
    kept.hold("newest", fill(100_000)).close()
    assert [entry.name for entry in kept.all()] == ["oldest", "newer", "newest"]
    assert [entry.in_use for entry in kept.all()] == [True, False, False]
    assert not kept.remove("oldest")
    held.close()
    assert kept.remove("oldest")


KILLED = """
import sys, time
from pathlib import Path
from eventproc.sandbox.environments import Environments
def build(target, fd):
    (target / "half").write_text("made")
    print("building", flush=True)
    time.sleep(60)
    return {}
Environments(Path(sys.argv[1]) / "environments", max_bytes=1 << 30, build_s=30).hold("one", build)
"""


def test_a_builder_that_is_killed_leaves_nothing_that_is_used(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "building\n"
        kept = entries(tmp_path)
        assert kept.find("one") is None
        kept.sweep()
        assert len(list((tmp_path / "environments" / "building").iterdir())) == 1, "it is still being built"
        process.send_signal(signal.SIGKILL)
    held = kept.hold("one", fill())
    assert [path.name for path in sorted(held.path.iterdir())] == ["eventproc-environment.json", "file"]
    held.close()
    assert list((tmp_path / "environments" / "building").iterdir()) == []


def test_a_user_that_is_killed_lets_go(tmp_path):
    kept = entries(tmp_path)
    kept.hold("one", fill()).close()
    code = KILLED.replace(".hold(", ".find(").replace(
        '"one", build)', '"one"); print("held", flush=True); time.sleep(60)'
    )
    code = code.replace("Environments(Path", "held = Environments(Path")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "held\n"
        assert kept.all()[0].in_use
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: kept.remove("one"), what="the removal of what nobody uses")


def test_packages_that_need_more_than_the_bound_are_refused(tmp_path):
    settings = make_wheels(tmp_path / "wheels")
    make_wheel(tmp_path / "wheels", "large", "1", {"large.py": "x = '''" + "a b c d " * 200_000 + "'''"})
    provider = Provider(tmp_path / "data" / "environments", settings=replace(settings, max_bytes=1 << 20))
    sandbox = ForkServerSandbox(provider=provider)
    try:
        with pytest.raises(RequirementsError, match=r"environments\.max_size"):
            sandbox.spawn(with_packages(sandbox, painter(), ["large"]), Limits())
        assert provider.environments.all() == []
    finally:
        sandbox.close()


def test_a_stop_ends_an_installation(tmp_path):
    slow = tmp_path / "uv"
    slow.write_text("#!/bin/sh\nsleep 60\n")
    slow.chmod(0o755)
    provider = Provider(tmp_path / "data" / "environments", settings=InstallSettings(offline=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eventproc.sandbox.installer.find_uv", lambda: str(slow))
        raised = []

        def resolve():
            with contextlib.suppress(SandboxError):
                provider.resolve(RUNNING, ["paint"])
            raised.append(True)

        thread = threading.Thread(target=resolve)
        thread.start()
        provider.stop()
        thread.join(20)
    assert raised == [True]


@needs_pypi
def test_from_the_package_index(tmp_path):
    sandbox = ForkServerSandbox(provider=Provider(tmp_path / "data" / "environments"))

    def handler(db):
        import iniconfig

        return iniconfig.__name__

    try:
        assert result_of(run(sandbox, with_packages(sandbox, handler, ["iniconfig==2.0.0"]))[0]) == "iniconfig"
        with pytest.raises(RequirementsError, match="eventproc-no-such-package-at-all"):
            sandbox.resolve(RUNNING, ["eventproc-no-such-package-at-all"])
    finally:
        sandbox.close()
