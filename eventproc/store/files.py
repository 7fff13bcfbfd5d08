"""Rows of uploaded files; their bytes are elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, insert, select

from eventproc.model import FileRecord
from eventproc.store.base import Rows, any_of
from eventproc.store.schema import files

_ADD = insert(files)
_GET = select(files).where(files.c.code == bindparam("code"))
_OF_RUN = select(files).where(files.c.run_id == bindparam("run_id")).order_by(files.c.created_us, files.c.name)
_EXISTS = select(files.c.code).where(any_of(files.c.code, "codes"))


def _file(row: Any) -> FileRecord:
    return FileRecord(
        code=row.code, run_id=row.run_id, name=row.name, size=row.size, digest=row.digest, created_us=row.created_us
    )


class SqlFiles(Rows):
    """Uploaded files by code."""

    def add(self, new: Sequence[FileRecord]) -> None:
        if not new:
            return
        rows = [
            {
                "code": file.code,
                "run_id": file.run_id,
                "name": file.name,
                "size": file.size,
                "digest": file.digest,
                "created_us": file.created_us,
            }
            for file in new
        ]
        self.work.conn.execute(_ADD, rows)

    def get(self, code: str) -> FileRecord | None:
        row = self._first(_GET, {"code": code})
        return _file(row) if row else None

    def of_run(self, run_id: int) -> list[FileRecord]:
        return [_file(row) for row in self._all(_OF_RUN, {"run_id": run_id})]

    def exists(self, codes: Sequence[str]) -> set[str]:
        return {row.code for row in self._all(_EXISTS, {"codes": list(codes)})} if codes else set()
