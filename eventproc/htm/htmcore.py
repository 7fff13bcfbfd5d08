"""
The same detector on htm.core, where that is installed (from its own sources: it is not on PyPI).

Parameters mean the same; the encoder is this package's, because htm.core's refuses some settings at random.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eventproc.htm import dice, pooler, records
from eventproc.htm.blob import Arrays
from eventproc.htm.encoders import DayOfWeek, Encoder, RandomScalar, TimeOfDay, Together, Weekend
from eventproc.htm.historical import NumentaHTM, Source
from eventproc.htm.parameters import Parameters


def available() -> bool:
    """Tell whether htm.core can be imported."""
    try:
        return importlib.util.find_spec("htm.bindings.algorithms") is not None
    except ModuleNotFoundError:
        return False


class HtmCore(NumentaHTM):
    """Numenta's detector on htm.core's spatial pooler and temporal memory."""

    kind: ClassVar[str] = "htm.core"

    def new_source(self) -> Source:
        """Make an untrained source of raw scores."""
        p = self.parameters
        if p.predict_steps or p.delta_on or p.adaptive or len(p.buckets) != 1:
            raise ValueError("the htm.core backend has no predict_steps, delta_on, adaptive range or several members")
        if not available():
            raise ModuleNotFoundError(
                "htm.core is not installed and not on PyPI: pip install git+https://github.com/htm-community/htm.core"
                " builds it (needs a C++ compiler and CMake); or use the detector 'numenta', the same on this package's"
                " own memory",
                name="htm",
            )
        return _CoreSource(self.parameters, self.timezone)


class _CoreSource:
    """
    Raw scores of htm.core.

    Without a known range, values wait until half of the learning period is over; then all are learnt at once.
    """

    def __init__(self, parameters: Parameters, timezone: str) -> None:
        self._p = parameters
        self._zone = records.zone_named(timezone)
        algorithms = importlib.import_module("htm.bindings.algorithms")
        self._sdr = importlib.import_module("htm.bindings.sdr").SDR
        self._pooler = algorithms.SpatialPooler(**self._pooler_options())
        self._memory = algorithms.TemporalMemory(**self._memory_options())
        self._memory.activateDendrites(True)
        self._encoder: Together | None = None
        self._pending: list[tuple[float, float]] = []
        self._range = (math.nan, math.nan)
        if parameters.minimum is not None and parameters.maximum is not None:
            self._set_range(parameters.minimum, parameters.maximum)

    def _pooler_options(self) -> dict[str, Any]:
        p = self._p
        size = pooler.inputs_of(p)
        return {
            "inputDimensions": (size,),
            "columnDimensions": (p.columns,),
            "potentialPct": p.potential,
            "potentialRadius": size,
            "globalInhibition": True,
            "localAreaDensity": p.active_columns / p.columns,
            "synPermActiveInc": p.pooler_up / 10_000,
            "synPermInactiveDec": p.pooler_down / 10_000,
            "synPermConnected": p.pooler_connected / 10_000,
            "boostStrength": 0.0,
            "wrapAround": True,
            "seed": p.seed + 1,
        }

    def _memory_options(self) -> dict[str, Any]:
        p = self._p
        return {
            "columnDimensions": (p.columns,),
            "cellsPerColumn": p.cells,
            "activationThreshold": p.activate,
            "minThreshold": p.match,
            "maxNewSynapseCount": p.grow,
            "initialPermanence": p.initial / 1000,
            "connectedPermanence": p.connected / 1000,
            "permanenceIncrement": p.up / 1000,
            "permanenceDecrement": p.down / 1000,
            "predictedSegmentDecrement": p.punish / 1000,
            "maxSegmentsPerCell": 128,
            "maxSynapsesPerSegment": p.synapses,
            "seed": p.seed + 1,
        }

    def _set_range(self, low: float, high: float) -> None:
        p = self._p
        self._range = (low, high)
        width = high - low if high > low else 1.0
        value = RandomScalar(
            resolution=p.resolution or max(p.min_resolution, width / p.buckets[0]),
            origin=low,
            size=p.value_bits,
            on=p.value_on,
            seed=dice.derived(p.seed, 0, 1),
        )
        times: list[Encoder] = [TimeOfDay(size=p.time_bits, on=p.time_on, zone=self._zone)] if p.time_on else []
        times += [DayOfWeek(on=p.day_on, zone=self._zone)] if p.day_on else []
        times += [Weekend(on=p.weekend_on, zone=self._zone)] if p.weekend_on else []
        self._encoder = Together((value, *times))

    def _columns(self, x: float, t: records.When, *, learn: bool) -> Any:
        assert self._encoder is not None
        encoded = self._sdr(self._encoder.size)
        encoded.sparse = self._encoder.encode((x, *[t] * (len(self._encoder.encoders) - 1))).tolist()
        active = self._sdr(self._p.columns)
        turn = self._pooler.getIterationNum()
        self._pooler.compute(encoded, learn, active)
        if not learn:
            self._pooler.setIterationNum(turn)  # it counts also when it does not learn
        return active

    def _raw(self, active: Any) -> float:
        columns = np.asarray(active.sparse, np.int64)
        if not columns.size:
            return 0.0
        predicted = np.asarray(self._memory.getPredictiveCells().sparse, np.int64) // self._p.cells
        return 1.0 - float(np.isin(columns, predicted).sum()) / columns.size

    def ask(self, x: float, t: records.When) -> float:
        if self._encoder is None:
            return math.nan
        return self._raw(self._columns(x, t, learn=False))

    def learn(self, x: float, t: records.When) -> float:
        seconds = records.seconds(t, self._zone)
        if self._encoder is not None:
            return self._step(x, seconds)
        self._pending.append((x, seconds))
        if len(self._pending) <= self._p.learning // 2:
            return math.nan
        values = [value for value, _ in self._pending]
        room = (max(values) - min(values)) * self._p.pad
        self._set_range(min(values) - room, max(values) + room)
        waiting, self._pending = self._pending, []
        for value, when in waiting:
            self._step(value, when)
        return math.nan

    def _step(self, x: float, seconds: float) -> float:
        active = self._columns(x, None if math.isnan(seconds) else seconds, learn=self._p.pooler_learns)
        raw = self._raw(active)
        self._memory.activateCells(active, True)
        self._memory.activateDendrites(True)  # at once, so that asking changes nothing
        return raw

    def predictions(self) -> tuple[dict[int, float], dict[int, float]]:
        return {}, {}  # `HtmCore` refuses predict_steps

    def arrays(self) -> Arrays:
        return {
            "pooler": _written(self._pooler),
            "memory": _written(self._memory),
            "extent": np.array(self._range, np.float64),
            "pending": np.array(self._pending, np.float64).reshape(-1, 2),
        }

    def fill(self, arrays: Arrays) -> None:
        _read(self._pooler, arrays["pooler"])
        _read(self._memory, arrays["memory"])
        low, high = arrays["extent"].tolist()
        if not math.isnan(low):
            self._set_range(low, high)
        self._pending = [(value, when) for value, when in arrays["pending"].tolist()]


def _written(part: Any) -> NDArray[np.uint8]:
    """Save a part by a file: the form as text rounds permanences, and a pickle must not be loaded from anywhere."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "part"
        part.saveToFile(str(path), "PORTABLE")
        return np.frombuffer(path.read_bytes(), np.uint8)


def _read(part: Any, saved: NDArray[Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "part"
        path.write_bytes(saved.tobytes())
        part.loadFromFile(str(path), "PORTABLE")
