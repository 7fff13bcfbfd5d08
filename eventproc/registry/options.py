"""Registration options: the JSON that users write and the `Options` that the engine reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from eventproc.errors import InvalidInput
from eventproc.model import FULL_NETWORK, Concurrency, Isolation, Limits, Options, Policy, Rate, Retries
from eventproc.registry.checks import check_secret_name
from eventproc.registry.durations import parse_duration, parse_rate, parse_size
from eventproc.registry.filters import check_filter
from eventproc.registry.powers import check_powers, parse_allow_subprocess, parse_network
from eventproc.registry.requirements import check_requirements

MAX_RETRIES = 100
MAX_CONCURRENCY = 10_000
MAX_PATH_LENGTH = 255
MAX_SECRETS = 50  # of one handler


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxLimits:
    """What the operator grants at most; a registration that asks for more is refused."""

    timeout_s: float = 3600.0
    cpu_s: float = 3600.0
    memory_bytes: int = 8 << 30
    file_bytes: int = 4 << 30
    open_files: int = 4096
    upload_bytes: int = 4 << 30
    processes: int = 1024
    scratch_bytes: int = 8 << 30
    scratch_files: int = 1_000_000
    output_bytes: int = 64 << 20
    result_bytes: int = 16 << 20


_OPTION_OF_LIMIT = {
    "timeout_s": "timeout",
    "cpu_s": "cpu",
    "memory_bytes": "memory",
    "file_bytes": "files",
    "open_files": "files.open",
    "upload_bytes": "files.uploads",
    "processes": "processes",
    "scratch_bytes": "scratch",
    "scratch_files": "scratch.files",
    "output_bytes": "output",
    "result_bytes": "result",
}


def parse_options(
    mapping: Mapping[str, Any] | None,
    *,
    maxima: MaxLimits | None = None,
    defaults: Limits | None = None,
    policy: Policy | None = None,
) -> Options:
    """
    Read what a registration says; members that are None count as not given.

    Raises UnsupportedOption for what the platform can not honour, InvalidInput for the rest.
    """
    given = {name: value for name, value in (mapping or {}).items() if value is not None}
    if unknown := sorted(given.keys() - _PARSERS.keys()):
        raise InvalidInput(
            f"unknown option {unknown[0]!r}; there are: {', '.join(sorted(_PARSERS))}", option=unknown[0]
        )
    options = Options(limits=defaults or Limits())
    for name, parse in _PARSERS.items():
        if name in given:
            options = parse(options, given[name])
    if "timeout" in given and "cpu" not in given:
        # Who asks for more time means to use it.
        options = _limit(options, cpu_s=max(options.limits.cpu_s, options.limits.timeout_s))
    _check_maxima(options.limits, maxima or MaxLimits())
    check_powers(options, policy or Policy())
    return options


def _check_maxima(limits: Limits, maxima: MaxLimits) -> None:
    for field in fields(maxima):
        asked, maximum = getattr(limits, field.name), getattr(maxima, field.name)
        if asked > maximum:
            option = _OPTION_OF_LIMIT[field.name]
            raise InvalidInput(
                f"option {option!r}: {asked:,} is more than the operator's maximum of {maximum:,} "
                f"({_unit(field.name)})",
                option=option,
                limit=field.name,
                maximum=maximum,
            )


def _unit(limit: str) -> str:
    return {"s": "seconds", "bytes": "bytes"}.get(limit.rpartition("_")[2], limit.partition("_")[2] or limit)


def _limit(options: Options, **changes: Any) -> Options:
    return replace(options, limits=replace(options.limits, **changes))


def _count(value: Any, what: str, *, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise InvalidInput(f"option {what!r}: {value!r} is no whole number from {lowest} to {highest}", option=what)
    return value


def _members(value: Mapping[str, Any], what: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    if unknown := sorted(set(value) - set(allowed)):
        raise InvalidInput(
            f"option {what!r}: unknown member {unknown[0]!r}; there are {', '.join(allowed)}", option=what
        )
    return {name: item for name, item in value.items() if item is not None}


def _path(value: Any, what: str) -> str:
    if not isinstance(value, str) or not all(value.split(".")) or len(value) > MAX_PATH_LENGTH:
        raise InvalidInput(f'option {what!r}: {value!r} is no payload path such as "metric.name"', option=what)
    return value


def _timeout(options: Options, value: Any) -> Options:
    return _limit(options, timeout_s=parse_duration(value, "option 'timeout'"))


def _cpu(options: Options, value: Any) -> Options:
    return _limit(options, cpu_s=parse_duration(value, "option 'cpu'"))


def _memory(options: Options, value: Any) -> Options:
    size = parse_size(value, "option 'memory'")
    if size < _LEAST_MEMORY:
        raise InvalidInput(
            f"option 'memory': {size:,} bytes; an interpreter alone needs {_LEAST_MEMORY:,}", option="memory"
        )
    return _limit(options, memory_bytes=size)


_LEAST_MEMORY = 64 << 20


def _files(options: Options, value: Any) -> Options:
    """Take a size (largest file, and uploads together), or a dict of size, open and uploads."""
    if not isinstance(value, Mapping):
        size = parse_size(value, "option 'files'")
        return _limit(options, file_bytes=size, upload_bytes=size)
    given = _members(value, "files", ("size", "open", "uploads"))
    changes: dict[str, Any] = {}
    if "size" in given:
        changes["file_bytes"] = parse_size(given["size"], "option 'files.size'")
    if "uploads" in given:
        changes["upload_bytes"] = parse_size(given["uploads"], "option 'files.uploads'")
    if "open" in given:
        changes["open_files"] = _count(given["open"], "files.open", lowest=16, highest=1 << 20)
    return _limit(options, **changes)


def _processes(options: Options, value: Any) -> Options:
    return _limit(options, processes=_count(value, "processes", lowest=1, highest=1 << 20))


def _scratch(options: Options, value: Any) -> Options:
    """Take the size of the private directory, or a dict of size and files."""
    given = _members(value, "scratch", ("size", "files")) if isinstance(value, Mapping) else {"size": value}
    if "size" in given:
        options = _limit(options, scratch_bytes=parse_size(given["size"], "option 'scratch'"))
    if "files" in given:
        options = _limit(options, scratch_files=_count(given["files"], "scratch.files", lowest=16, highest=1 << 30))
    return options


def _output(options: Options, value: Any) -> Options:
    return _limit(options, output_bytes=parse_size(value, "option 'output'"))


def _result(options: Options, value: Any) -> Options:
    return _limit(options, result_bytes=parse_size(value, "option 'result'"))


def _retries(options: Options, value: Any) -> Options:
    if not isinstance(value, Mapping):
        return replace(options, retries=Retries(max=_count(value, "retries", lowest=0, highest=MAX_RETRIES)))
    given = _members(value, "retries", ("max", "backoff", "backoff_max", "jitter"))
    if "max" not in given:
        raise InvalidInput("option 'retries': say how many with the member 'max'", option="retries")
    retries = Retries(max=_count(given["max"], "retries.max", lowest=0, highest=MAX_RETRIES))
    if "backoff" in given:
        retries = replace(retries, backoff_s=parse_duration(given["backoff"], "option 'retries.backoff'"))
    if "backoff_max" in given:
        retries = replace(retries, backoff_max_s=parse_duration(given["backoff_max"], "option 'retries.backoff_max'"))
    jitter = given.get("jitter", retries.jitter)
    if isinstance(jitter, bool) or not isinstance(jitter, int | float) or not 0 <= jitter <= 1:
        raise InvalidInput(f"option 'retries.jitter': {jitter!r} is no number from 0 to 1", option="retries")
    return replace(options, retries=replace(retries, jitter=float(jitter)))


def _filter(options: Options, value: Any) -> Options:
    check_filter(value)
    return replace(options, filter=value)


def _order_by(options: Options, value: Any) -> Options:
    # JSON has no way to leave a default by None in a dict whose None members count as not given.
    order_by = None if value in (False, "", "none") else _path(value, "order_by")
    return replace(options, order_by=order_by)


def _concurrency(options: Options, value: Any) -> Options:
    given = _members(value, "concurrency", ("count", "key")) if isinstance(value, Mapping) else {"count": value}
    count = _count(given.get("count"), "concurrency", lowest=1, highest=MAX_CONCURRENCY)
    key = _path(given["key"], "concurrency.key") if "key" in given else None
    return replace(options, concurrency=Concurrency(count=count, key=key))


def _rate(options: Options, value: Any) -> Options:
    if isinstance(value, str):
        count, per_s = parse_rate(value, "option 'rate'")
        return replace(options, rate=Rate(count=count, per_s=per_s))
    if not isinstance(value, Mapping):
        raise InvalidInput(
            f'option \'rate\': {value!r}; write "10/m" or {{"count": 10, "per": "1m", "key": "metric.name"}}',
            option="rate",
        )
    given = _members(value, "rate", ("count", "per", "key"))
    rate = Rate(
        count=_count(given.get("count"), "rate.count", lowest=1, highest=1_000_000),
        per_s=parse_duration(given.get("per"), "option 'rate.per'"),
        key=_path(given["key"], "rate.key") if "key" in given else None,
    )
    return replace(options, rate=rate)


def _isolation(options: Options, value: Any) -> Options:
    try:
        isolation = Isolation(value)
    except ValueError:
        raise InvalidInput(
            f"option 'isolation': {value!r} is none of {', '.join(Isolation)}", option="isolation"
        ) from None
    return replace(options, isolation=isolation)


def _throttle(options: Options, value: Any) -> Options:
    return replace(options, throttle_s=parse_duration(value, "option 'throttle'"))


def _requirements(options: Options, value: Any) -> Options:
    return replace(options, requirements=check_requirements(value))


def _secrets(options: Options, value: Any) -> Options:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidInput(f"option 'secrets': write a list of names, not a {type(value).__name__}", option="secrets")
    if len(value) > MAX_SECRETS:
        raise InvalidInput(f"option 'secrets': {len(value)} names; at most {MAX_SECRETS}", option="secrets")
    return replace(options, secrets=tuple(dict.fromkeys(check_secret_name(name) for name in value)))


_PARSERS: dict[str, Callable[[Options, Any], Options]] = {
    "timeout": _timeout,
    "cpu": _cpu,
    "memory": _memory,
    "files": _files,
    "retries": _retries,
    "filter": _filter,
    "order_by": _order_by,
    "concurrency": _concurrency,
    "rate": _rate,
    "isolation": _isolation,
    "requirements": _requirements,
    "secrets": _secrets,
    "throttle": _throttle,
    "processes": _processes,
    "scratch": _scratch,
    "output": _output,
    "result": _result,
    "allow_subprocess": parse_allow_subprocess,
    "network": parse_network,
}


def options_to_json(options: Options) -> dict[str, Any]:
    """Write options so that `parse_options` reads the same again; what users see in lists."""
    limits, retries = options.limits, options.retries
    out: dict[str, Any] = {
        "timeout": limits.timeout_s,
        "cpu": limits.cpu_s,
        "memory": limits.memory_bytes,
        "files": {"size": limits.file_bytes, "open": limits.open_files, "uploads": limits.upload_bytes},
        "processes": limits.processes,
        "scratch": {"size": limits.scratch_bytes, "files": limits.scratch_files},
        "output": limits.output_bytes,
        "result": limits.result_bytes,
        "retries": {
            "max": retries.max,
            "backoff": retries.backoff_s,
            "backoff_max": retries.backoff_max_s,
            "jitter": retries.jitter,
        },
        "isolation": options.isolation.value,
        "order_by": options.order_by or "none",
    }
    if options.filter is not None:
        out["filter"] = dict(options.filter)
    if options.concurrency:
        out["concurrency"] = {"count": options.concurrency.count, "key": options.concurrency.key}
    if options.rate:
        out["rate"] = {"count": options.rate.count, "per": options.rate.per_s, "key": options.rate.key}
    if options.requirements:
        out["requirements"] = list(options.requirements)
    if options.secrets:
        out["secrets"] = list(options.secrets)
    if options.throttle_s:
        out["throttle"] = options.throttle_s
    if options.allow_subprocess:
        out["allow_subprocess"] = True
    if options.network:
        out["network"] = "full" if options.network == FULL_NETWORK else list(options.network)
    return out
