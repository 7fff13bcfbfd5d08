"""The tour of README.rst, pasted as it stands into one shell beside a running platform."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from serving import Served
from waiting import wait_until

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)
IN_CHECKOUT = "source .venv/bin/activate\n"  # the test's own interpreter stands in for it


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    return [textwrap.dedent(body).strip() + "\n" for name, body in BLOCK.findall(text) if name == language]


def shell(served: Served, directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a newcomer's terminal would: in one bash that stops at the first failure."""
    environ = served.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "200",
    }
    return subprocess.run(
        ["bash", "-e"],
        input=script,
        env=environ,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_first_lines_are_the_two_commands():
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    commands = [line.split()[0] for line in text.split("\n\n")[2].splitlines()]
    assert commands == ["scripts/run", "scripts/test"]
    assert all(os.access(ROOT / command, os.X_OK) for command in commands)


def test_the_tour_shows_what_it_says(serve, tmp_path):
    served = serve()
    script = "".join(blocks("shell")).replace("/tmp/tour", str(tmp_path / "tour"))
    assert script.startswith(IN_CHECKOUT)
    done = shell(served, tmp_path, script.removeprefix(IN_CHECKOUT))
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout

    assert "registered  receipt on order.paid, version 0 (id 1)" in said
    assert re.search(r"run 1 succeeded: receipt v0 → A-1001 paid 249\.50, receipt at http://", said)
    assert "writing the receipt of A-1001" in said
    assert "sales@example.com" in said
    assert "run 2 failed: receipt v0 → ZeroDivisionError: division by zero" in said
    assert 'file.write(f"{number}: {100 / amount:.4f} per cent a unit\\n")' in said, "the traceback shows the line"
    assert '+        file.write(f"{number}: {100 / max(amount, 1):.4f} per cent a unit\\n")' in said
    assert "run 2 succeeded: receipt v1 → A-1002 paid 0.00" in said
    assert "at $.amount: 'a lot' is not of type 'number'" in done.stderr
    assert "unknown hook 'order.payed'; did you mean: order.paid" in done.stderr
    assert re.findall(r"^exit code (\d)$", said, re.MULTILINE) == ["1", "2", "4"]

    conn = served.connect()
    assert [run["state"] for run in conn.runs()] == ["succeeded", "succeeded"]
    wait_until(lambda: len([n for n in conn.notices() if n["state"] == "sent"]) == 3, what="the three mails")
    assert sorted(notice["outcome"] for notice in conn.notices()) == ["failure", "success", "success"]


@pytest.mark.parametrize("times", [1, 2])
def test_the_python_of_the_tour_registers_and_emits_once(serve, tmp_path, times):
    served = serve()
    hook, (program,) = blocks("shell")[1], blocks("python")
    assert "order.paid" in hook
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    done = shell(served, tmp_path, hook + "python program.py\n" * times)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Handler(id=1, name='big-orders', hook='order.paid'") == times
    conn = served.connect()
    events = wait_until(lambda: (found := conn.events(hook="order.paid")) and len(found) == 2 and found, what="events")
    assert sorted(event["payload"]["number"] for event in events) == ["A-1004", "A-1004-bonus"]
    assert [run["result"] for run in conn.runs()] == ["a bonus for A-1004"]


STEP = re.compile(
    r"^(?:.*``(?P<file>[\w./]+)``:\n\n)?\.\. code-block:: (?P<language>\w+)\n\n(?P<body>(?:(?: {4}.*)?\n)+)",
    re.MULTILINE,
)


def follow(text: str) -> str:
    """Turn a text into one script: its shell blocks, and a file for each block whose name stands above it."""
    lines = []
    for step in STEP.finditer(text):
        body = textwrap.dedent(step["body"]).strip()
        if step["file"]:
            body = f"cat > {step['file']} <<'END_OF_FILE'\n{body}\nEND_OF_FILE"
        elif step["language"] != "shell":
            raise AssertionError(f"a block without a file's name: {body[:60]}")
        lines.append(body)
    return "\n".join(lines) + "\n"


def test_the_tutorial_shows_what_it_says(serve, tmp_path):
    script = follow((ROOT / "docs" / "tutorial.rst").read_text(encoding="utf-8"))
    alone, _, served_part = script.partition("eventproc handlers push")
    prepared = serve(wait=False)  # only for its environment: the project comes first, as in the text
    prepared.close()
    done = shell(prepared, tmp_path, alone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("succeeded: order A-1: large") == 1
    assert "succeeded: order A-7: small" in done.stdout

    served = serve(EVENTPROC_PROJECT=str(tmp_path / "shop"))
    done = shell(served, tmp_path / "shop", f"eventproc handlers push{served_part}")
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "run 1 succeeded: greet-order v0 → order A-1: large" in said
    assert 'track-totals v0 → {"order": "A-3", "usual": 100.0, "orders": 2}' in said
    assert "registered  call-customer on order.unusual, version 0" in said
    assert re.search(r"run \d+ failed: track-totals v2 → AssertionError: an order of nothing", said)
    assert "greet-order: run" in said
    assert re.search(r'run \d+ succeeded: track-totals v1 → {"order": "A-5"', said)
    assert "greet-order on order.placed is deregistered" in said
    conn = served.connect()
    (called,) = wait_until(lambda: conn.runs(hook="order.unusual", state="succeeded"), what="the unusual order's run")
    assert called["result"] == "call about A-4: 9000 instead of 110.0"
    assert "".join(piece["text"] for piece in conn.logs(called["id"])) == "told the phone system about A-4\n"

    tested = shell(served, tmp_path / "shop", f"{sys.executable} -m pytest -q -p no:cacheprovider test_shop.py\n")
    assert tested.returncode == 0, tested.stdout


def test_the_first_pipeline_completes_a_stream(serve, tmp_path):
    page = (ROOT / "docs" / "pipelines.rst").read_text(encoding="utf-8")
    first = {}
    for language, body in BLOCK.findall(page):
        first.setdefault(language, textwrap.dedent(body))
    (tmp_path / "program.py").write_text(first["python"], encoding="utf-8")
    (tmp_path / "triggers.yaml").write_text(first["yaml"], encoding="utf-8")
    commands, shown = first["shell"].strip().split("\neventproc streams list\n")
    served = serve()
    done = shell(served, tmp_path, f"python program.py\n{commands}\n")
    assert done.returncode == 0, done.stdout + done.stderr
    conn = served.connect()
    wait_until(lambda: conn.streams(state="completed"), timeout_s=120, what="the stream to be completed")
    assert shown == "eventproc events show bill-7"
    assert conn.event("bill-7")["payload"] == {"order": "7", "total": 35}
    [run] = conn.runs()
    assert "".join(piece["text"] for piece in conn.logs(run["id"])) == "the bill is stored\n"
