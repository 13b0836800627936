"""Creating requests that were done once."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import bindparam, select

from app.domain.errors import UniqueViolation
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import idempotency_keys
from app.services.ports import IdempotentRequest

_TABLE: Final = idempotency_keys.c
_ONE: Final = select(_TABLE.mac, _TABLE.resource_id, _TABLE.created_at).where(
    _TABLE.user_id == bindparam("user"), _TABLE.key == bindparam("this")
)


class IdempotencyRepositoryImpl:
    """See `app.services.ports.IdempotencyRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(self, user_id: str, key: str) -> IdempotentRequest | None:
        row = await self._connection.row(_ONE, {"user": user_id, "this": key})
        if row is None:
            return None
        return IdempotentRequest(user_id=user_id, key=key, mac=row[0], resource_id=row[1], created_at=row[2])

    async def add(self, request: IdempotentRequest, *, lapsed_before: datetime) -> None:
        new = self._connection.dialect.insert(idempotency_keys).values(
            user_id=request.user_id,
            key=request.key,
            mac=request.mac,
            resource_id=request.resource_id,
            created_at=request.created_at,
        )
        stored = new.on_conflict_do_update(
            index_elements=["user_id", "key"],
            set_={name: new.excluded[name] for name in ("mac", "resource_id", "created_at")},
            where=idempotency_keys.c.created_at < lapsed_before,
        )
        if not await self._connection.change(stored):
            raise UniqueViolation("a request of this user under this key is there")

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        return await self._connection.remove(idempotency_keys, idempotency_keys.c.created_at < before, limit)
