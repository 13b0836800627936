"""Backup files that are only remembered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar, cast

from app.domain.backup import BackupHeader, BackupInfo, BackupReport, EncryptTo, OpenWith, Rows, WrittenBackup
from app.domain.errors import BackupNotWritten, NotABackup
from app.domain.keys import Environment
from app.services.ports import ShowProgress

_T = TypeVar("_T")


class FakeBackupFiles:
    """Backups whose rows nobody reads: that is tested where there are real files."""

    def __init__(self) -> None:
        self.headers: dict[Path, BackupHeader] = {}
        self.refusing: BackupNotWritten | None = None
        self.well = True

    async def write(
        self,
        path: Path,
        to: EncryptTo,
        check: Callable[[BackupHeader, Rows], _T],
        *,
        replace: bool,
        created_at: datetime,
        show: ShowProgress,
    ) -> tuple[WrittenBackup, _T]:
        if self.refusing is not None:
            raise self.refusing
        assert to.recipient is not None
        header = BackupHeader(
            install_id="install",
            master_key_id="id",
            environment=Environment.TEST.value,
            app_version="0",
            revision="0016",
            min_app="0",
            created_at=created_at,
            latest_seal=None,
            tables=(),
        )
        self.headers[path] = header
        report = BackupReport(
            ok=self.well,
            credentials=3,
            unreadable=0 if self.well else 1,
            users=1,
            install_id=header.install_id,
            master_key_id=header.master_key_id,
            created_at=created_at,
            app_version=header.app_version,
            problems=() if self.well else ("one credential does not open",),
        )
        return WrittenBackup(header=header, size=1, sha256="00", rows=0), cast("_T", report)

    async def make_directory(self, path: Path) -> None:
        """There is every directory."""

    async def inspect(self, path: Path, by: OpenWith) -> BackupInfo:
        return BackupInfo(size=1, kinds=("X25519",), header=self.headers[path])

    async def read(self, path: Path, by: OpenWith, visit: Callable[[BackupHeader, Rows], _T]) -> _T:
        if path not in self.headers:
            raise NotABackup(f"there is no file {path}")
        return visit(self.headers[path], iter(()))

    async def remove(self, path: Path) -> bool:
        if self.refusing is not None:
            raise self.refusing
        return self.headers.pop(path, None) is not None

    async def exist(self, *paths: Path) -> list[bool]:
        return [path in self.headers for path in paths]
