"""Triggers: time expressions, criteria and definitions, checked and compiled when they are loaded."""

from eventproc.registry.triggers.definitions import (
    CompiledTrigger,
    compile_trigger,
    load_triggers,
    parse_triggers,
    read_trigger,
)
from eventproc.registry.triggers.timex import TimeExpression, TimeRange, TimexError, UnboundVariable, parse

__all__ = [
    "CompiledTrigger",
    "TimeExpression",
    "TimeRange",
    "TimexError",
    "UnboundVariable",
    "compile_trigger",
    "load_triggers",
    "parse",
    "parse_triggers",
    "read_trigger",
]
