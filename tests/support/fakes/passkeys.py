"""Passkeys in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from app.domain.errors import UniqueViolation
from app.domain.passkeys import Passkey
from app.infrastructure.database.errors import ConstraintBroken
from tests.support.fakes.tables import Tables, like_an_engine


@like_an_engine
class FakePasskeyRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, passkey: Passkey, *, most: int) -> bool:
        if len(await self.of(passkey.user_id)) >= most:
            return False
        if passkey.user_id not in self._tables.users:
            raise ConstraintBroken
        if passkey.id in self._tables.passkeys or await self.by_credential(passkey.credential_id) is not None:
            raise UniqueViolation
        self._tables.passkeys[passkey.id] = passkey
        return True

    async def get(self, passkey_id: str) -> Passkey | None:
        return self._tables.passkeys.get(passkey_id)

    async def by_credential(self, credential_id: bytes) -> Passkey | None:
        return next((each for each in self._tables.passkeys.values() if each.credential_id == credential_id), None)

    async def of(self, user_id: str) -> Sequence[Passkey]:
        theirs = [each for each in self._tables.passkeys.values() if each.user_id == user_id]
        return sorted(theirs, key=lambda each: each.id)

    async def use(self, passkey_id: str, sign_count: int, at: datetime, *, synced: bool) -> bool:
        passkey = self._tables.passkeys.get(passkey_id)
        if passkey is None or not passkey.counts_on(sign_count):
            return False
        used = replace(passkey, sign_count=sign_count, last_used_at=at, synced=synced)
        self._tables.passkeys[passkey_id] = used
        return True

    async def remove(self, passkey_id: str) -> bool:
        return self._tables.passkeys.pop(passkey_id, None) is not None

    async def clear(self, user_id: str) -> int:
        return sum([await self.remove(each.id) for each in await self.of(user_id)])
