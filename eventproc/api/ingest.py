"""Upload of archives: the body is the archive, the answer is a stream of lines that tell how far it is."""

from __future__ import annotations

import asyncio
import queue
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any, BinaryIO

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from eventproc.api import shapes
from eventproc.api.deps import ERRORS, SECURED, address, bearer_key, use_cases
from eventproc.api.errors import fault_message
from eventproc.errors import EventprocError, InvalidInput
from eventproc.ingress import Imported, Progress
from eventproc.model import User
from eventproc.service.facade import UseCases

MEMORY_BYTES = 1 << 20  # of an upload; what is more goes to a temporary file
PATH = "/ingest/"

router = APIRouter(prefix="/ingest", tags=["ingest"], dependencies=SECURED, responses=ERRORS)
_encode = msgspec.json.encode


@router.post(
    "/comtrade",
    summary="Import an archive of COMTRADE records",
    description="The body is the archive (zip, tar, or a single .cff). The answer is NDJSON: a line "
    '`{"done", "total", "name", "ok", "reason"}` per record, and at last `{"result": {"event_id", "payload", …}}` or '
    '`{"error": …}`.',
    response_class=StreamingResponse,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def comtrade(
    request: Request,
    name: Annotated[str, Query(description="The archive's file name.")],
    tag: Annotated[list[str] | None, Query(description="A tag of the event; may be repeated.")] = None,
    request_id: Annotated[str | None, Query(description="Event id; the same archive is then imported once.")] = None,
) -> Response:
    cases = use_cases(request)
    principal = await run_in_threadpool(cases.auth.authenticate, bearer_key(request), address=address(request))
    tags = tuple(tag or ())
    await run_in_threadpool(cases.ingest.check, principal, name=name, tags=tags, request_id=request_id)
    spool = await _receive(request, cases)
    job = _Job(cases, principal, spool, name=name, tags=tags, request_id=request_id)
    return StreamingResponse(job.lines(), media_type="application/x-ndjson")


async def _receive(request: Request, cases: UseCases) -> BinaryIO:
    """Take the body into a temporary file."""
    stated = request.headers.get("content-length", "")
    if stated.isdigit():
        cases.ingest.check_size(int(stated))
    work_dir = cases.context.settings.work_dir
    spool = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES, dir=str(work_dir) if work_dir else None)  # noqa: SIM115 - the import closes it
    size = 0
    try:
        async for piece in request.stream():
            size += len(piece)
            cases.ingest.check_size(size)
            await asyncio.to_thread(spool.write, piece)
        if size == 0:
            raise InvalidInput("the request has no body; send the archive itself")  # noqa: TRY301 - closes the spool
    except BaseException:
        spool.close()
        raise
    spool.seek(0)
    return spool  # type: ignore[return-value]  # it is a binary file in all but name


class _Job:
    """One import in a thread of its own: it goes on to its end though the client may have gone."""

    def __init__(self, cases: UseCases, principal: User, spool: BinaryIO, **what: Any) -> None:
        self._cases = cases
        self._principal = principal
        self._spool = spool
        self._what = what
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def lines(self) -> Iterator[bytes]:
        """Start, and yield the lines as they come."""
        threading.Thread(target=self._run, name="ingest", daemon=True).start()
        while (line := self._lines.get()) is not None:
            yield _encode(line) + b"\n"

    def _run(self) -> None:
        try:
            with self._spool:
                imported = self._cases.ingest.comtrade(
                    self._principal, self._spool, progress=self._progress, **self._what
                )
            self._lines.put({"result": _result(imported)})
        except EventprocError as error:
            self._lines.put({"error": shapes.error_json(error)})
        except Exception as error:  # noqa: BLE001 - the client is waiting for a last line, whatever happens
            self._lines.put({"error": fault_message(error, "an import")})
        finally:
            self._lines.put(None)

    def _progress(self, progress: Progress) -> None:
        self._lines.put(asdict(progress))


def _result(imported: Imported) -> dict[str, Any]:
    return {
        "event_id": imported.accepted.id,
        "seq": imported.accepted.seq,
        "duplicate": imported.accepted.duplicate,
        "runs": imported.accepted.runs,
        "payload": imported.payload,
        "notes": imported.notes,
        "skipped": [asdict(skipped) for skipped in imported.skipped],
    }
