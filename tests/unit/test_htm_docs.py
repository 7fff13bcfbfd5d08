"""The anomaly models' page says what is so."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from eventproc.htm import model_names
from eventproc.htm.detector import detector_names

PAGE = (Path(__file__).parents[2] / "docs" / "htm.rst").read_text()


def test_the_example_of_use_on_its_own_runs_as_it_stands(capsys: object) -> None:
    """It finds the value that was planted, and says why."""
    block = re.search(r"On its own\n-+\n.*?code-block:: python\n\n(.*?)\n\n\S", PAGE, re.DOTALL)
    assert block is not None
    names: dict[str, list[tuple[int, str]]] = {}
    exec(textwrap.dedent(block.group(1)), names)
    (row, says) = names["found"][0]
    assert row == 1700
    assert "was expected" in says


def test_every_detector_and_parameter_set_is_described() -> None:
    for name in (*detector_names(), *model_names()):
        assert f"``{name}``" in PAGE, name
