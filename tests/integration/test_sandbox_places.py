"""Where the interpreter may live."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from eventproc.sandbox.forkserver import ForkServerSandbox

REPORT = "from eventproc.sandbox.forkserver import ForkServerSandbox as S; s = S(); print(s.report().level); s.close()"


def level_here() -> str:
    sandbox = ForkServerSandbox()
    try:
        return sandbox.report().level
    finally:
        sandbox.close()


def test_an_environment_below_tmp_is_confined_no_less():
    """The private root has a /tmp of its own; an interpreter that lives below /tmp must still find itself in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        venv.create(directory, with_pip=False)
        site = next(Path(directory, "lib").glob("python*/site-packages"))
        root = Path(__file__).parents[2]
        site.joinpath("outer.pth").write_text("\n".join([*(p for p in sys.path if "site-packages" in p), str(root)]))
        said = subprocess.run(
            [f"{directory}/bin/python", "-c", REPORT], cwd="/", capture_output=True, text=True, check=True, timeout=120
        )
    assert said.stdout.strip() == level_here()
