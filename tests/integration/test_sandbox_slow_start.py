"""A fork server that is not ready in time says nothing of what can be had here: no weaker level is the answer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sandbox_world import run_one

from eventproc.errors import SandboxError
from eventproc.sandbox import launcher
from eventproc.sandbox.forkserver import ForkServerSandbox

# Never gets ready while there is a file `busy`, at the level that is tried first; else it is our interpreter.
SLOW = """#!/bin/sh
case "$*" in
  *'"level": "{level}"'*) [ -e {busy} ] && exec sleep 600 ;;
esac
exec {python} "$@"
"""


@pytest.mark.parametrize(("level", "others"), [("A", ["B"]), ("B", [])])
def test_a_slow_start_is_an_error_and_no_reason_for_a_weaker_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, others: list[str]
) -> None:
    busy, python = tmp_path / "busy", tmp_path / "python"
    busy.touch()
    python.write_text(SLOW.format(level=level, busy=busy, python=sys.executable))
    python.chmod(0o755)
    sandbox = ForkServerSandbox(python=str(python), levels=[level, *others], spares=0)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(launcher, "START_S", 0.5)
            with pytest.raises(SandboxError, match=r"not ready within 0\.5 s: .*too busy or slow") as raised:
                sandbox.report()
        assert "user namespaces" not in str(raised.value)
        busy.unlink()
        assert sandbox.report().level == level
        outcome, _ = run_one(sandbox, lambda db: "fine")
        assert outcome.result_json == '"fine"'
    finally:
        sandbox.close()
