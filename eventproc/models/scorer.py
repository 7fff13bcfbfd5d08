"""A model at work: a detector and, where one is wanted, a historical likelihood; values in, scores out."""

from __future__ import annotations

import hashlib
import math
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eventproc.errors import DamagedData, SandboxError
from eventproc.htm import AnomalyModel, Detector, Parameters, StateError, blob, find_detector, streams
from eventproc.htm.likelihood import Distribution, EngineLikelihood
from eventproc.htm.parameters import NAMED
from eventproc.models.display import likelihood_of
from eventproc.models.specs import DEFAULT_LIKELIHOOD, USER
from eventproc.models.uploaded import Remote, Uploads, Which

MAGIC: Final = b"EPMODEL\x01"
_HEAD: Final = struct.Struct("<8s16sqII")  # magic with version, checksum of the rest, rowid, lengths of the two parts
_CHECKED_FROM: Final = 24
_GUESSED_BYTES: Final = 400_000  # what a detector of somebody else is taken to need
_OWN_SCALE: Final = ("default", "statistics", "htm")  # detectors whose scores are put on the scale of likelihoods


_Predictions = list[dict[str, float] | None]
_Column = NDArray[np.float64]
_Columns = tuple[NDArray[np.float64], NDArray[np.float64], _Predictions]


@dataclass(frozen=True, slots=True)
class Scores:
    """
    The scores of a batch: three columns as long as the batch; `predictions` is empty where none are wanted.

    `fits` are the places in the batch behind which a historical likelihood's distribution was fitted anew.
    """

    raw: NDArray[np.float64]
    anomaly: NDArray[np.float64]
    predictions: _Predictions
    fits: Sequence[tuple[int, Distribution]] = ()


class Scorer:
    """
    One metric's model.

    The same samples give the same scores, whatever the batches, also after a save and load between any two of them.
    Not to be used by two threads at a time; `score` lets other threads run.
    """

    def __init__(self, detector: Detector | Remote, params: Mapping[str, Any]) -> None:
        self.detector = detector
        self._predicts = bool(params.get("predictions"))
        self.likelihood: EngineLikelihood | None = None
        if params["likelihood"] != DEFAULT_LIKELIHOOD:
            self.likelihood = EngineLikelihood(params["likelihood"])
        self._rescaled = self.likelihood is None and detector.kind in _OWN_SCALE

    @classmethod
    def new(cls, params: Mapping[str, Any], uploads: Uploads | None = None) -> Scorer:
        """Make an untrained model of what `parameters.model_params` gives as `detector`."""
        name, zone = params["name"], params["timezone"]
        if name.startswith(USER):
            return cls(_remote(params, uploads), params)
        detector = _class_of(name)
        if name in NAMED:
            return cls(detector(Parameters.from_json(params["parameters"]), timezone=zone), params)
        try:
            return cls(detector(timezone=zone), params)
        except TypeError:  # one that knows nothing of time
            return cls(detector(), params)

    # Scores.

    def score(self, values: NDArray[np.float64], times_us: NDArray[np.int64]) -> Scores:
        """Score and learn a batch of samples in their order."""
        times = times_us / 1e6
        if isinstance(self.detector, Remote):
            raw = anomaly = self.detector.score_batch(values, times)
            predictions: _Predictions = []
        elif isinstance(self.detector, AnomalyModel):
            raw, anomaly, predictions = self._own(values, times)
        else:
            raw, anomaly, predictions = self._others(values, times)
        if self.likelihood is not None:
            return self._likely(self.likelihood, raw, values, predictions)
        return Scores(raw, likelihood_of(anomaly) if self._rescaled else anomaly, predictions)

    @staticmethod
    def _likely(likelihood: EngineLikelihood, raw: _Column, values: _Column, predictions: _Predictions) -> Scores:
        """Have the likelihood see all scores; what is no number stays none and is not seen."""
        places = np.flatnonzero(np.isfinite(raw))
        anomaly = np.full(len(raw), math.nan)
        if not places.size:
            return Scores(raw, anomaly, predictions)
        before = likelihood.seen
        anomaly[places] = likelihood.update(np.clip(raw[places], 0.0, 1.0).tolist(), values[places].tolist())
        # One that was made before this batch's first record has no place in it.
        new = [fit for fit in likelihood.fits if fit.record > before]
        fits = [(int(places[fit.record - before - 1]), fit.known) for fit in new]
        return Scores(raw, anomaly, predictions, fits)

    def _own(self, values: NDArray[np.float64], times: NDArray[np.float64]) -> _Columns:
        assert isinstance(self.detector, AnomalyModel)
        table = self.detector.process_many(values, times)
        raw = table[:, streams.RAW]
        raw = np.where(np.isnan(raw), table[:, streams.STRENGTH], raw)  # without a memory, or before it speaks
        steps = self.detector.parameters.predict_steps
        ahead = table[:, streams.COLUMNS : streams.COLUMNS + len(steps)].tolist() if steps else []
        return raw, table[:, streams.SCORE], [_known(dict(zip(steps, row, strict=True))) for row in ahead]

    def _others(self, values: NDArray[np.float64], times: NDArray[np.float64]) -> _Columns:
        assert not isinstance(self.detector, Remote)
        readings = [self.detector.process_one(x, t) for x, t in zip(values.tolist(), times.tolist(), strict=True)]
        raw = [reading.strength if math.isnan(reading.raw) else reading.raw for reading in readings]
        ahead = [_known(reading.predictions) for reading in readings] if self._predicts else []
        return np.array(raw, np.float64), np.array([reading.score for reading in readings], np.float64), ahead

    def summary(self) -> dict[str, Any]:
        """Give the likelihood's parameters as htmengine stored them; empty without one."""
        return {} if self.likelihood is None else self.likelihood.summary()

    def live_bytes(self) -> int:
        """Estimate the memory that this model takes for itself."""
        size = self.detector.live_bytes() if isinstance(self.detector, AnomalyModel | Remote) else _GUESSED_BYTES
        return size + (0 if self.likelihood is None else 32 * self.likelihood.sample)

    # Checkpoints.

    def save(self, rowid: int) -> bytes:
        """Save the state as of row `rowid`."""
        state = self.detector.save()
        likelihood = b"" if self.likelihood is None else blob.pack("likelihood", {}, self.likelihood.arrays())
        rest = struct.pack("<qII", rowid, len(state), len(likelihood)) + state + likelihood
        return MAGIC + hashlib.blake2b(rest, digest_size=16).digest() + rest

    @classmethod
    def load(cls, params: Mapping[str, Any], saved: bytes, uploads: Uploads | None = None) -> tuple[Scorer, int]:
        """Load a checkpoint: the model and the row it stands at. Raises DamagedData."""
        rowid, state, likelihood = _parts(saved)
        try:
            if params["name"].startswith(USER):
                scorer = cls(_remote(params, uploads, state), params)
            else:
                scorer = cls(_loaded(_class_of(params["name"]), state), params)
            if scorer.likelihood is not None:
                scorer.likelihood.fill(blob.unpack(likelihood)[2])
        except (StateError, ValueError, KeyError) as error:
            raise DamagedData(f"a model's checkpoint can not be used: {error}") from error
        return scorer, rowid


def _remote(params: Mapping[str, Any], uploads: Uploads | None, state: bytes | None = None) -> Remote:
    if uploads is None:
        raise SandboxError("detectors of users are not to be had here: there is no sandbox")
    return Remote(uploads, Which.of(params), state)


def _known(ahead: Mapping[int, float]) -> dict[str, float] | None:
    """Write predictions as messages do: by number of steps, as text; None before there are any."""
    return {str(step): value for step, value in ahead.items() if math.isfinite(value)} or None


def _loaded(kind: Any, state: bytes) -> Any:
    return kind.load(state, checked=True) if issubclass(kind, AnomalyModel) else kind.load(state)


def _class_of(name: str) -> Any:
    """Find a detector's class; looked for again after a second, since what is installed may change."""
    now = time.monotonic()
    found, until = _found.get(name, (None, 0.0))
    if now >= until:
        found = find_detector(name if name in _OWN_SCALE or name not in NAMED else "default")
        _found[name] = (found, now + _FOUND_S)
    return found


_FOUND_S = 1.0  # looking takes a fifth of loading a model
_found: dict[str, tuple[Any, float]] = {}


def _parts(saved: bytes) -> tuple[int, bytes, bytes]:
    """Take a checkpoint apart, after a look at its version and checksum."""
    if len(saved) < _HEAD.size or saved[:7] != MAGIC[:7]:
        raise DamagedData("a model's checkpoint is damaged: it does not begin like one")
    magic, digest, rowid, first, second = _HEAD.unpack_from(saved)
    if magic != MAGIC:
        raise DamagedData(f"a model's checkpoint has version {magic[7]}, this program reads version {MAGIC[7]}")
    if hashlib.blake2b(memoryview(saved)[_CHECKED_FROM:], digest_size=16).digest() != digest:
        raise DamagedData("a model's checkpoint is damaged: its checksum is wrong")
    at = _HEAD.size
    if len(saved) != at + first + second:
        raise DamagedData("a model's checkpoint is damaged: it is too short")
    return rowid, saved[at : at + first], saved[at + first :]
