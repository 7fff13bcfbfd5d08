"""
Model parameters as users of htmengine write them, turned into this package's.

`of_range` takes what a modelSpec's `modelParams` holds, `of_config` the `modelConfig` and `inferenceArgs` of
`completeModelParams` (NuPIC's layout). What has no meaning here is listed, not silently dropped; what contradicts
itself is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventproc.htm.parameters import Parameters, named

LEAST_RESOLUTION = 0.001  # of htmengine's encoders, unless minResolution says otherwise

_POOLER = {
    "columnCount": ("columns", 1),
    "numActiveColumnsPerInhArea": ("active_columns", 1),
    "potentialPct": ("potential", None),
    "synPermActiveInc": ("pooler_up", 10_000),
    "synPermInactiveDec": ("pooler_down", 10_000),
    "synPermConnected": ("pooler_connected", 10_000),
}
_MEMORY = {
    "columnCount": ("columns", 1),
    "cellsPerColumn": ("cells", 1),
    "activationThreshold": ("activate", 1),
    "minThreshold": ("match", 1),
    "newSynapseCount": ("grow", 1),
    "initialPerm": ("initial", 1000),
    "permanenceInc": ("up", 1000),
    "permanenceDec": ("down", 1000),
    "predictedSegmentDecrement": ("punish", 1000),
    "connectedPerm": ("connected", 1000),
    "maxSynapsesPerSegment": ("synapses", 1),
    "seed": ("seed", 1),
}
# What is so here anyway, or steers what this package does in a way of its own.
_IMPLIED = {
    *("boostStrength", "maxBoost", "globalInhibition", "inputWidth", "spVerbosity", "spatialImp", "temporalImp"),
    *("verbosity", "outputType", "pamLength", "globalDecay", "maxAge", "maxSegmentsPerCell"),
}
_KNOWN = {
    *("sensorParams", "spParams", "tmParams", "tpParams", "clEnable", "clParams", "inferenceType"),
    *("spEnable", "tmEnable", "tpEnable", "anomalyParams"),
}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Parameters, and what of the source had no meaning here (dotted names)."""

    parameters: Parameters
    ignored: tuple[str, ...] = ()


def of_range(
    base: Parameters | str = "default",
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    min_resolution: float | None = None,
    classifier: bool = False,
    steps: Sequence[int] = (1,),
) -> Parameters:
    """
    Give a named parameter set a range of values, htmengine's way.

    The encoder's resolution is max(min_resolution or 0.001, (maximum - minimum) / buckets); an empty range counts as
    one of width 1. With neither end the model takes the range from its first values. `classifier` asks for best next
    values, `steps` records ahead.
    """
    parameters = named(base) if isinstance(base, str) else base
    if (minimum is None) != (maximum is None):
        raise ValueError(f"min and max params must both be None or non-None; got min={minimum!r} and max={maximum!r}")
    for name, number in (("min", minimum), ("max", maximum), ("minResolution", min_resolution)):
        if number is not None and not math.isfinite(number):
            raise ValueError(f"{name} must be a finite number, not {number!r}")
    return parameters.changed(
        minimum=minimum,
        maximum=maximum,
        min_resolution=LEAST_RESOLUTION if min_resolution is None else min_resolution,
        predict_steps=tuple(steps) if classifier else (),
    )


def of_config(config: Mapping[str, Any], inference: Mapping[str, Any] | None = None) -> Spec:
    """Read a NuPIC model configuration: encoders, pooler, memory, classifier."""
    params = _part(config, "modelParams", "modelConfig")
    ignored = [f"modelConfig.{name}" for name in config if name not in {"model", "version", "modelParams"}]
    changes: dict[str, Any] = _encoders(_part(params, "sensorParams"), ignored)
    changes |= _numbers(_part(params, "spParams"), _POOLER, "spParams", ignored)
    key = "tmParams" if "tmParams" in params else "tpParams"
    changes |= _numbers(_part(params, key), _MEMORY, key, ignored)
    changes["pooler_learns"] = True
    changes["predict_steps"] = _steps(params, inference or {})
    ignored += [f"modelParams.{name}" for name in params if name not in _KNOWN]
    try:
        return Spec(parameters=named("numenta_cpp").changed(**changes), ignored=tuple(ignored))
    except (TypeError, ValueError) as error:
        raise ValueError(f"modelConfig: {error}") from error


def _part(params: Mapping[str, Any], name: str, where: str = "modelParams") -> Mapping[str, Any]:
    return _object(params.get(name, {}), f"{where}.{name}")


def _object(found: Any, where: str) -> Mapping[str, Any]:
    if isinstance(found, Mapping):
        return found
    raise ValueError(f"{where} must be an object, not {type(found).__name__}")


def _numbers(
    part: Mapping[str, Any], known: Mapping[str, tuple[str, int | None]], where: str, ignored: list[str]
) -> dict[str, Any]:
    """Translate a part's numbers; whole ones where a scale is given."""
    changes: dict[str, Any] = {}
    for name, value in part.items():
        if name in known:
            target, scale = known[name]
            number = _number(value, f"{where}.{name}")
            changes[target] = number if scale is None else round(number * scale)
        elif name not in _IMPLIED and name != "seed":
            ignored.append(f"{where}.{name}")
    return changes


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where} must be a number, not {value!r}")
    return float(value)


def _encoders(sensor: Mapping[str, Any], ignored: list[str]) -> dict[str, Any]:
    encoders = _part(sensor, "encoders", "modelParams.sensorParams")
    changes: dict[str, Any] = {"time_on": 0}
    values = 0
    for name, encoder in encoders.items():
        where = f"sensorParams.encoders.{name}"
        if encoder is None:
            continue
        kind = _object(encoder, where).get("type")
        if kind == "DateEncoder":
            changes |= _date(encoder, where, ignored)
        elif kind in {"RandomDistributedScalarEncoder", "ScalarEncoder", "AdaptiveScalarEncoder"}:
            values += 1
            changes |= _scalar(encoder, where, adaptive=kind == "AdaptiveScalarEncoder")
        elif kind == "DeltaEncoder":
            values += 1
            on = int(_number(encoder.get("w", 21), f"{where}.w"))
            changes |= _scalar(encoder, where, adaptive=False) | {"value_on": 0, "delta_on": on}
        elif kind in {"CategoryEncoder", "SDRCategoryEncoder"}:
            values += 1
            changes |= {"category": True, "streams": False}
        else:
            raise ValueError(f"{where}: no encoder is named {kind!r} here")
    if values != 1:
        raise ValueError(f"sensorParams.encoders must encode one value, not {values}: a model here is of one metric")
    return changes


def _scalar(encoder: Mapping[str, Any], where: str, *, adaptive: bool) -> dict[str, Any]:
    changes: dict[str, Any] = {"adaptive": adaptive}
    for name, target in (("w", "value_on"), ("n", "value_bits")):
        if encoder.get(name):
            changes[target] = int(_number(encoder[name], f"{where}.{name}"))
    if encoder.get("numBuckets"):
        changes["buckets"] = (int(_number(encoder["numBuckets"], f"{where}.numBuckets")),)
    if encoder.get("resolution"):
        changes["resolution"] = _number(encoder["resolution"], f"{where}.resolution")
    for name, target in (("minval", "minimum"), ("maxval", "maximum")):
        if encoder.get(name) is not None:
            changes[target] = _number(encoder[name], f"{where}.{name}")
    if "resolution" in changes and "minimum" in changes and "maximum" in changes and "buckets" not in changes:
        width = max(changes["maximum"] - changes["minimum"], changes["resolution"])
        changes["buckets"] = (max(1, round(width / changes["resolution"])),)
    return changes


def _date(encoder: Mapping[str, Any], where: str, ignored: list[str]) -> dict[str, Any]:
    """Read one of a timestamp's encoders: `timeOfDay` is (bits, hours that share bits), the others (bits, ...)."""
    changes: dict[str, Any] = {}
    for name, target in (("timeOfDay", "time_on"), ("dayOfWeek", "day_on"), ("weekend", "weekend_on")):
        given = encoder.get(name)
        if given:
            parts = list(given) if isinstance(given, Sequence) else [given]
            changes[target] = int(_number(parts[0], f"{where}.{name}"))
            if target == "time_on" and len(parts) > 1:
                radius = _number(parts[1], f"{where}.{name}")
                changes["time_bits"] = max(changes[target], round(changes[target] * 24.0 / max(radius, 1e-9)))
    ignored += [f"{where}.{name}" for name in ("season", "holiday", "customDays") if encoder.get(name)]
    return changes


def _steps(params: Mapping[str, Any], inference: Mapping[str, Any]) -> tuple[int, ...]:
    if not params.get("clEnable", False):
        return ()
    given = inference.get("predictionSteps") or _part(params, "clParams").get("steps") or (1,)
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, Sequence) else (given,)
    try:
        return tuple(sorted({int(part) for part in parts}))
    except (TypeError, ValueError) as error:
        raise ValueError(f"predictionSteps must be whole numbers of records, not {given!r}") from error
