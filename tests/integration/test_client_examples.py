"""The programs in examples/ work as they stand, beside a running platform."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("examples") / "data")
    try:
        yield served.start()
    finally:
        served.close()


def example(platform: Served, name: str) -> list[str]:
    """Run an example as a user would; return the lines that it printed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env={**os.environ, "EVENTPROC_DATA": str(platform.data)},
        cwd=platform.data.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_register_and_emit(platform):
    assert example(platform, "register_and_emit.py") == [
        "succeeded - 21.5 °C is fine",
        "measured 21.5 degrees",
        "succeeded - 93.0 °C is too hot",
        "measured 93.0 degrees",
    ]
    assert platform.connect().list_handlers() == []


def test_class_handler(platform):
    lines = example(platform, "class_handler.py")
    assert lines == [
        "succeeded - 3 x pump in stock",
        "   reserved 3 x pump",
        "failed - an order of 0 makes no sense",
        "   gave 0 x pump back",
    ]


def test_outbox(platform):
    lines = example(platform, "outbox.py")
    assert lines == [
        "order 1 for a pump placed, its event will be handled",
        "nothing happened: an order of -1.0 is refused",
        "1 orders, 1 events",
    ]
    (event,) = platform.connect().events(hook="example.order_accepted")
    assert (event["id"], event["key"], event["payload"]["total"]) == ("order-1", "pump", 99.0)


def test_every_example_is_tested():
    tested = {"register_and_emit.py", "class_handler.py", "outbox.py"}
    mine = {path.name for path in EXAMPLES.glob("*.py")}
    assert tested <= mine


def test_the_marked_class_can_be_pushed(platform):
    done = platform.cli("handlers", "push", str(EXAMPLES / "class_handler.py"))
    assert "unknown hook" in done.stderr + done.stdout  # the example removes its hook again
    conn = platform.connect()
    conn.put_hook("example.order_placed", summary="An order was placed.")
    done = platform.cli("handlers", "push", str(EXAMPLES / "class_handler.py"))
    assert done.returncode == 0, done.stderr
    assert [handler.name for handler in conn.list_handlers()] == ["stock-keeper"]
