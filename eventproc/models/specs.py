"""
Model specifications: what a user asks for, checked, and what a model is made of.

The shape is htmengine's (`datasource`, `metricSpec`, `modelParams`, `completeModelParams`), and so are its errors, word
for word; `options` is for what it had no way to say: detector, likelihood, time zone, use of hour and weekday.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from eventproc.errors import InvalidInput
from eventproc.htm.likelihood import MODES
from eventproc.htm.parameters import NAMED
from eventproc.htm.records import zone_named

DATASOURCE: Final = "custom"
RECORDS_NEEDED: Final = 288  # a day of five-minute samples, before the range of values is estimated
ROOM: Final = 0.2  # of the range seen, added on either side
DEFAULT_RESOLUTION: Final = 0.001
DEFAULT_LIKELIHOOD: Final = "default"
USER: Final = "user:"  # before the name of a detector that somebody registered
LIKELIHOODS: Final = (DEFAULT_LIKELIHOOD, *MODES)

_SPEC_KEYS: Final = ("datasource", "metricSpec", "modelParams", "completeModelParams", "options")
_METRIC_KEYS: Final = ("metric", "uid", "unit", "resource", "userInfo")
_PARAM_KEYS: Final = ("min", "max", "minResolution", "enableClassifier")
_COMPLETE_KEYS: Final = ("modelConfig", "inferenceArgs", "timestampFieldName", "valueFieldName")
_OPTION_KEYS: Final = ("detector", "likelihood", "timezone", "timeOfDay", "dayOfWeek", "range", "parameters")
RANGES: Final = ("estimated", "learnt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a user may choose beyond htmengine's parameters."""

    detector: str = "default"
    likelihood: str = DEFAULT_LIKELIHOOD
    timezone: str = "UTC"
    time_of_day: bool | None = None  # whether the memory's encoder knows the hour; None: as the detector has it
    day_of_week: bool | None = None
    learns_range: bool = False  # by itself, in its learning period, instead of waiting for 288 samples
    parameters: Mapping[str, Any] | None = None  # of `eventproc.htm.Parameters`, over the detector's own


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A checked specification; `given` is what was sent, with the metric's name in place of its id."""

    given: Mapping[str, Any]
    uid: str | None
    metric: str | None
    resource: str | None
    minimum: float | None
    maximum: float | None
    min_resolution: float | None
    classifier: bool
    complete: Mapping[str, Any] | None
    options: Options

    @property
    def ready(self) -> bool:
        """Whether a model can be made without looking at samples."""
        alone = self.options.learns_range or self.options.detector.startswith(USER)
        return alone or self.complete is not None or self.minimum is not None

    def canonical(self, metric: str) -> dict[str, Any]:
        """Give the specification as it is stored: the metric by name."""
        wanted = {key: value for key, value in self.given["metricSpec"].items() if key not in ("uid", "metric")}
        return {"datasource": DATASOURCE, **self.given, "metricSpec": {"metric": metric, **wanted}}


def parse_spec(spec: Any) -> ModelSpec:
    """Check a model specification. Raises InvalidInput (a ValueError) in htmengine's words where it had some."""
    if not isinstance(spec, Mapping):
        raise InvalidInput(f"a model specification must be an object, not {spec!r:.100}")
    _known(spec, _SPEC_KEYS, "the model specification")
    datasource = spec.get("datasource", DATASOURCE)
    if datasource != DATASOURCE:
        raise InvalidInput(f"unknown datasource {datasource!r}; there is {DATASOURCE!r}", field="datasource")
    metric_spec = _object(spec, "metricSpec")
    _known(metric_spec, _METRIC_KEYS, "metricSpec")
    uid, metric = _text(metric_spec, "uid"), _text(metric_spec, "metric")
    if uid is None and metric is None:
        raise InvalidInput(f"Neither uid nor metric name present in metricSpec; modelSpec={dict(spec)!r}")
    complete = spec.get("completeModelParams")
    if complete:
        _check_complete(spec, complete)
    params = _object(spec, "modelParams")
    _known(params, _PARAM_KEYS, "modelParams")
    minimum, maximum = _number(params, "min"), _number(params, "max")
    if (minimum is None) != (maximum is None):
        raise InvalidInput(f"min and max params must both be None or non-None; modelSpec={dict(spec)!r}")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise InvalidInput(f"min {minimum:g} is above max {maximum:g}", field="modelParams.min")
    resolution = _number(params, "minResolution")
    if resolution is not None and resolution <= 0:
        raise InvalidInput(f"minResolution must be above 0, not {resolution:g}", field="modelParams.minResolution")
    options = _options(_object(spec, "options"))
    if options.learns_range and (minimum is not None or complete):
        raise InvalidInput("a range that is given can not be learnt: leave out one of them", field="options.range")
    return ModelSpec(
        given=dict(spec, metricSpec=dict(metric_spec)),
        uid=uid,
        metric=metric,
        resource=_text(metric_spec, "resource"),
        minimum=minimum,
        maximum=maximum,
        min_resolution=resolution,
        classifier=_flag(params, "enableClassifier") or False,
        complete=complete or None,
        options=options,
    )


def _check_complete(spec: Mapping[str, Any], complete: Any) -> None:
    """Refuse in htmengine's order and words."""
    said = f" modelSpec={dict(spec)!r}"
    if spec.get("modelParams"):
        raise InvalidInput("Specify either modelParams or completeModelParams but not both." + said)
    if not isinstance(complete, Mapping):
        raise InvalidInput(f"completeModelParams must be an object, not {complete!r:.100}")
    for key in ("inferenceArgs", "timestampFieldName", "valueFieldName"):
        if not complete.get(key):
            raise InvalidInput(f"{key} must be specified in completeModelParams." + said)
    if not isinstance(complete["inferenceArgs"], Mapping):
        raise InvalidInput("inferenceArgs of completeModelParams must be an object." + said)
    if complete["inferenceArgs"].get("predictedField") != complete["valueFieldName"]:
        raise InvalidInput(
            "Inference args' predictedField must match complete model params' valueFieldName" + said,
        )
    _known(complete, _COMPLETE_KEYS, "completeModelParams")
    if not isinstance(complete.get("modelConfig"), Mapping):
        raise InvalidInput("modelConfig must be specified in completeModelParams." + said)


def _options(given: Mapping[str, Any]) -> Options:
    _known(given, _OPTION_KEYS, "options")
    likelihood = _text(given, "likelihood") or DEFAULT_LIKELIHOOD
    if likelihood not in LIKELIHOODS:
        raise InvalidInput(
            f"no likelihood is named {likelihood!r}; there are {', '.join(LIKELIHOODS)}", field="options.likelihood"
        )
    detector = _text(given, "detector") or "default"
    own = detector.startswith(USER)  # whether it is registered, the store knows
    if not own and detector not in known_detectors():
        raise InvalidInput(
            f"no detector is named {detector!r}; there are {', '.join(known_detectors())}, and with 'user:' before "
            "their names those that were registered",
            field="options.detector",
        )
    raw_scores = own or (detector in NAMED and bool(NAMED[detector].buckets))
    if likelihood != DEFAULT_LIKELIHOOD and not raw_scores:
        able = ", ".join(sorted(name for name, parameters in NAMED.items() if parameters.buckets))
        raise InvalidInput(
            f"the likelihood {likelihood!r} needs raw scores, which the detector {detector!r} does not give; "
            f"these do: {able}",
            field="options.likelihood",
        )
    timezone = _text(given, "timezone") or "UTC"
    try:
        zone_named(timezone)
    except ValueError as error:
        raise InvalidInput(f"{error}; write an IANA name such as Europe/Berlin", field="options.timezone") from error
    known = _text(given, "range") or RANGES[0]
    if known not in RANGES:
        raise InvalidInput(f"range must be {' or '.join(RANGES)}, not {known!r}", field="options.range")
    if known == "learnt" and (likelihood != DEFAULT_LIKELIHOOD or detector not in NAMED):
        raise InvalidInput(
            "a range can be learnt by detectors of this package with the default likelihood: a historical one "
            "needs raw scores from the first sample on",
            field="options.range",
        )
    return Options(
        detector=detector,
        likelihood=likelihood,
        timezone=timezone,
        time_of_day=_flag(given, "timeOfDay"),
        day_of_week=_flag(given, "dayOfWeek"),
        learns_range=known == "learnt",
        parameters=_object(given, "parameters") or None,
    )


def known_detectors() -> list[str]:
    """List what `options.detector` may name: parameter sets and detectors."""
    from eventproc.htm import detector_names  # noqa: PLC0415 - looks at all installed distributions

    return sorted({*NAMED, *detector_names()})


def estimate_range(lowest: float, highest: float) -> tuple[float, float]:
    """Give minimum and maximum for a metric seen between two values: a fifth of the range more on each side."""
    if highest <= lowest:
        highest = lowest + 1.0
    room = (highest - lowest) * ROOM
    return lowest - room, highest + room


def _known(given: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    unknown = sorted(str(key) for key in given if key not in keys)
    if unknown:
        raise InvalidInput(f"{where} has no {', '.join(map(repr, unknown))}; it has {', '.join(keys)}", fields=unknown)


def _object(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = given.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{key!r} must be an object, not {value!r:.100}", field=key)
    return value


def _text(given: Mapping[str, Any], key: str) -> str | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{key!r} must be a text, not {value!r:.100}", field=key)
    return value


def _number(given: Mapping[str, Any], key: str) -> float | None:
    value = given.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput(f"{key!r} must be a finite number, not {value!r:.100}", field=key)
    return float(value)


def _flag(given: Mapping[str, Any], key: str) -> bool | None:
    value = given.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(f"{key!r} must be true or false, not {value!r:.100}", field=key)
    return value
