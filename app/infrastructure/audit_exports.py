"""Files that segments of the audit trail are exported to before their rows are dropped."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from app.domain.audit_chain import AuditExportFailed
from app.infrastructure.private_files import make_directory, writing


class AuditExportFiles:
    """Implements ``AuditExports``: files of mode 0600 in one directory; each call works in a thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[OpenExport]:
        """A file that gets its name once all is written and on the disk. Raises AuditExportFailed."""
        stack = ExitStack()
        try:
            await asyncio.to_thread(make_directory, self._directory)
            opened = await asyncio.to_thread(stack.enter_context, writing(self._directory / name, replace=True))
            try:
                yield OpenExport(opened)
            except BaseException:
                stack.__exit__(*sys.exc_info())
                raise
            await asyncio.to_thread(stack.close)
        except OSError as error:
            raise AuditExportFailed(f"{self._directory / name} cannot be written: {error.strerror}") from error

    async def digest(self, name: str) -> str:
        """The SHA-256 of a file in hex. Raises AuditExportFailed."""

        def read() -> str:
            with (self._directory / name).open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()

        try:
            return await asyncio.to_thread(read)
        except OSError as error:
            raise AuditExportFailed(f"{self._directory / name} cannot be read: {error.strerror}") from error


class OpenExport:
    """A file that is being written."""

    def __init__(self, opened: BinaryIO) -> None:
        self._opened = opened

    async def add(self, lines: Sequence[bytes]) -> None:
        """Append lines. Raises OSError."""
        await asyncio.to_thread(self._opened.writelines, lines)
