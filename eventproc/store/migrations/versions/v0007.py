"""Summaries of the payloads of events, for searches by traits; how old and how often refused messages are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "trait_blocks",
        sa.Column("first_seq", BIG, nullable=False, autoincrement=False),
        sa.Column("first_us", BIG, nullable=False),
        sa.Column("last_us", BIG, nullable=False),
        sa.Column("bits", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("first_seq", name="pk_trait_blocks"),
        if_not_exists=True,  # for a while it came with 0005
    )
    _outbox()


def _outbox() -> None:
    # SQLite takes no new column that may not be empty without a default; the schema says that there is none.
    op.add_column("outbox", sa.Column("since_us", BIG, nullable=False, server_default="0"))
    op.add_column("outbox", sa.Column("refusals", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE outbox SET since_us = created_us")
    where = sa.text("state = 'failed'")
    op.drop_index("ix_outbox_failed", "outbox")
    op.create_index("ix_outbox_failed", "outbox", ["since_us"], sqlite_where=where, postgresql_where=where)
