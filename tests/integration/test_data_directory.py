"""Data directories that are closed, read-only or another user's: one line says what is wrong and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534  # who root becomes here: nothing is closed to root
NO_ACCOUNT = 64_321


def _is_mapped(uid: int) -> bool:
    lines = [[int(word) for word in line.split()] for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(first <= uid < first + count for first, _, count in lines)


pytestmark = pytest.mark.skipif(
    os.geteuid() == 0 and not (_is_mapped(NOBODY) and _is_mapped(NO_ACCOUNT)),
    reason="root is the only user of this container, and nothing is closed to it",
)

# What is imported after the user was changed may lie where only root can read: all comes before.
PROLOGUE = """
import contextlib, os, sys
from pathlib import Path
from eventproc import config
from eventproc.errors import EventprocError
from eventproc.store import open_store
from eventproc.datadir import make_private

data = Path(sys.argv[1])
settings = config.load(search=False, data=data)

def opened():
    return contextlib.closing(open_store("sqlite:///" + str(data / "eventproc.db")))

with opened() as store:
    store.upgrade()

def become_ordinary():
    if os.geteuid() == 0:
        os.chown(data, NOBODY, NOBODY)
        os.chown(data / "eventproc.db", NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

def attempt(action):
    try:
        print(action())
    except EventprocError as error:
        print(f"{type(error).__name__}: {error.message}")
""".replace("NOBODY", str(NOBODY))


@pytest.fixture
def data() -> Iterator[Path]:
    """Yield a directory that other users can reach, as those of `tmp_path` are not."""
    made = Path(tempfile.mkdtemp(prefix="eventproc-test-"))
    made.chmod(0o755)
    (made / "data").mkdir()
    yield made / "data"
    (made / "data").chmod(0o700)
    shutil.rmtree(made)


def told(data: Path, script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + script, str(data)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_directory_that_is_closed_to_its_owner_says_its_mode(data):
    says = told(
        data, "become_ordinary(); data.chmod(0o555); attempt(lambda: make_private(settings)); data.chmod(0o700)"
    )
    assert f"ConfigError: {data} is closed to its own user" in says
    assert f"(mode 555): `chmod u+rwX {data}`" in says


def test_a_database_that_can_not_be_written_is_found_before_anything_starts(data):
    says = told(
        data, "become_ordinary(); (data / 'eventproc.db').chmod(0o444); attempt(lambda: make_private(settings))"
    )
    assert f"{data}/eventproc.db is closed to its own user" in says


def test_a_database_that_became_read_only_is_unavailable_and_no_fault_of_the_platform(data):
    script = """
become_ordinary()
(data / "eventproc.db").chmod(0o444)

def write():
    with opened() as store, store.begin() as tx:
        tx.set_meta("x", "y")

attempt(write)
"""
    says = told(data, script)
    assert f"StoreUnavailable: {data}/eventproc.db can not be written by this process" in says


def test_a_write_that_the_system_refuses_names_quotas_too(data):
    script = """
import resource

with opened() as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # as a quota does: SQLite has no error for it

    def write():
        for number in range(100):
            with store.begin() as tx:
                tx.set_meta(f"x{number}", "y" * 100_000)

    attempt(write)
"""
    says = told(data, script)
    assert "StoreUnavailable: the disk failed, or a quota on it is used up" in says


def test_settings_are_not_looked_for_in_a_closed_directory_in_silence(data):
    script = """
become_ordinary()
os.environ["EVENTPROC_DATA"] = str(data)
data.chmod(0)
attempt(config.load)
os.environ["EVENTPROC_DATA"] = str(data.parent / "elsewhere")
os.chdir(data.parent)
attempt(lambda: config.load().data)
data.chmod(0o700)
"""
    closed, elsewhere = told(data, script).splitlines()
    assert closed.startswith(f"ConfigError: the data directory {data} is closed to this user: run this as the user")
    assert elsewhere == str(data.parent / "elsewhere")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_what_belongs_to_another_user_says_to_whom_and_how_to_give_it(data):
    script = """
(data / "run").mkdir(mode=0o700)
become_ordinary()
attempt(lambda: make_private(settings))
"""
    says = told(data, script)
    assert f"{data}/run belongs to root, and " in says
    assert "run this as root; or, if it shall be " in says
    assert f" {data}`; or set EVENTPROC_DATA" in says


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write what others own")
def test_what_root_writes_into_anothers_directory_is_that_users(data):
    script = """
os.chown(data, NOBODY, NOBODY)
os.chown(data / "eventproc.db", NOBODY, NOBODY)
from eventproc.roles import certs
from eventproc.wiring import Platform

with Platform(settings) as platform:
    platform.prepare()
    platform.recover_admin()
certs.init(settings.certs_dir)
print([str(path) for path in data.rglob("*") if path.stat().st_uid != NOBODY])
""".replace("NOBODY", str(NOBODY))
    assert told(data, script) == "[]\n"


HOMELESS = """
import os
from eventproc import Connection, config
from eventproc.errors import ConfigError

if os.geteuid() == 0:
    os.setuid(NO_ACCOUNT)
with Connection("localhost:1", "ep_" + "a" * 8 + "_" + "A" * 43):
    print("connection")
try:
    config.load()
except ConfigError as error:
    print(error.message)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without an account")
def test_a_user_without_an_account_needs_no_home():
    environ = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_DATA_HOME")}
    environ = {name: value for name, value in environ.items() if not name.startswith("EVENTPROC_")}
    script = HOMELESS.replace("NO_ACCOUNT", str(NO_ACCOUNT))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd="/", env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    connected, refused = done.stdout.splitlines()
    assert connected == "connection"
    assert refused.startswith(f"user id {NO_ACCOUNT} has no account and HOME is not set")
    assert "set EVENTPROC_DATA" in refused
