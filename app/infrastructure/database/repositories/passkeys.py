"""Passkeys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, delete, func, select, update

from app.domain.passkeys import Passkey
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import passkeys, users

_TABLE: Final = passkeys.c
_COLUMNS: Final = (
    _TABLE.id,
    _TABLE.user_id,
    _TABLE.name,
    _TABLE.credential_id,
    _TABLE.public_key,
    _TABLE.sign_count,
    _TABLE.transports,
    _TABLE.synced,
    _TABLE.created_at,
    _TABLE.last_used_at,
)
_BY_ID: Final = select(*_COLUMNS).where(_TABLE.id == bindparam("this"))
_BY_CREDENTIAL: Final = select(*_COLUMNS).where(_TABLE.credential_id == bindparam("this"))


def _to_passkey(row: Sequence[Any]) -> Passkey:
    id_, user_id, name, credential_id, public_key, sign_count, transports, synced, created_at, last_used_at = row
    return Passkey(
        id=id_,
        user_id=user_id,
        name=name,
        credential_id=bytes(credential_id),
        public_key=bytes(public_key),
        sign_count=sign_count,
        transports=tuple(transports.split()),
        synced=synced,
        created_at=created_at,
        last_used_at=last_used_at,
    )


class PasskeyRepositoryImpl:
    """See `app.services.ports.PasskeyRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, passkey: Passkey, *, most: int) -> bool:
        # On PostgreSQL of two at once the later one waits here, and then counts that of the earlier one.
        this = select(users.c.id).where(users.c.id == passkey.user_id)
        await self._connection.row(this.with_for_update(key_share=True))
        theirs = select(func.count()).select_from(passkeys).where(_TABLE.user_id == passkey.user_id)
        if await self._connection.value(theirs) >= most:
            return False
        row = {
            "id": passkey.id,
            "user_id": passkey.user_id,
            "name": passkey.name,
            "credential_id": passkey.credential_id,
            "public_key": passkey.public_key,
            "sign_count": passkey.sign_count,
            "transports": " ".join(passkey.transports),
            "synced": passkey.synced,
            "created_at": passkey.created_at,
            "last_used_at": passkey.last_used_at,
        }
        await self._connection.insert(passkeys, row)
        return True

    async def get(self, passkey_id: str) -> Passkey | None:
        row = await self._connection.row(_BY_ID, {"this": passkey_id})
        return None if row is None else _to_passkey(row)

    async def by_credential(self, credential_id: bytes) -> Passkey | None:
        row = await self._connection.row(_BY_CREDENTIAL, {"this": credential_id})
        return None if row is None else _to_passkey(row)

    async def of(self, user_id: str) -> Sequence[Passkey]:
        statement = select(*_COLUMNS).where(_TABLE.user_id == user_id).order_by(_TABLE.id)  # ids ascend with time
        return [_to_passkey(row) for row in await self._connection.rows(statement)]

    async def use(self, passkey_id: str, sign_count: int, at: datetime, *, synced: bool) -> bool:
        counts_on = _TABLE.sign_count < sign_count if sign_count else _TABLE.sign_count == 0
        used = update(passkeys).where(_TABLE.id == passkey_id, counts_on)
        return await self._connection.change(used.values(sign_count=sign_count, last_used_at=at, synced=synced)) == 1

    async def remove(self, passkey_id: str) -> bool:
        return await self._connection.change(delete(passkeys).where(_TABLE.id == passkey_id)) == 1

    async def clear(self, user_id: str) -> int:
        return await self._connection.change(delete(passkeys).where(_TABLE.user_id == user_id))
