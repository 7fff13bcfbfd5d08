"""
Register a handler, emit an event, wait for its run.

Start a platform with `eventproc serve`, then run this beside it (EVENTPROC_DATA says where the platform's data is;
elsewhere set EVENTPROC_ENDPOINTS and EVENTPROC_API_KEY).
"""

from __future__ import annotations

from typing import Any

from eventproc import Connection, deregister, list_handlers, register

HOOK = "example.measured"
LIMIT = 80.0


def verdict(value: float) -> str:
    """Handlers may use helpers and constants of their file: they travel with them."""
    return "too hot" if value > LIMIT else "fine"


def main() -> None:
    """Do it all, and leave nothing behind."""
    conn = Connection()
    conn.put_hook(
        HOOK,
        summary="A temperature was measured.",
        schema={"type": "object", "required": ["celsius"], "properties": {"celsius": {"type": "number"}}},
        sample={"celsius": 21.5},
    )

    @register(conn=conn, name="judge", hook=HOOK, tags=["demo"])
    def judge(_db: Any, celsius: float, **_others: Any) -> str:
        print(f"measured {celsius} degrees")
        return f"{celsius:.1f} °C is {verdict(celsius)}"

    for celsius in (21.5, 93.0):
        accepted = conn.emit(HOOK, {"celsius": celsius}, tags=["demo"])
        run = conn.wait(accepted["runs"][0])
        print(run["state"], "-", run["result"])
        print("".join(piece["text"] for piece in conn.logs(run["id"])), end="")

    for handler in list_handlers(conn, hook=HOOK):
        deregister(conn, handler.id)
    conn.delete_hook(HOOK)
    conn.close()


if __name__ == "__main__":
    main()
