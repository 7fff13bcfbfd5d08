"""The schema: revisions lead to what schema.py says, from everywhere, with rows present, also by many at once."""

from __future__ import annotations

import re
import threading

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from store_world import World, make_event

from eventproc.errors import ConfigError
from eventproc.store import open_store
from eventproc.store.memory import MemoryStore
from eventproc.store.migrations import scripts, upgrade
from eventproc.store.schema import REVISION, metadata

REVISIONS = [script.revision for script in reversed(list(scripts().walk_revisions()))]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.external_service)])
def empty_url(request, tmp_path):
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        return server.url(server.create())
    return f"sqlite:///{tmp_path}/empty.db"


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def test_the_history_is_one_line_and_the_code_needs_its_end():
    assert scripts().get_heads() == [REVISION]
    assert len(scripts().get_bases()) == 1
    assert sorted(REVISIONS) == REVISIONS


def described(conn: sa.Connection) -> list[str]:
    """Everything that the database knows of its tables, as text."""
    if conn.dialect.name == "sqlite":
        rows = conn.exec_driver_sql("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").scalars()
        parts = [" ".join(re.sub(r"([(),])", r" \1 ", row).split()).removesuffix(" )") for row in rows]
        # The order of columns and constraints is of no importance.
        return sorted(",".join(sorted(part.replace('"', "").split(" , "))) for part in parts if "alembic" not in part)
    queries = (
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
        """SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'""",
        """SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default)
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'""",
    )
    return sorted(row for query in queries for row in conn.exec_driver_sql(query).scalars())


def test_the_revisions_lead_to_the_tables_that_the_code_uses(empty_url, request, tmp_path):
    migrated = engine_of(empty_url)
    with migrated.begin() as conn:
        upgrade(conn)
    with migrated.connect() as conn:
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []
        found = described(conn)
    other_url = f"sqlite:///{tmp_path}/direct.db"
    if not empty_url.startswith("sqlite"):
        server = request.getfixturevalue("postgres")
        other_url = server.url(server.create())
    direct = engine_of(other_url)
    metadata.create_all(direct)
    with direct.connect() as conn:
        assert found == described(conn)
    migrated.dispose()
    direct.dispose()


def fill(conn: sa.Connection) -> dict[str, int]:
    """Put two rows into every table, whatever its columns are."""
    tables = sa.MetaData()
    tables.reflect(conn)
    counts = {}
    for table in tables.sorted_tables:
        if table.name == "alembic_version":
            continue
        conn.execute(sa.insert(table), [_row(table, number) for number in (1, 2)])
        counts[table.name] = conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    return counts


def _row(table: sa.Table, number: int) -> dict[str, object]:
    row: dict[str, object] = {}
    for column in table.columns:
        if isinstance(column.type, sa.Boolean):
            row[column.name] = number == 1
        elif isinstance(column.type, sa.Integer | sa.Float):
            row[column.name] = number
        elif isinstance(column.type, sa.LargeBinary):
            row[column.name] = b"bytes"
        else:
            row[column.name] = '{"json": 1}' if column.name.endswith("_json") else f"text {number}"
    return row


@pytest.mark.parametrize("start", [None, *REVISIONS])
def test_an_upgrade_keeps_the_rows_of_every_older_revision(empty_url, start):
    engine = engine_of(empty_url)
    counts: dict[str, int] = {}
    if start is not None:
        with engine.begin() as conn:
            upgrade(conn, start)
            counts = fill(conn)
    store = open_store(empty_url)
    store.upgrade()
    assert store.revision() == (REVISION, REVISION)
    with engine.connect() as conn:
        for table, count in counts.items():
            assert conn.execute(sa.select(sa.func.count()).select_from(sa.table(table))).scalar_one() == count
    if start is None:
        world = World(store)
        world.run(world.handler())
        assert world.finish(world.claim()[0])
    store.close()
    engine.dispose()


@pytest.mark.parametrize("between", [False, True])
def test_a_database_from_before_searches_by_traits_can_be_searched_so(empty_url, between):
    engine = engine_of(empty_url)
    with engine.begin() as conn:
        upgrade(conn, "0006")
        # 0006 is what databases in use have: it must stay as it was
        assert not sa.inspect(conn).has_table("trait_blocks")
        if between:  # the table came with a revision that such a database has already
            metadata.tables["trait_blocks"].create(conn)
    store = open_store(empty_url)
    store.upgrade()
    with store.begin() as tx:
        tx.events.add([make_event("e1", payload_json='{"who":"ada"}')])
    with store.read() as tx:
        assert [event.id for event in tx.events.page(traits={"who": "ada"})] == ["e1"]
        assert tx.events.next_block(1) is None
    store.close()
    engine.dispose()


def test_messages_that_were_given_up_before_they_had_an_age_keep_theirs(empty_url):
    engine = engine_of(empty_url)
    with engine.begin() as conn:
        upgrade(conn, "0006")
        conn.execute(
            sa.text(
                "INSERT INTO outbox (kind, target, headers_json, body, state, attempts, due_us, created_us, token)"
                " VALUES ('http', 'http://x/', '{}', :body, 'failed', 3, 0, 1000, 1)"
            ),
            {"body": b"{}"},
        )
    store = open_store(empty_url)
    store.upgrade()
    with store.begin() as tx:
        (message,) = tx.outbox.page()
        assert (message.since_us, message.refusals) == (1000, 0)
        assert tx.outbox.prune(1000, limit=10) == 0
        assert tx.outbox.prune(1001, limit=10) == 1
    store.close()
    engine.dispose()


def test_several_processes_may_upgrade_at_once(empty_url):
    stores = [open_store(empty_url) for _ in range(4)]
    barrier = threading.Barrier(len(stores))
    problems = []

    def run(store) -> None:
        barrier.wait()
        try:
            store.upgrade()
            with store.begin() as tx:
                tx.audit.add(user="u", action="a", object="o", detail={}, now_us=1)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            problems.append(error)

    threads = [threading.Thread(target=run, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with stores[0].read() as tx:
        assert len(tx.audit.page()) == 4
    for store in stores:
        store.close()


def test_an_empty_database_says_how_to_fill_it(empty_url):
    store = open_store(empty_url)
    assert store.revision() == (None, REVISION)
    with pytest.raises(ConfigError, match="eventproc db upgrade"), store.begin():
        pass
    with pytest.raises(ConfigError, match="eventproc db upgrade"), store.read():
        pass
    store.upgrade()
    with store.read() as tx:
        assert tx.users.all() == []
    store.close()


@pytest.mark.parametrize(
    ("revision", "advice"), [("0000", "run `eventproc db upgrade`"), ("9999", "install the version that upgraded it")]
)
def test_another_revision_says_what_to_do(empty_url, revision, advice):
    store = open_store(empty_url)
    store.upgrade()
    store.close()
    engine = engine_of(empty_url)
    with engine.begin() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    store = open_store(empty_url)
    with pytest.raises(ConfigError, match=advice), store.begin():
        pass
    if revision > REVISION:
        with pytest.raises(ConfigError, match=advice):
            store.upgrade()
    store.close()
    engine.dispose()


def test_a_store_in_memory_has_its_tables_from_the_start():
    store = MemoryStore()
    assert store.revision() == (REVISION, REVISION)
    store.upgrade()
    store.close()
