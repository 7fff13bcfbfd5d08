"""
Scoring of recorded series without a platform: CSV files, date formats, the parameter finder, plots.

    from eventproc.scoring import Plan, read_csv, score

    table = read_csv("cpu.csv")
    scored = score(table.seconds, table.values, Plan())
    scored.scores, scored.raw_scores, scored.top(5)
"""

from __future__ import annotations

from eventproc.scoring.dates import DateFormat, detect_format, format_named
from eventproc.scoring.finder import Finding, find_parameters
from eventproc.scoring.own import Own
from eventproc.scoring.score import Plan, Scored, score
from eventproc.scoring.table import Columns, Refused, Table, read_csv
from eventproc.scoring.windows import FUNCTIONS, aggregate

__all__ = [
    "FUNCTIONS",
    "Columns",
    "DateFormat",
    "Finding",
    "Own",
    "Plan",
    "Refused",
    "Scored",
    "Table",
    "aggregate",
    "detect_format",
    "find_parameters",
    "format_named",
    "read_csv",
    "score",
]
