"""Marks of imported entries."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import insert, select

from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import imported_entries


class ImportedEntryRepositoryImpl:
    """See `app.services.ports.ImportedEntryRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def known(self, marks: Collection[bytes]) -> frozenset[bytes]:
        statement = select(imported_entries.c.mark).where(imported_entries.c.mark.in_(list(marks)))
        return frozenset(bytes(row[0]) for row in await self._connection.rows(statement))

    async def add(self, mark: bytes, credential_id: str, at: datetime) -> None:
        row = {"mark": mark, "credential_id": credential_id, "imported_at": at}
        await self._connection.change(insert(imported_entries).values(row))
