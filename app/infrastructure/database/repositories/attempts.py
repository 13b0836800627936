"""Counters for limits: one upsert, so that of any number at once each gets a number of its own."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, update

from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import attempts


class AttemptRepositoryImpl:
    """See `app.services.ports.AttemptRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def hit(self, key: str, window: datetime) -> int:
        first = self._connection.dialect.insert(attempts).values(key=key, window=window, n=1)
        counted = first.on_conflict_do_update(index_elements=["key", "window"], set_={"n": attempts.c.n + 1})
        return int(await self._connection.value(counted.returning(attempts.c.n)))

    async def count(self, key: str, window: datetime) -> int:
        statement = select(attempts.c.n).where(attempts.c.key == key, attempts.c.window == window)
        return int(await self._connection.value(statement) or 0)

    async def take_back(self, key: str, window: datetime) -> None:
        this = (attempts.c.key == key, attempts.c.window == window, attempts.c.n > 0)
        await self._connection.change(update(attempts).where(*this).values(n=attempts.c.n - 1))

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        return await self._connection.remove(attempts, attempts.c.window < before, limit)
