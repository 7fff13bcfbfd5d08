"""Environments of handlers with requirements; what workers have, and what they are asked to prepare."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "environments",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("python", sa.Text(), nullable=False),
        sa.Column("requirements_json", sa.Text(), nullable=False),
        sa.Column("lock", sa.Text(), nullable=False),
        sa.Column("created_us", BIG, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_environments"),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pythons_json", sa.Text(), nullable=False),
        sa.Column("unused_json", sa.Text(), nullable=False),
        sa.Column("seen_us", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_workers"),
    )
    op.create_table(
        "preparations",
        sa.Column("id", BIG, nullable=False, autoincrement=True),
        sa.Column("python", sa.Text(), nullable=False),
        sa.Column("request_json", sa.Text(), nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
        sa.Column("worker", sa.Text()),
        sa.Column("until_us", BIG, nullable=False),
        sa.Column("answer_json", sa.Text()),
        sa.Column("created_us", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_preparations"),
        sqlite_autoincrement=True,
    )
    op.add_column("handler_versions", sa.Column("environment", sa.Text()))
