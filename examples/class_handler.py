"""
A handler as a class: work in `handle_events`, side effects in `commit`, tidying up in `rollback`.

What `handle_events` asks of the platform (`self.db`, `ep`) is kept until the run commits. `commit` runs once that is
stored, and again if it fails; `rollback` runs when `handle_events` raises. Send it with
`eventproc handlers push examples/class_handler.py`, or run this file beside a platform.
"""

from __future__ import annotations

from typing import Any

from eventproc import Connection, register

HOOK = "example.order_placed"


@register(name="stock-keeper", hook=HOOK)
class StockKeeper:
    """Reserves what was ordered."""

    db: Any  # set by the platform before handle_events

    def handle_events(self, events: list[dict[str, Any]], env: dict[str, Any]) -> str:
        """Check the order; nothing outside is touched yet."""
        (event,) = events
        self.reserved = f"{event['count']} x {event['item']}"
        if event["count"] < 1:
            raise ValueError(f"an order of {event['count']} makes no sense")
        env["reserved"] = self.reserved
        return f"{self.reserved} in stock"

    def commit(self) -> None:
        """Here a mail would go out, or another system be told."""
        print(f"reserved {self.reserved}")

    def rollback(self) -> None:
        """Here what was begun outside would be undone."""
        print(f"gave {self.reserved} back")


def main() -> None:
    """Place a good order and a bad one."""
    with Connection() as conn:
        conn.put_hook(
            HOOK,
            summary="An order was placed.",
            schema={"type": "object", "required": ["item", "count"]},
            sample={"item": "pump", "count": 3},
        )
        handler = conn.register(StockKeeper)
        for count in (3, 0):
            accepted = conn.emit(HOOK, {"item": "pump", "count": count})
            run = conn.wait(accepted["runs"][0])
            print(run["state"], "-", run["failure"]["message"] if run["failure"] else run["result"])
            for piece in conn.logs(run["id"]):
                print("  ", piece["text"].strip())
        conn.deregister(handler.id)
        conn.delete_hook(HOOK)


if __name__ == "__main__":
    main()
