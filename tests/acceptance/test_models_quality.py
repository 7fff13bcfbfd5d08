"""Labelled series through the whole platform: the very scores that the detector gives on its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from serving import Served

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

FILES = ("realAdExchange/exchange-3_cpc_results.csv", "realAWSCloudwatch/iio_us-east-1_i-a2eb1cd9_NetworkIn.csv")


@pytest.mark.parametrize("known", ["learnt", "file"])
def test_scores_of_labelled_series_are_those_of_the_detector_alone(tmp_path, known):
    import htm_nabscore as nab
    from nab_platform import compare

    data = os.environ.get("EVENTPROC_TEST_DATA")
    if not data:
        pytest.skip("set EVENTPROC_TEST_DATA to the directory with NAB's files in nab/")
    corpus = [series for series in nab.load(Path(data) / "nab") if series.name in FILES]
    served = Served(tmp_path / "data").start()
    try:
        found = compare(served, corpus, known)
    finally:
        served.close()
    assert len(found) == len(FILES)
    assert {one.series.name: one.different for one in found} == dict.fromkeys(FILES, 0)
    assert max(one.through[first : last + 1].max() for one in found for first, last in one.series.windows) > 0.99
