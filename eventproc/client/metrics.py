"""The calls about metrics and their samples."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from eventproc.client.calls import Calls, given
from eventproc.client.paths import segment
from eventproc.errors import InvalidInput

BATCH_BYTES = 2_000_000  # of one request
MAX_EXAMPLES = 10

Time = float | str | dt.datetime | None


def moment(time: Time) -> str | None:
    if time is None or isinstance(time, str):
        return time
    if isinstance(time, dt.datetime):
        return time.isoformat()
    return repr(float(time))


def _line(sample: Sequence[Any]) -> str:
    name, value, *rest = sample
    time = rest[0] if rest else -1
    if isinstance(time, dt.datetime):
        aware = time if time.tzinfo else time.replace(tzinfo=dt.UTC)
        time = aware.timestamp()
    if not isinstance(name, str) or isinstance(value, str) or isinstance(time, str):
        raise InvalidInput(f"a sample is (name, value, seconds or datetime), not {sample!r:.200}")
    return f"{name} {float(value)!r} {float(time)!r}\n"


class Metrics(Calls):
    """
    The part of a Connection that knows metrics.

    A metric is named by its name or its uid. Times that are given may be datetimes (naive ones are UTC), seconds since
    1970, or ISO-8601 texts.
    """

    def metrics(
        self,
        name: str | None = None,
        *,
        prefix: str | None = None,
        tags: Mapping[str, str] | None = None,
        status: str | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """List metrics; `name` and the tags' values may be globs."""
        tag = [f"{key}={value}" for key, value in (tags or {}).items()]
        params = {"name": name, "prefix": prefix, "tag": tag or None, "status": status}
        return list(self.pages("/metrics", params, limit))

    def metric(self, which: str) -> dict[str, Any]:
        """Return one metric, with `first_time` and `statistics` (count, min, max) of what is stored."""
        return self._object("GET", f"/metrics/{segment(which)}")

    def samples(
        self,
        which: str,
        start: Time = None,
        end: Time = None,
        *,
        min_score: float | None = None,
        scored: bool = False,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return a metric's samples with start <= time < end: `rowid`, `time`, `value`, `anomaly` and more."""
        params = {
            "start": moment(start),
            "end": moment(end),
            "min_score": min_score,
            "scored": scored or None,
            "newest_first": newest_first or None,
        }
        return list(self.pages(f"/metrics/{segment(which)}/samples", params, limit))

    def metric_windows(self, which: str, width: float, start: Time = None, end: Time = None) -> list[dict[str, Any]]:
        """Return count, min, mean, max and highest anomaly of each stretch of `width` seconds with samples."""
        params = {"width": width, "start": moment(start), "end": moment(end)}
        answer: dict[str, Any] = self.request("GET", f"/metrics/{segment(which)}/windows", params=params)
        items: list[dict[str, Any]] = answer["items"]
        return items

    def dump_samples(self, *names: str, start: Time = None, end: Time = None) -> Iterator[str]:
        """Return `name value timestamp` lines in pieces, of the named metrics (globs too), or of all."""
        params = {"name": list(names) or None, "start": moment(start), "end": moment(end)}
        return self._text("GET", "/samples", params=given(params))

    def rejected_samples(
        self,
        *,
        reason: str | None = None,
        metric: str | None = None,
        source: str | None = None,
        since: Time = None,
        limit: int = 1000,
    ) -> list[dict[str, Any]]:
        """Return what was refused, by reason, source and metric, with the last examples."""
        params = {"reason": reason, "metric": metric, "source": source, "since": moment(since), "limit": limit}
        items: list[dict[str, Any]] = self.request("GET", "/samples/rejected", params=params)["items"]
        return items

    def send_samples(self, samples: Iterable[Sequence[Any]]) -> dict[str, Any]:
        """
        Send (name, value) or (name, value, time) samples; without a time they are of now.

        Bad ones are refused singly: `accepted`, `rejected` (how many, by reason), `created` (new metrics), `examples`.
        """
        return self.send_sample_lines(_line(sample) for sample in samples)

    def send_sample_lines(self, lines: Iterable[str | bytes]) -> dict[str, Any]:
        """Send `name value timestamp` lines, or lines with JSON objects; as `send_samples` otherwise."""
        total: dict[str, Any] = {"accepted": 0, "rejected": Counter(), "created": 0, "examples": []}
        for first, body in _bodies(lines):
            kind = "json" if body.lstrip()[:1] == b"{" else "lines"
            text = "".join(self._text("POST", "/metrics/samples", params={"format": kind}, content=body))
            _add(total, text, first)
        return {**total, "rejected": dict(total["rejected"])}


def _bodies(lines: Iterable[str | bytes]) -> Iterator[tuple[int, bytes]]:
    """Return requests' bodies, each with the number of lines before it."""
    parts: list[bytes] = []
    size = seen = 0
    for line in lines:
        raw = line.encode("utf-8", "surrogateescape") if isinstance(line, str) else line
        parts.append(raw if raw.endswith(b"\n") else raw + b"\n")
        size += len(raw)
        if size >= BATCH_BYTES:
            yield seen, b"".join(parts)
            seen += len(parts)
            parts, size = [], 0
    if parts:
        yield seen, b"".join(parts)


def _add(total: dict[str, Any], text: str, first: int) -> None:
    import json  # noqa: PLC0415 - beside the argument names `json` above

    answer = json.loads(text)
    total["accepted"] += answer["accepted"]
    total["created"] += answer["created"]
    total["rejected"].update(answer["rejected"])
    room = MAX_EXAMPLES - len(total["examples"])
    total["examples"] += [{**one, "line": one["line"] + first} for one in answer["examples"][:room]]


__all__ = ["Metrics"]
