"""The backups that the install made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, bindparam, delete, select, update

from app.domain.backup import BackupRecord, Rehearsal
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import backups

_THIS: Final = backups.c.id == bindparam("this")
_LATEST: Final = select(backups).order_by(backups.c.id.desc())


class BackupRepositoryImpl:
    """See `app.services.ports.BackupRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, backup: BackupRecord) -> None:
        await self._connection.insert(backups, asdict(backup))

    async def get(self, backup_id: str) -> BackupRecord | None:
        found = await self._all(select(backups).where(_THIS), {"this": backup_id})
        return found[0] if found else None

    async def page(self, *, before: str | None, limit: int) -> Sequence[BackupRecord]:
        statement = _LATEST if before is None else _LATEST.where(backups.c.id < before)
        return await self._all(statement.limit(limit))

    async def managed(self) -> Sequence[BackupRecord]:
        return await self._all(_LATEST.where(backups.c.managed))

    async def latest_verified(self) -> BackupRecord | None:
        found = await self._all(_LATEST.where(backups.c.verified_at.is_not(None)).limit(1))
        return found[0] if found else None

    async def note_rehearsal(self, backup_id: str, at: datetime, result: Rehearsal, note: str) -> bool:
        values = {"rehearsed_at": at, "rehearsal": result.value, "rehearsal_note": note}
        return bool(await self._connection.change(update(backups).where(_THIS).values(values), {"this": backup_id}))

    async def remove(self, backup_id: str) -> None:
        await self._connection.change(delete(backups).where(_THIS), {"this": backup_id})

    async def _all(self, statement: Select[Any], parameters: dict[str, object] | None = None) -> list[BackupRecord]:
        return [_record(row) for row in await self._connection.rows(statement, parameters)]


def _record(row: Any) -> BackupRecord:
    members = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's name for a public part
    result = members["rehearsal"]
    return BackupRecord(**members | {"rehearsal": None if result is None else Rehearsal(result)})
