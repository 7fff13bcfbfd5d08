"""
Streaming anomaly models of scalar metrics, usable on their own.

    from eventproc.htm import AnomalyModel

    model = AnomalyModel()
    for time, value in metric:
        reading = model.process_one(value, time)
        if reading.score > 0.66:
            print(time, reading.explain())

Importing this package is light: numba, the compiler, comes with the first model. It imports nothing else of eventproc.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventproc.htm.blob import StateError
    from eventproc.htm.detector import Detector, detector_names, find_detector, load_detector
    from eventproc.htm.gaussian import WindowedGaussian
    from eventproc.htm.historical import NumentaHTM
    from eventproc.htm.htmcore import HtmCore
    from eventproc.htm.likelihood import AnomalyLikelihood
    from eventproc.htm.model import HTM, AnomalyModel, Statistics, process_models
    from eventproc.htm.parameters import Parameters, model_names
    from eventproc.htm.reading import Reading
    from eventproc.htm.specs import of_config, of_range

_HOMES = {
    "AnomalyLikelihood": "likelihood",
    "AnomalyModel": "model",
    "Detector": "detector",
    "HTM": "model",
    "HtmCore": "htmcore",
    "NumentaHTM": "historical",
    "Parameters": "parameters",
    "Reading": "reading",
    "StateError": "blob",
    "Statistics": "model",
    "WindowedGaussian": "gaussian",
    "detector_names": "detector",
    "find_detector": "detector",
    "load_detector": "detector",
    "model_names": "parameters",
    "of_config": "specs",
    "of_range": "specs",
    "process_models": "model",
}

__all__ = [
    "HTM",
    "AnomalyLikelihood",
    "AnomalyModel",
    "Detector",
    "HtmCore",
    "NumentaHTM",
    "Parameters",
    "Reading",
    "StateError",
    "Statistics",
    "WindowedGaussian",
    "detector_names",
    "find_detector",
    "load_detector",
    "model_names",
    "of_config",
    "of_range",
    "process_models",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
