"""What a model is made of: from a specification to a detector's parameters, and to the form that htmengine stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from eventproc.errors import InvalidInput
from eventproc.htm import Parameters
from eventproc.htm.parameters import NAMED
from eventproc.models.specs import DEFAULT_LIKELIHOOD, DEFAULT_RESOLUTION, USER, ModelSpec, Options

TIMESTAMP_FIELD, VALUE_FIELD = "c0", "c1"
_TIME_RADIUS: Final = 9.49  # hours, as NuPIC's encoder of the time of day was set; shown, not used
_TIME_ON: Final = 21  # bits
_DAY_ON: Final = 11
_MODEL_WORD: Final = "HTMPrediction"
_SP: Final = {
    "columnCount": "columns",
    "numActiveColumnsPerInhArea": "active_columns",
    "potentialPct": "potential",
    "seed": "seed",
}
_TM: Final = {
    "columnCount": "columns",
    "cellsPerColumn": "cells",
    "activationThreshold": "activate",
    "minThreshold": "match",
    "newSynapseCount": "grow",
    "maxSynapsesPerSegment": "synapses",
}
_TM_PERMANENCES: Final = {
    "initialPerm": "initial",
    "permanenceInc": "up",
    "permanenceDec": "down",
    "predictedSegmentDecrement": "punish",
}
_SP_PERMANENCES: Final = {
    "synPermActiveInc": "pooler_up",
    "synPermInactiveDec": "pooler_down",
    "synPermConnected": "pooler_connected",
}


def model_params(spec: ModelSpec, minimum: float | None = None, maximum: float | None = None) -> dict[str, Any]:
    """
    Give what is stored with a model: the detector and, where that is an HTM, what htmengine stored too.

    That is modelConfig, inferenceArgs and inputRecordSchema. `minimum` and `maximum` are used where the specification
    has none. Raises InvalidInput for what can not be.
    """
    if spec.complete is not None:
        return _complete(spec)
    low = spec.minimum if spec.minimum is not None else minimum
    high = spec.maximum if spec.maximum is not None else maximum
    parameters = _with_range(_chosen(spec.options, classifier=spec.classifier), low, high, spec.min_resolution)
    detector = _detector(spec.options, parameters, classifier=spec.classifier)
    if parameters is None or not parameters.buckets:
        return {"detector": detector}
    return {
        "modelConfig": _config(parameters, classifier=spec.classifier),
        "inferenceArgs": {"predictionSteps": [1], "predictedField": VALUE_FIELD, "inputPredictedField": "auto"},
        "inputRecordSchema": _schema(TIMESTAMP_FIELD, VALUE_FIELD),
        "detector": detector,
    }


def _schema(timestamp: str, value: str) -> list[list[str]]:
    return [[timestamp, "datetime", "timestamp"], [value, "float", ""]]


def _detector(options: Options, parameters: Parameters | None, *, classifier: bool) -> dict[str, Any]:
    return {
        "name": options.detector,
        "likelihood": options.likelihood,
        "timezone": options.timezone,
        "predictions": classifier,
        "parameters": dict(options.parameters or {}) if parameters is None else parameters.to_json(),
    }


def _chosen(options: Options, *, classifier: bool) -> Parameters | None:
    """Give the parameters of a detector of this package; None for another's, which has its own."""
    if options.detector.startswith(USER):
        if classifier or options.time_of_day is not None or options.day_of_week is not None:
            raise InvalidInput(
                f"the detector {options.detector!r} takes 'parameters' only: no predictions, timeOfDay or dayOfWeek",
                field="options",
            )
        return None
    if options.detector not in NAMED:
        if options.parameters or options.time_of_day is not None or options.day_of_week is not None:
            raise InvalidInput(
                f"the detector {options.detector!r} takes no parameters, timeOfDay or dayOfWeek", field="options"
            )
        return None
    base = NAMED[options.detector]
    changes: dict[str, Any] = {}
    if options.likelihood != DEFAULT_LIKELIHOOD:
        changes["streams"] = False  # a historical likelihood looks at the memory's raw scores only
    if classifier:
        changes["predict_steps"] = (1,)
    if options.time_of_day is not None:
        changes["time_on"] = (base.time_on or _TIME_ON) if options.time_of_day else 0
    if options.day_of_week is not None:
        changes["day_on"] = (base.day_on or _DAY_ON) if options.day_of_week else 0
    return _changed(base, {**changes, **(options.parameters or {})})


def _changed(base: Parameters, changes: Mapping[str, Any]) -> Parameters:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    try:
        return base.changed(**values)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"these parameters can not be: {error}", field="options.parameters") from error


def _with_range(
    parameters: Parameters | None, low: float | None, high: float | None, min_resolution: float | None
) -> Parameters | None:
    """Set the range of values, with fewer buckets where they would be narrower than the least resolution."""
    if parameters is None or low is None or high is None or parameters.minimum is not None:
        return parameters
    if high <= low:
        high = low + 1.0
    narrowest = min_resolution or DEFAULT_RESOLUTION
    most = max(1, int((high - low) / narrowest * (1 + 1e-12)))
    buckets = tuple(min(count, most) for count in parameters.buckets)
    return _changed(parameters, {"minimum": low, "maximum": high, "buckets": buckets})


def _config(parameters: Parameters, *, classifier: bool) -> dict[str, Any]:
    """Write a model's parameters the way that htmengine's users know."""
    encoder: dict[str, Any] = {
        "fieldname": VALUE_FIELD,
        "name": VALUE_FIELD,
        "type": "RandomDistributedScalarEncoder",
    }
    encoders: dict[str, Any] = {"c0_timeOfDay": None, "c0_dayOfWeek": None, "c0_weekend": None, "c1": encoder}
    inner: dict[str, Any] = {
        "inferenceType": "TemporalAnomaly",
        "clEnable": classifier,
        "sensorParams": {"encoders": encoders, "sensorAutoReset": None},
    }
    if parameters.minimum is not None and parameters.maximum is not None:
        width = parameters.maximum - parameters.minimum or 1.0
        encoder["resolution"] = width / parameters.buckets[0]
    encoder |= {"seed": parameters.seed, "w": parameters.value_on, "n": parameters.value_bits}
    if parameters.time_on:
        encoders["c0_timeOfDay"] = _date_encoder("timeOfDay", [parameters.time_on, _TIME_RADIUS])
    if parameters.day_on:
        encoders["c0_dayOfWeek"] = _date_encoder("dayOfWeek", parameters.day_on)
    inner["spParams"] = {key: getattr(parameters, name) for key, name in _SP.items()} | {
        key: getattr(parameters, name) / 10_000 for key, name in _SP_PERMANENCES.items()
    }
    inner["tmParams"] = {key: getattr(parameters, name) for key, name in _TM.items()} | {
        key: getattr(parameters, name) / 1_000 for key, name in _TM_PERMANENCES.items()
    }
    return {"model": _MODEL_WORD, "version": 1, "predictAheadTime": None, "modelParams": inner}


def _date_encoder(kind: str, value: Any) -> dict[str, Any]:
    return {
        "fieldname": TIMESTAMP_FIELD,
        "name": f"{TIMESTAMP_FIELD}_{kind}",
        "type": "DateEncoder",
        kind: value,
    }


# Complete parameters, as NuPIC's users have them.


def _complete(spec: ModelSpec) -> dict[str, Any]:
    """Read NuPIC's modelConfig: value encoder, hour, weekday, pooler, memory. What it can not say keeps our default."""
    complete = spec.complete
    assert complete is not None
    if spec.options.detector not in NAMED:
        raise InvalidInput(
            f"completeModelParams are for NuPIC's models, not for the detector {spec.options.detector!r}",
            field="options",
        )
    timestamp, value = str(complete["timestampFieldName"]), str(complete["valueFieldName"])
    config = complete["modelConfig"]
    inner = _inner(config, "modelParams")
    base = NAMED["numenta_cpp" if spec.options.detector == "default" else spec.options.detector]
    changes: dict[str, Any] = {"streams": base.streams}
    _take(_inner(inner, "spParams"), {**_SP}, changes, 1)
    _take(_inner(inner, "spParams"), _SP_PERMANENCES, changes, 10_000)
    memory = {**_inner(inner, "tpParams"), **_inner(inner, "tmParams")}
    _take(memory, _TM, changes, 1)
    _take(memory, _TM_PERMANENCES, changes, 1_000)
    classifier = bool(inner.get("clEnable", False))
    if classifier:
        changes["predict_steps"] = _steps(complete["inferenceArgs"].get("predictionSteps"))
    changes |= _encoders(_inner(_inner(inner, "sensorParams"), "encoders"), timestamp, value)
    parameters = _changed(base, {**changes, **(spec.options.parameters or {})})
    return {
        "modelConfig": dict(config),
        "inferenceArgs": dict(complete["inferenceArgs"]),
        "inputRecordSchema": _schema(timestamp, value),
        "detector": _detector(spec.options, parameters, classifier=classifier) | {"complete": True},
    }


def _steps(given: Any) -> tuple[int, ...]:
    if given is None:
        return (1,)
    if not isinstance(given, list | tuple) or not all(isinstance(step, int) for step in given):
        raise InvalidInput(
            f"predictionSteps must be a list of whole numbers, not {given!r:.100}", field="inferenceArgs"
        )
    return tuple(given)


def _inner(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = given.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{key} of completeModelParams must be an object, not {value!r:.100}", field=key)
    return value


def _take(given: Mapping[str, Any], names: Mapping[str, str], changes: dict[str, Any], scale: int) -> None:
    for key, name in names.items():
        value = given.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInput(f"{key} of completeModelParams must be a number, not {value!r:.100}", field=key)
        changes[name] = value if scale == 1 else round(value * scale)


def _encoders(encoders: Mapping[str, Any], timestamp: str, value: str) -> dict[str, Any]:
    found: dict[str, Any] = {"time_on": 0}
    for name, encoder in encoders.items():
        if encoder is None:
            continue
        if not isinstance(encoder, Mapping):
            raise InvalidInput(f"encoder {name!r} of completeModelParams must be an object", field=name)
        field = encoder.get("fieldname", name)
        if field == value:
            found |= _value_encoder(name, encoder)
        elif field == timestamp:
            found |= _time_encoder(encoder)
        else:
            raise InvalidInput(
                f"encoder {name!r} reads the field {field!r}; a model has the fields {timestamp!r} and {value!r}",
                field=name,
            )
    if "buckets" not in found and "minimum" not in found:
        raise InvalidInput(f"completeModelParams has no encoder for {value!r}", field="encoders")
    return found


def _time_encoder(encoder: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, name in (("timeOfDay", "time_on"), ("dayOfWeek", "day_on"), ("weekend", "weekend_on")):
        width = encoder.get(key)
        if width:
            found[name] = int(width[0] if isinstance(width, list | tuple) else width)
    return found


def _value_encoder(name: str, encoder: Mapping[str, Any]) -> dict[str, Any]:
    def number(key: str) -> float | None:
        value = encoder.get(key)
        return None if value is None or isinstance(value, bool) else float(value)

    found: dict[str, Any] = {}
    low, high = number("minval"), number("maxval")
    resolution, buckets = number("resolution"), number("numBuckets") or number("n")
    if number("w"):
        found["value_on"] = int(number("w") or 0)
    if low is not None and high is not None:
        count = (high - low) / resolution if resolution else buckets or 130
        return found | {"minimum": low, "maximum": high, "buckets": (max(1, round(count)),)}
    if resolution and resolution > 0:
        return found | {"minimum": 0.0, "maximum": resolution * 130, "buckets": (130,)}
    raise InvalidInput(f"encoder {name!r} of completeModelParams needs a resolution, or minval and maxval", field=name)
