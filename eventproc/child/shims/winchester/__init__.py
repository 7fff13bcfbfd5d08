"""Stands in for winchester, so that handlers written for it run unchanged; needs the standard library only."""

from __future__ import annotations


def ready() -> None:
    """Do nothing: naming this function in a pipeline's set-up puts this package on the path."""
