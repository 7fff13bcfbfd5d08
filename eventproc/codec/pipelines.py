"""
A pipeline as one blob: what is known of its handlers as JSON, then the pickled ones.

Nothing here unpickles or imports anything; `eventproc.child.pipeline` takes it apart, in a sandbox.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from eventproc.codec.bundle import digest_of
from eventproc.errors import InvalidInput, VersionMismatch
from eventproc.model import PIPELINE, HandlerBundle

MAX_HANDLERS: Final = 100  # of one pipeline

_HEAD = struct.Struct("<I")
_IMPORT = re.compile(r"(?:/[^|]*\|)?[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelinePart:
    """
    One handler of a pipeline: pickled, or a name that is imported where handlers run.

    `params` are given to the class (or to the function, behind events and env) by name.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    bundle: HandlerBundle | None = None
    import_name: str | None = None


def check_import(name: Any) -> str:
    """Return `module:Class`, `module:Class.member` or `/directory|module:Class`. Raises InvalidInput."""
    if not isinstance(name, str) or not _IMPORT.fullmatch(name):
        raise InvalidInput(f"{name!r} is no name to import; write module:Class, such as 'mypackage.handlers:Usage'")
    return name


def pack_pipeline(
    parts: Sequence[PipelinePart], *, python: str, naive: bool = False, setup: Sequence[str] = ()
) -> HandlerBundle:
    """
    Return the bundle of a pipeline.

    `python` is taken where no handler is pickled. With `naive` handlers see naive datetimes, in UTC. `setup` names
    functions, as `module:function`, that the child calls before it imports anything.
    Raises VersionMismatch for handlers that were pickled by different Pythons, InvalidInput for parameters that are
    not JSON.
    """
    pickled = [part.bundle for part in parts if part.bundle is not None]
    pythons = sorted({bundle.python for bundle in pickled if bundle.python})
    if len(pythons) > 1:
        raise VersionMismatch(
            f"the pipeline's handlers were made by Python {' and '.join(pythons)}, and run in one process: "
            "register them from one version",
            pythons=pythons,
        )
    header = {"handlers": [_described(part) for part in parts], "naive": naive, "setup": list(setup)}
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the parameters of a pipeline's handlers have to be JSON: {error}") from None
    blob = b"".join([_HEAD.pack(len(text)), text, *(bundle.blob for bundle in pickled)])
    return HandlerBundle(
        blob=blob,
        digest=digest_of(blob),
        python=pythons[0] if pythons else python,
        dill=next((bundle.dill for bundle in pickled), ""),
        source=_source(parts),
        filename=None,
        qualname=" → ".join(part.name for part in parts),
        kind=PIPELINE,
        globals=tuple(sorted({name for bundle in pickled for name in bundle.globals})),
    )


def describe_pipeline(blob: bytes) -> list[dict[str, Any]]:
    """Return what is known of the handlers of a stored pipeline: name, params, import or size."""
    (size,) = _HEAD.unpack_from(blob)
    header: dict[str, Any] = json.loads(blob[_HEAD.size : _HEAD.size + size])
    return [
        {name: value for name, value in handler.items() if name in ("name", "params", "import", "size", "digest")}
        for handler in header["handlers"]
    ]


def _described(part: PipelinePart) -> dict[str, Any]:
    described: dict[str, Any] = {"name": part.name, "params": dict(part.params)}
    if part.bundle is None:
        return described | {"import": check_import(part.import_name)}
    bundle = part.bundle
    return described | {
        "size": len(bundle.blob),
        "digest": bundle.digest,
        "source": bundle.source,
        "filename": bundle.filename,
    }


def _source(parts: Sequence[PipelinePart]) -> str:
    """Return a text in which the differences of two versions show."""
    texts = []
    for part in parts:
        params = json.dumps(dict(part.params), sort_keys=True, ensure_ascii=False, default=str)
        head = f"# handler {part.name}, params {params}"
        body = f"# imported: {part.import_name}" if part.bundle is None else (part.bundle.source or "# no source text")
        texts.append(f"{head}\n{body.rstrip()}\n")
    return "\n".join(texts)
