"""Handlers made by other Pythons run with the Python that made them, contained like all others."""

from __future__ import annotations

import json
import struct
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from pythons_world import another, blob_of, make_wheels, needs_pypi, others, result_of
from sandbox_world import Session, call, program
from waiting import wait_until

from eventproc.errors import SandboxError
from eventproc.model import Limits
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.sandbox.installer import InstallSettings
from eventproc.sandbox.interpreters import RUNNING, Interpreters
from eventproc.sandbox.provider import Provider

TELLS = """
def handler(db, **payload):
    import sys
    return {"python": list(sys.version_info[:2]), "path": sys.executable, **payload}
"""
READS = """
def handler(db):
    times, values = db.values("3d5b1a52-8f52-4a8e-9d2c-0f4b6f3a1c11", 0, 10)
    return [type(times).__name__, [int(each) for each in times], [float(each) for each in values]]
"""
ATTACKS = """
def handler(db):
    import os, socket
    found = {}
    for name, attempt in {
        "shadow": lambda: open("/etc/shadow").read(),
        "fork": lambda: os.fork() and None,
        "connect": lambda: socket.create_connection(("127.0.0.1", 9), 1),
        "programs": lambda: os.execv("/bin/true", ["true"]),
        "write": lambda: open(os.__file__, "a"),
    }.items():
        try:
            attempt()
            found[name] = "done"
        except Exception as error:
            found[name] = type(error).__name__
    return found
"""


@pytest.fixture(scope="module", params=["A", "B"])
def sandbox(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(f"pythons-{request.param}")
    made = ForkServerSandbox(levels=[request.param], provider=Provider(root, settings=make_wheels(root / "wheels")))
    yield made
    made.close()


def run(sandbox, blob, python, payload=None, *, isolation="run", session=None):
    child = sandbox.spawn(replace(program(blob, python=python), isolation=isolation), Limits())
    try:
        (outcome,) = child.execute([(call(1, payload), session or Session())])
    finally:
        child.close()
    return outcome


def test_a_blob_runs_with_the_python_that_made_it(sandbox):
    python = another()
    blob = blob_of(python, TELLS)
    for isolation in ("run", "cell"):
        told = result_of(run(sandbox, blob, python.version, {"n": 1}, isolation=isolation))
        assert told == {"python": list(python.release[:2]), "path": python.path, "n": 1}


def test_our_own_python_is_as_before(sandbox):
    def handler(db):
        import sys

        return sys.version_info[1]

    assert result_of(run(sandbox, program(handler).blob, RUNNING)) == sys.version_info[1]


def test_without_numpy_arrays_are_arrays_of_the_standard_library(sandbox):
    python = another()  # its wheels know no numpy
    answer = ({"count": 2}, [struct.pack("<2q", 1, 2), struct.pack("<2d", 0.5, 1.5)])
    session = Session({"values": lambda args, body: answer})
    told = result_of(run(sandbox, blob_of(python, READS), python.version, session=session))
    assert told == ["array", [1, 2], [0.5, 1.5]]


def test_without_numpy_windows_are_columns_whatever_pages_they_come_in(sandbox):
    python = another()

    def answer(args, body):
        numbers = [struct.pack("<1d", args["start"])] * 3
        time = struct.pack("<1q", args["start"])
        return {"count": 1, "next": {0: 5, 5: None}[args["start"]]}, [time, *numbers, time, numbers[0]]

    source = """
def handler(db):
    table = db.windows("3d5b1a52-8f52-4a8e-9d2c-0f4b6f3a1c11", 0, 10, 5)
    return {name: list(column) for name, column in table._asdict().items()}
"""
    told = result_of(run(sandbox, blob_of(python, source), python.version, session=Session({"windows": answer})))
    floats = {name: [0.0, 5.0] for name in ("min", "mean", "max", "stddev")}
    assert told == {"time": [0, 5], "count": [0, 5], **floats}


def test_handlers_of_another_python_are_contained(sandbox):
    python = another()
    found = result_of(run(sandbox, blob_of(python, ATTACKS), python.version))
    assert "done" not in found.values(), found
    assert set(found) == {"shadow", "fork", "connect", "programs", "write"}


def test_the_interpreters_own_packages_are_left_alone(sandbox):
    python = another()
    blob = blob_of(python, "def handler(db):\n    import dill, os\n    return os.path.dirname(dill.__file__)\n")
    where = result_of(run(sandbox, blob, python.version))
    assert "tools-" in where
    assert not where.startswith(str(Path(python.path).parents[1]))


def test_a_version_that_is_not_here_is_refused_with_both_named(sandbox):
    refusal = sandbox.check(program(b"never loaded", python="3.7"), Limits())
    assert refusal.kind == "load"
    assert "3.7" in refusal.message
    assert RUNNING in refusal.message


def test_what_is_found_is_each_version_once_and_ours_first(sandbox):
    pythons = sandbox.pythons(wait=True)
    assert pythons[0] == RUNNING
    assert len(set(pythons)) == len(pythons)
    assert set(pythons) == {RUNNING, *others()}


def test_old_ones_are_found_and_not_used(tmp_path):
    fake = tmp_path / "python3.9"
    fake.write_text("#!/bin/sh\necho 'this is no Python' >&2; exit 3\n")
    fake.chmod(0o755)
    found = Interpreters([str(fake), str(tmp_path / "python3.10")])
    assert list(found.usable()) == [RUNNING]
    reasons = {each.path: each.unused for each in found.all() if each.unused}
    assert reasons[str(fake)] == "it can not be started: this is no Python"
    assert "no such interpreter" in reasons[str(tmp_path / "python3.10")]


def test_a_user_without_a_home_has_pythons_too(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    assert RUNNING in Interpreters().usable()


def test_where_dill_can_not_be_had_a_python_is_not_used_any_more(tmp_path):
    if "3.8" not in others():
        pytest.skip("no Python 3.8 is installed")
    provider = Provider(tmp_path, settings=InstallSettings(offline=True))
    sandbox = ForkServerSandbox(provider=provider)
    try:
        assert "3.8" in sandbox.pythons(wait=True)
        with pytest.raises(SandboxError, match=r"Python 3\.8 .* needs dill==0\.4\.0"):
            sandbox.spawn(program(b"never loaded", python="3.8"), Limits())
        assert "3.8" not in sandbox.pythons(wait=True)
        assert any("dill==0.4.0" in reason for reason in sandbox.unused().values())
    finally:
        sandbox.close()


def test_zygotes_are_kept_one_for_each_version_and_end_when_idle(tmp_path):
    python = another()
    provider = Provider(tmp_path, settings=make_wheels(tmp_path / "wheels"))
    sandbox = ForkServerSandbox(provider=provider)
    sandbox._zygotes._idle_s = 0.2
    blob = blob_of(python, TELLS)
    try:
        child = sandbox.spawn(program(blob, python=python.version), Limits())
        assert sandbox._zygotes.count() == 1
        sandbox._zygotes.reap()
        assert sandbox._zygotes.count() == 1, "a child lives"
        child.close()
        wait_until(lambda: sandbox._zygotes.count() == 0, what="the idle zygote's end")
        wait_until(lambda: not any(each.in_use for each in provider.environments.all()), what="its tools' release")
        assert result_of(run(sandbox, blob, python.version))["python"] == list(python.release[:2])
    finally:
        sandbox.close()


def test_many_at_once_make_one_zygote_and_install_once(tmp_path):
    python = another()
    provider = Provider(tmp_path, settings=make_wheels(tmp_path / "wheels"))
    sandbox = ForkServerSandbox(provider=provider)
    blob = blob_of(python, TELLS)
    results = []
    try:
        threads = [
            threading.Thread(target=lambda: results.append(run(sandbox, blob, python.version))) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [json.loads(each.result_json)["python"] for each in results] == [list(python.release[:2])] * 6
        assert sandbox._zygotes.count() == 1
        assert len(provider.environments.all()) == 1
    finally:
        sandbox.close()


@needs_pypi
@pytest.mark.slow
def test_every_python_of_this_host_runs_handlers_with_numpy(tmp_path):
    if not others():
        pytest.skip("no second CPython is installed")
    provider = Provider(tmp_path)
    sandbox = ForkServerSandbox(provider=provider)
    answer = ({"count": 2}, [struct.pack("<2q", 1, 2), struct.pack("<2d", 0.5, 1.5)])
    try:
        for version, python in others().items():
            if version == "3.8":  # its dill is another
                sandbox.check(program(b"", python=version), Limits())
                dill = next(entry.path for entry in provider.environments.all() if "tools-3.8" in entry.name)
                blob = blob_of(python, READS, dill=dill)
            else:
                blob = blob_of(python, READS)
            session = Session({"values": lambda args, body: answer})
            told = result_of(run(sandbox, blob, version, session=session))
            assert told == ["ndarray", [1, 2], [0.5, 1.5]], version
    finally:
        sandbox.close()
