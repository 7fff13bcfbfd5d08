"""Summaries of the payloads of events, for searches by traits."""

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
