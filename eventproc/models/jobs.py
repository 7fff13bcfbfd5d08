"""One metric's turn: bring its model up to date, score what is new, save the model where that is due."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from eventproc.errors import DamagedData, DetectorFailed
from eventproc.htm.likelihood import Distribution
from eventproc.model import Metric, Sample, SampleScores
from eventproc.model.anomaly import Checkpoint, Model
from eventproc.models.display import rescale
from eventproc.models.messages import ScoredRow
from eventproc.models.scorer import Scorer
from eventproc.models.uploaded import Uploads


@dataclass(slots=True)
class Resident:
    """A model in memory, as it stands behind row `rowid`; `saved_rowid` is its checkpoint's row."""

    model_id: int
    scorer: Scorer
    rowid: int
    saved_rowid: int
    size: int  # bytes


@dataclass(slots=True)
class Job:
    """
    What is to be done for one metric, and what came of it.

    Samples up to `scored_rowid` only bring the model up to date; those behind it are scored.
    """

    metric: Metric
    model: Model
    scored_rowid: int
    last_rowid: int
    samples: Sequence[Sample]
    resident: Resident | None
    checkpoint: Checkpoint | None
    save_after: int  # rows since the last checkpoint
    uploads: Uploads | None = None  # where detectors of users are to be had

    rows: list[ScoredRow] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)  # rowids whose scores are no numbers
    fits: list[tuple[int, Distribution]] = field(default_factory=list)  # last rowid that a fitted likelihood knows
    saved: Checkpoint | None = None
    error: str | None = None
    final: bool = False  # the error is a user's, and would only come again
    damaged: str | None = None
    seconds: float = 0.0
    loading_s: float | None = None  # where the model had to be made or loaded

    @property
    def reached(self) -> int:
        """The row up to which everything is scored now; where retention was quicker, there is nothing to score."""
        if not self.samples:
            return self.last_rowid
        return max(self.scored_rowid, self.samples[-1].rowid)

    def work(self) -> None:
        """Do it. Runs in any thread and never raises."""
        started = time.perf_counter()
        try:
            self._work()
        except DamagedData as error:
            self.damaged = error.message
        except DetectorFailed as error:
            self.error, self.final = error.message, True
        except Exception as error:  # noqa: BLE001 - a detector's fault is its metric's alone
            self.error = f"{type(error).__name__}: {error}"
        self.seconds = time.perf_counter() - started

    def _work(self) -> None:
        resident = self.resident
        if resident is None:
            started = time.perf_counter()
            resident = self.resident = self._load()
            self.loading_s = time.perf_counter() - started
        samples = [sample for sample in self.samples if sample.rowid > resident.rowid]
        if not samples:
            return
        values = np.array([sample.value for sample in samples], np.float64)
        times_us = np.array([sample.time_us for sample in samples], np.int64)
        scores = resident.scorer.score(values, times_us)
        fits = [(samples[place].rowid, known) for place, known in scores.fits]
        self.fits = [(rowid, known) for rowid, known in fits if rowid > self.scored_rowid]
        raws, anomalies = scores.raw.tolist(), scores.anomaly.tolist()
        for place, sample in enumerate(samples):
            if sample.rowid <= self.scored_rowid:
                continue
            raw, anomaly = raws[place], anomalies[place]
            if not (math.isfinite(raw) and math.isfinite(anomaly)):
                self.rejected.append(sample.rowid)
                continue
            anomaly = min(max(anomaly, 0.0), 1.0)
            predictions = scores.predictions[place] if scores.predictions else None
            self.rows.append(
                ScoredRow(
                    rowid=sample.rowid,
                    time_us=sample.time_us,
                    value=sample.value,
                    raw_score=min(max(raw, 0.0), 1.0),
                    anomaly=anomaly,
                    display_value=rescale(anomaly),
                    predictions=predictions,
                )
            )
        resident.rowid = samples[-1].rowid
        if resident.rowid - resident.saved_rowid >= self.save_after:
            self._save(resident)

    def _load(self) -> Resident:
        assert self.model.params is not None  # of a model that is defined
        params = self.model.params["detector"]
        origin = self.model.origin_rowid
        if self.checkpoint is None and self.scored_rowid > origin and not self._begins_at(origin + 1):
            raise DamagedData("the model's checkpoint is missing")
        if self.checkpoint is None:
            scorer, rowid = Scorer.new(params, self.uploads), origin
        else:
            scorer, rowid = Scorer.load(params, self.checkpoint.data, self.uploads)
        return Resident(self.model.id, scorer, rowid, rowid, scorer.live_bytes())

    def _begins_at(self, rowid: int) -> bool:
        return bool(self.samples) and self.samples[0].rowid == rowid

    def _save(self, resident: Resident) -> None:
        self.saved = Checkpoint(
            metric_id=self.metric.id,
            model_id=self.model.id,
            rowid=resident.rowid,
            data=resident.scorer.save(resident.rowid),
        )

    def scores(self) -> list[SampleScores]:
        """Give what is to be written to the samples."""
        return [
            SampleScores(
                self.metric.id,
                row.rowid,
                row.raw_score,
                row.anomaly,
                row.display_value,
                None if row.predictions is None else json.dumps(row.predictions, separators=(",", ":")),
            )
            for row in self.rows
        ]
