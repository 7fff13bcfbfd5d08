"""
Prometheus' remote-write protocol, version 1: a WriteRequest in protobuf, compressed by snappy's block format.

After https://prometheus.io/docs/specs/prw/remote_write_spec/. The message is described here rather than compiled, as
the gRPC service's are; what the platform does not keep (metadata, exemplars) is not described at all.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

import cramjam
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from eventproc.errors import InvalidInput, TooLarge, UnsupportedMedia
from eventproc.metrics.batch import Batch, Refusal
from eventproc.metrics.names import join_name
from eventproc.model import RejectReason

MAX_BYTES: Final = 16 << 20  # unpacked; what senders put into one request by themselves is far below
V2: Final = "io.prometheus.write.v2"

_PACKAGE = "eventproc.prometheus"
_Field = descriptor_pb2.FieldDescriptorProto
# Number, name and type of each field. A histogram stays bytes: that there is one is all we need to know.
_MESSAGES: Final[dict[str, tuple[tuple[int, str, int | str, bool], ...]]] = {
    "Label": ((1, "name", _Field.TYPE_STRING, False), (2, "value", _Field.TYPE_STRING, False)),
    "Sample": ((1, "value", _Field.TYPE_DOUBLE, False), (2, "timestamp", _Field.TYPE_INT64, False)),
    "TimeSeries": (
        (1, "labels", "Label", True),
        (2, "samples", "Sample", True),
        (4, "histograms", _Field.TYPE_BYTES, True),
    ),
    "WriteRequest": ((1, "timeseries", "TimeSeries", True),),
}
# The NaN by which a scrape says that its series has ended; it is no sample. Other NaNs are, and are refused.
_STALE: Final = struct.pack("<Q", 0x7FF0000000000002)
# All that a tag of Graphite's may hold, but the sign that marks what is written otherwise.
_SAFE_IN_TAGS: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in ";%")
_SAFE_IN_NAMES: Final = _SAFE_IN_TAGS.replace("!", "").replace("^", "").replace("=", "")


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for number, field_name, kind, repeated in fields:
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            field = described.field.add(name=field_name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                field.type = kind  # type: ignore[assignment]  # the enumeration's members are plain ints
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


WriteRequest: Final[Any] = _classes()["WriteRequest"]


def parse_write_request(body: bytes) -> Batch:
    """
    Read a request's body: a batch in its order, with times in seconds; series that can not be kept are refused singly.

    Raises InvalidInput where the body is no such request, TooLarge where it would be too much to unpack.
    """
    request = WriteRequest()
    try:
        request.ParseFromString(_unpacked(body))
    except message.DecodeError as error:
        raise InvalidInput("the body, unpacked, is no WriteRequest of Prometheus' remote-write 1.0") from error
    names: list[bytes] = []
    seconds: list[float] = []
    values: list[float] = []
    refusals: list[Refusal] = []
    for series in request.timeseries:
        name = _name(series.labels)
        if name is None:
            refusals.append(Refusal(RejectReason.BAD_NAME, "", _labels_text(series.labels), count=_size(series)))
            continue
        if series.histograms:
            text = f"{name}: native histograms are not kept"
            refusals.append(Refusal(RejectReason.UNREADABLE, name, text, count=len(series.histograms)))
        raw = name.encode()
        for sample in series.samples:
            if sample.value != sample.value and struct.pack("<d", sample.value) == _STALE:
                continue
            names.append(raw)
            seconds.append(sample.timestamp / 1000)
            values.append(sample.value)
    return Batch(
        names=names,
        seconds=np.array(seconds, dtype=np.float64),
        values=np.array(values, dtype=np.float64),
        refusals=refusals,
    )


def check_headers(content_type: str, encoding: str) -> None:
    """Raise UnsupportedMedia where the sender says itself that it sends something else."""
    if V2 in content_type:
        raise UnsupportedMedia(
            "this is remote-write 2.0, and 1.0 is what is taken: in prometheus.yml, leave `protobuf_message` out",
            content_type=content_type,
        )
    if encoding.strip().lower() not in ("", "snappy"):
        raise UnsupportedMedia(
            f"remote-write 1.0 is compressed by snappy, and the header says {encoding[:100]!r}",
            content_encoding=encoding[:100],
        )


def _unpacked(body: bytes) -> bytes:
    # The size is looked at before anything is unpacked; cramjam then refuses what unpacks to another size.
    try:
        size = cramjam.snappy.decompress_raw_len(body)
        if size > MAX_BYTES:
            raise TooLarge(
                f"the body says it has {size:,} bytes when unpacked, and {MAX_BYTES:,} are allowed; "
                "send fewer samples in a request (max_samples_per_send)",
                limit=MAX_BYTES,
            )
        return bytes(cramjam.snappy.decompress_raw(body))
    except cramjam.DecompressionError as error:
        raise InvalidInput(f"the body is not compressed by snappy (its block format): {error}") from error


def _name(labels: Iterable[Any]) -> str | None:
    """Return the name with its labels as tags; None where no label says what the metric is called."""
    tags = {label.name: label.value for label in labels if label.value}  # an empty label is none, to Prometheus
    base = tags.pop("__name__", "")
    if not base:
        return None
    return join_name(
        quote(base, safe=_SAFE_IN_TAGS),
        {quote(key, safe=_SAFE_IN_NAMES): _tag_value(value) for key, value in tags.items()},
    )


def _tag_value(value: str) -> str:
    found = quote(value, safe=_SAFE_IN_TAGS)
    return f"%7E{found[1:]}" if found.startswith("~") else found


def _labels_text(labels: Iterable[Any]) -> str:
    return ("{" + ", ".join(f"{label.name}={label.value!r}" for label in labels) + "}")[:400]


def _size(series: Any) -> int:
    return max(1, len(series.samples) + len(series.histograms))
