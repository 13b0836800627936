"""The only reader and writer of `app_config`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import bindparam, delete, func, insert, select, update

from app.domain.keys import KeyName
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import api_credentials, app_config, users
from app.services.keys.rows import there_twice

LOCK: Final = 0x6B65_7968_616C_6C01
"""Of PostgreSQL's advisory locks, the one that changers of keys take; "keyhall" and a number."""

_MANIFEST: Final = "manifest"
_KEYSET: Final = "keyset/"

_VALUES: Final = select(app_config.c.value).where(app_config.c.key == bindparam("this"))


class KeyRepositoryImpl:
    """See `app.services.ports.KeyRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._locked = False

    async def exists(self) -> bool:
        return await self._connection.has_table(app_config.name)

    async def lock(self) -> None:
        if not self._locked:
            await self._connection.lock_out(LOCK)
            self._locked = True

    async def get_manifest(self, *, share_lock: bool = False) -> str | None:
        if share_lock:
            # First, so that the statement that reads sees everything that was committed before the lock was granted.
            await self._connection.lock(LOCK, shared=True)
        return await self._get(_MANIFEST)

    async def get_keyset(self, name: KeyName) -> str | None:
        return await self._get(_KEYSET + name)

    async def get_jwt_secret_key(self) -> str | None:
        return await self.get_keyset(KeyName.JWT_SECRET_KEY)

    async def get_aes_key(self) -> str | None:
        return await self.get_keyset(KeyName.AES_KEY)

    async def get_encryption_key(self) -> str | None:
        return await self.get_keyset(KeyName.ENCRYPTION_KEY)

    async def get_api_secret_key(self) -> str | None:
        return await self.get_keyset(KeyName.API_SECRET_KEY)

    async def keyset_names(self) -> frozenset[str]:
        # A range and not LIKE, which on SQLite takes KEYSET/ for keyset/; "0" follows "/".
        key = app_config.c.key
        rows = await self._connection.rows(select(key).where(key >= _KEYSET, key < "keyset0"))
        return frozenset(row[0].removeprefix(_KEYSET) for row in rows)

    async def guarded_rows(self) -> int:
        """A table that is missing holds no rows."""
        there = [table for table in (users, api_credentials) if await self._connection.has_table(table.name)]
        return sum([await self._connection.value(select(func.count()).select_from(table)) for table in there])

    async def put(self, row: str, value: str, at: datetime) -> None:
        await self.lock()  # it alone keeps changes away from those who share it: no row is locked
        # Without ON CONFLICT, which needs the primary key: a table that was restored without it can be written again.
        values = {"value": value, "updated_at": at}
        if not await self._connection.change(update(app_config).where(app_config.c.key == row).values(values)):
            await self._connection.change(insert(app_config).values(key=row, **values))
        if row == _MANIFEST:  # every change of keys changes it
            await self._connection.announce()

    async def duplicates(self) -> Sequence[str]:
        key = app_config.c.key
        return [row[0] for row in await self._connection.rows(select(key).group_by(key).having(func.count() > 1))]

    async def rows(self) -> Mapping[str, str]:
        return {row[0]: row[1] for row in await self._connection.rows(select(app_config.c.key, app_config.c.value))}

    async def clear(self) -> None:
        await self.lock()
        await self._connection.change(delete(app_config))

    async def _get(self, key: str) -> str | None:
        found = await self._connection.rows(_VALUES, {"this": key})
        if len(found) > 1:
            raise there_twice([key])
        return str(found[0][0]) if found else None
