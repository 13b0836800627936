"""Small facts that the bot must remember."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import bindparam, delete, select

from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import bot_state

_VALUE: Final = select(bot_state.c.value).where(bot_state.c.key == bindparam("this"))


class BotStateRepositoryImpl:
    """See `app.services.ports.BotStateRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(self, key: str) -> str | None:
        value: str | None = await self._connection.value(_VALUE, {"this": key})
        return value

    async def delete(self, key: str) -> None:
        await self._connection.change(delete(bot_state).where(bot_state.c.key == key))

    async def starting_with(self, prefix: str, *, limit: int) -> Mapping[str, str]:
        key = bot_state.c.key
        found = select(key, bot_state.c.value).where(key >= prefix, key < f"{prefix}\x7f").order_by(key).limit(limit)
        return {row[0]: row[1] for row in await self._connection.rows(found)}

    async def put(self, key: str, value: str, at: datetime) -> None:
        insert = self._connection.dialect.insert(bot_state).values(key=key, value=value, updated_at=at)
        await self._connection.change(
            insert.on_conflict_do_update(
                index_elements=["key"], set_={"value": insert.excluded.value, "updated_at": insert.excluded.updated_at}
            )
        )
