"""Several hosts on one new PostgreSQL database, and a database that is not the user's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest
from servers import PostgresServer, postgres_server
from waiting import wait_until

from eventproc.config import load
from eventproc.errors import ConfigError
from eventproc.wiring import Platform

pytestmark = pytest.mark.external_service


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def test_a_host_whose_first_admin_another_one_makes_starts_all_the_same(postgres, tmp_path, monkeypatch):
    url = postgres.url(postgres.create())
    monkeypatch.setenv("EVENTPROC_DATABASE_URL", url)
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path / "data"))
    failed: list[BaseException] = []
    with Platform(load()) as platform, psycopg.connect(url) as other, psycopg.connect(url, autocommit=True) as watch:
        platform.prepare()
        watch.execute("TRUNCATE users CASCADE")
        platform.settings.admin_key_file.unlink()
        other.execute("INSERT INTO users (name, role, disabled, created_us) VALUES ('admin', 'admin', false, 1)")

        def start() -> None:
            try:
                platform.prepare()
            except BaseException as error:  # noqa: BLE001 - told by the assertion
                failed.append(error)

        thread = threading.Thread(target=start)
        thread.start()
        locked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ILIKE '%insert%users%'"
        try:
            wait_until(lambda: failed or watch.execute(locked).fetchone()[0], timeout_s=120, what="the insert to wait")
        finally:
            other.commit()
            thread.join()
        assert failed == []
        assert watch.execute("SELECT count(*) FROM users").fetchone() == (1,)
        assert not platform.settings.admin_key_file.exists(), "the key is where the other host's process put it"


def test_a_database_of_somebody_else_is_refused_with_what_to_do(postgres, tmp_path, monkeypatch):
    name = postgres.create()
    postgres.execute("CREATE ROLE guest LOGIN")
    postgres.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)
    url = postgres.url(name).replace("//eventproc@", "//guest@")
    monkeypatch.setenv("EVENTPROC_DATABASE_URL", url)
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path / "data"))
    with Platform(load()) as platform, pytest.raises(ConfigError, match=r"owner of the database.*permission denied"):
        platform.prepare()
