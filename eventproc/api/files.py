"""Downloads, with a login: what handlers uploaded is never shown as a page of this site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO
from urllib.parse import quote

from fastapi import APIRouter
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from eventproc.api.deps import DOWNLOAD, ERRORS, Cases, Login

PIECE_BYTES = 256 << 10

router = APIRouter(tags=["files"], dependencies=DOWNLOAD, responses=ERRORS)
short = APIRouter(tags=["files"], dependencies=DOWNLOAD, responses=ERRORS)


class _Download(StreamingResponse):
    """The bytes of a file, which is closed however the answer ends: nobody else would when a client goes away."""

    def __init__(self, file: BinaryIO, headers: Mapping[str, str]) -> None:
        super().__init__(_pieces(file), headers=headers, media_type="application/octet-stream")
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def disposition(name: str) -> str:
    """Return a Content-Disposition that saves under `name`, whatever is in it."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "._- ") else "_" for char in name)
    return f"attachment; filename=\"{plain or 'file'}\"; filename*=UTF-8''{quote(name, safe='')}"


@router.get("/files/{code}", summary="Download a file", response_class=StreamingResponse)
def download(principal: Login, cases: Cases, code: str) -> Response:
    record, file = cases.files.open(principal, code)
    headers = {
        "Content-Disposition": disposition(record.name),
        "Content-Length": str(record.size),
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "ETag": f'"{record.digest}"',
    }
    return _Download(file, headers)


class _Code(Convertor[str]):
    """Only what looks like a file's code: any other path of the site is plainly not found."""

    regex = "[0-9a-f]{32}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("filecode", _Code())
short.add_api_route(
    "/{code:filecode}", download, methods=["GET"], include_in_schema=False, response_class=StreamingResponse
)
