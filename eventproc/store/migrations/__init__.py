"""
Schema revisions, run in code: there is no alembic.ini to find, so that an installed wheel can upgrade too.

A revision is a module in `versions/` named after its number, with `revision`, `down_revision` and `upgrade()`. The
history is one line. Nothing in it may import `eventproc.store.schema`: a revision says what it said when it was made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

LOCK = 0x6576_656E_7470  # of pg_advisory_xact_lock: one upgrade at a time


def scripts() -> ScriptDirectory:
    """Return the history of revisions."""
    return ScriptDirectory(str(Path(__file__).parent))


def upgrade(conn: Connection, to: str = "head") -> None:
    """Bring the database to a revision, inside the connection's transaction; concurrent callers take turns."""
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    history = scripts()

    def steps(revision: Any, _context: MigrationContext) -> Any:
        return history._upgrade_revs(to, revision)  # noqa: SLF001 - what alembic's own command calls

    context = MigrationContext.configure(conn, opts={"fn": steps, "transactional_ddl": True, "render_as_batch": True})
    with Operations.context(context):
        context.run_migrations()
