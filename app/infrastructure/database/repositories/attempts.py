"""Counters of wrong passwords: one upsert, so that of any number at once each gets a number of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import and_, delete, or_, select

from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import attempts


class AttemptRepositoryImpl:
    """See `app.services.ports.AttemptRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def hit(self, key: str, minute: datetime) -> int:
        first = self._connection.dialect.insert(attempts).values(key=key, window=minute, n=1)
        counted = first.on_conflict_do_update(index_elements=["key", "window"], set_={"n": attempts.c.n + 1})
        return int(await self._connection.value(counted.returning(attempts.c.n)))

    async def counts(self, since: Mapping[str, datetime]) -> Mapping[str, Sequence[tuple[datetime, int]]]:
        if not since:
            return {}
        recent = [and_(attempts.c.key == key, attempts.c.window > moment) for key, moment in since.items()]
        statement = select(attempts.c.key, attempts.c.window, attempts.c.n).where(or_(*recent))
        statement = statement.order_by(attempts.c.window)
        found: dict[str, list[tuple[datetime, int]]] = {}
        for key, window, number in await self._connection.rows(statement):
            found.setdefault(key, []).append((window, number))
        return found

    async def forget(self, prefix: str) -> int:
        after = prefix[:-1] + chr(ord(prefix[-1]) + 1)  # a range: LIKE ignores case on SQLite
        return await self._connection.change(delete(attempts).where(attempts.c.key >= prefix, attempts.c.key < after))

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        return await self._connection.remove(attempts, attempts.c.window < before, limit)
