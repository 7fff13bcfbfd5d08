"""
Transactional outbox: an event is written in the same transaction as the data that it tells of.

Both exist once the transaction commits, and neither does if it rolls back: no order without its event, no event
without its order. The data live in tables of your own in the platform's database. Run it beside a platform's data
directory (EVENTPROC_DATA), or with EVENTPROC_DATABASE_URL as the platform has it.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Column, Float, Integer, MetaData, String, Table, create_engine, func, insert, select
from sqlalchemy.orm import Session

from eventproc import Connection, emit

HOOK = "example.order_accepted"

metadata = MetaData()
orders = Table(
    "example_orders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("item", String(100), nullable=False),
    Column("total", Float, nullable=False),
)


def database_url() -> str:
    """Return the platform's own database."""
    default = Path(os.environ.get("EVENTPROC_DATA", "~/.local/share/eventproc")).expanduser() / "eventproc.db"
    return os.environ.get("EVENTPROC_DATABASE_URL", f"sqlite:///{default}")


def place_order(session: Session, item: str, total: float) -> int:
    """Write an order and its event; the caller commits or rolls back."""
    result = session.execute(insert(orders).values(item=item, total=total).returning(orders.c.id))
    number = int(result.scalar_one())
    emit(HOOK, {"order": number, "item": item, "total": total}, session=session, id=f"order-{number}", key=item)
    if total <= 0:
        raise ValueError(f"an order of {total} is refused")
    return number


def main() -> None:
    """Place a good order and a bad one."""
    with Connection() as conn:
        conn.put_hook(
            HOOK,
            summary="An order was accepted.",
            schema={"type": "object", "required": ["order", "total"]},
            sample={"order": 1, "item": "pump", "total": 99.0},
        )
    engine = create_engine(database_url())
    metadata.create_all(engine)
    for item, total in (("pump", 99.0), ("valve", -1.0)):
        try:
            with Session(engine) as session, session.begin():
                number = place_order(session, item, total)
            print(f"order {number} for a {item} placed, its event will be handled")
        except ValueError as error:
            print(f"nothing happened: {error}")
    with Session(engine) as session:
        count = session.scalar(select(func.count()).select_from(orders))
    with Connection() as conn:
        print(f"{count} orders, {len(conn.events(hook=HOOK))} events")
    engine.dispose()


if __name__ == "__main__":
    main()
