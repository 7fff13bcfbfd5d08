"""A detector of a user's own: a class with score_one and learn_one. A call brings its state, and takes it on."""

from __future__ import annotations

import base64
import binascii
import inspect
import math
import numbers
from typing import Any, Dict, List, Optional, Sequence

from . import loader
from .failures import LoadError, shorten, size


def load(blob: bytes, python: str, source: Optional[str], filename: Optional[str], methods: Sequence[str]) -> Detecting:
    """Unpickle a detector's class and check that it is one: that it has those methods."""
    return Detecting(loader.load(blob, python, source, filename, needs=methods))


class Detecting:
    """Called like a handler: scores records with a detector that goes on from where its state says."""

    def __init__(self, cls: Any) -> None:
        self._class = cls
        self._score_takes_time = _takes_time(cls.score_one)
        self._learn_takes_time = _takes_time(cls.learn_one)

    def __call__(
        self,
        db: Any,
        *,
        state: Optional[str],
        parameters: Dict[str, Any],
        values: List[float],
        times: List[float],
        max_state: int,
    ) -> Dict[str, Any]:
        """Score and learn each record in turn; return the scores, null for what is no finite number, and the state."""
        del db
        detector = self.begin(parameters) if state is None else self._restore(state)
        scores = [self.step(detector, x, t) for x, t in zip(values, times)]
        return {"scores": scores, "state": self._save(detector, max_state)}

    def begin(self, parameters: Dict[str, Any]) -> Any:
        """Make a detector that has learnt nothing."""
        return self._class(**parameters)

    def step(self, detector: Any, x: float, t: float) -> Optional[float]:
        """Score a record and learn it; None where the score is no finite number."""
        score = detector.score_one(x, t) if self._score_takes_time else detector.score_one(x)
        if self._learn_takes_time:
            detector.learn_one(x, t)
        else:
            detector.learn_one(x)
        if isinstance(score, bool) or not isinstance(score, numbers.Real):
            raise TypeError(
                f"score_one({x!r}) returned {type(score).__name__} {shorten(_shown(score), 60)}; "
                "a score is a number, 0 for usual to 1"
            )
        found = float(score)
        return found if math.isfinite(found) else None

    def _save(self, detector: Any, most: int) -> str:
        if callable(getattr(detector, "save", None)):
            saved = detector.save()
            if not isinstance(saved, (bytes, bytearray)):
                raise TypeError(f"save() returned {type(saved).__name__}, not bytes")
        else:
            import dill

            saved = dill.dumps(vars(detector))
        if len(saved) > most:
            raise ValueError(f"the detector's state has {size(len(saved))}, more than the {size(most)} allowed")
        return base64.b64encode(saved).decode("ascii")

    def _restore(self, state: str) -> Any:
        try:
            saved = base64.b64decode(state)
        except binascii.Error as error:
            raise LoadError(f"the detector's state is damaged: {error}") from error
        if callable(getattr(self._class, "save", None)):
            return self._class.load(saved)
        import dill

        detector = self._class.__new__(self._class)
        vars(detector).update(dill.loads(saved))  # noqa: S301  what this class left itself, in its own process
        return detector


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  a user's __repr__
        return "that can not be shown"


def _takes_time(method: Any) -> bool:
    """Say whether a method takes the time after the value; `self` counts."""
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return False
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return True
    return sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters) > 2
