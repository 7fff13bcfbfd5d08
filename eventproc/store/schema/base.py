"""What the tables share."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, text

# The revision of store/migrations that the tables correspond to.
REVISION: Final = "0007"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts rows in "INTEGER PRIMARY KEY" only; its integers are 64 bits wide anyway.
Big = BigInteger().with_variant(Integer(), "sqlite")


def partial(name: str, *columns: str, where: str) -> Index:
    """Return an index of the rows for which `where` holds."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


def serial(name: str = "id") -> Column[int]:
    """Return a primary key whose numbers are never used again."""
    return Column(name, Big, primary_key=True, autoincrement=True)
