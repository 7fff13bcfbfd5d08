"""Files that handlers uploaded."""

from __future__ import annotations

import re
from typing import BinaryIO

from eventproc.errors import NotFound
from eventproc.model import FileRecord, Role, User
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require

CODE = re.compile(r"[0-9a-f]{32}")


class Files:
    """Use cases around uploaded files."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def open(self, principal: User, code: str) -> tuple[FileRecord, BinaryIO]:
        """Return a file's record and its bytes, to be closed by the caller."""
        require(principal, Role.VIEWER, "downloading files")
        record = None
        if CODE.fullmatch(code):
            with self._context.store.read() as tx:
                record = tx.files.get(code)
        if record is None:
            raise NotFound("there is no such file (or not any more)", code=code[:64])
        return record, self._context.blobs.open(code)
