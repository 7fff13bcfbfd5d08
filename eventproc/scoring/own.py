"""A detector of a user's own, a class with `score_one` and `learn_one`, at work on a recorded series."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventproc.child.detector import Detecting
from eventproc.errors import InvalidInput
from eventproc.htm import Reading


@dataclass(frozen=True, slots=True)
class Own:
    """
    The class, and what people call it.

    It is called as in the platform's sandbox, but in this process, with this process's rights: it is the code of
    whoever asks for the scores.
    """

    cls: type
    name: str

    def score(
        self,
        seconds: NDArray[np.float64],
        values: NDArray[np.float64],
        parameters: Mapping[str, Any],
        progress: Callable[[int], None],
    ) -> NDArray[np.float64]:
        """
        Score and learn each record in turn; scores are 0 to 1, and NaN where the class gave no finite number.

        Raises InvalidInput, with the traceback, for what the class does not take or does wrong.
        """
        caller = Detecting(self.cls)
        try:
            detector = caller.begin(dict(parameters))
        except Exception as error:
            raise self._wrong("it can not be made", error) from error
        scores = np.empty(values.size)
        for place, (value, second) in enumerate(zip(values.tolist(), seconds.tolist(), strict=True)):
            try:
                score = caller.step(detector, value, second)
            except Exception as error:
                raise self._wrong(f"at row {place + 1} (value {value:g})", error) from error
            scores[place] = math.nan if score is None else min(max(score, 0.0), 1.0)
            progress(place + 1)
        return scores

    def _wrong(self, where: str, error: Exception) -> InvalidInput:
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in (__file__, _CALLER)
        ]
        trace = "".join(traceback.format_list(frames)).rstrip()
        said = f"detector {self.name}: {where}: {type(error).__name__}: {error}"
        return InvalidInput(f"{said}\n{trace}" if trace else said, detector=self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnReading(Reading):
    """A score that says nothing but itself."""

    def explain(self) -> str:
        return "No score." if math.isnan(self.score) else f"Score {self.score:.3f} at {self.actual:g}."


_CALLER = Detecting.__call__.__code__.co_filename
