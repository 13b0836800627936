"""Counters of wrong passwords: one upsert, so that of any number at once each is counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, and_, bindparam, delete, or_, select

from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import attempts


@cache
def _counts(keys: int) -> Select[*tuple[Any, ...]]:
    """The counts of so many keys, each since a moment of its own."""
    recent = [
        and_(attempts.c.key == bindparam(f"key{at}"), attempts.c.window > bindparam(f"moment{at}"))
        for at in range(keys)
    ]
    statement = select(attempts.c.key, attempts.c.window, attempts.c.n).where(or_(*recent))
    return statement.order_by(attempts.c.window)


class AttemptRepositoryImpl:
    """See `app.services.ports.AttemptRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def hit(self, keys: Collection[str], minute: datetime) -> None:
        # In one order, so that two units of work never wait for each other.
        rows = [{"key": key, "window": minute, "n": 1} for key in sorted(keys)]
        first = self._connection.dialect.insert(attempts).values(rows)
        await self._connection.change(
            first.on_conflict_do_update(index_elements=["key", "window"], set_={"n": attempts.c.n + 1})
        )

    async def counts(self, since: Mapping[str, datetime]) -> Mapping[str, Sequence[tuple[datetime, int]]]:
        if not since:
            return {}
        given: dict[str, object] = {f"key{at}": key for at, key in enumerate(since)}
        given |= {f"moment{at}": moment for at, moment in enumerate(since.values())}
        found: dict[str, list[tuple[datetime, int]]] = {}
        for key, window, number in await self._connection.rows(_counts(len(since)), given):
            found.setdefault(key, []).append((window, number))
        return found

    async def forget(self, prefixes: Collection[str]) -> int:
        key, forgotten = attempts.c.key, 0
        for each in sorted(prefixes):  # as `hit` counts; one statement for all deletes in no order on PostgreSQL
            after = each[:-1] + chr(ord(each[-1]) + 1)  # a range: LIKE ignores case on SQLite
            forgotten += await self._connection.change(delete(attempts).where(key >= each, key < after))
        return forgotten

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        return await self._connection.remove(attempts, attempts.c.window < before, limit)
