"""Repositories of application keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from app.domain.keys import KeyName, KeySchedule
from tests.support.fakes.tables import Tables, like_an_engine


@like_an_engine
class FakeKeyRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def exists(self) -> bool:
        return True

    async def lock(self) -> None:
        return None

    async def get_manifest(self, *, share_lock: bool = False) -> str | None:
        return self._tables.config.get("manifest")

    async def get_keyset(self, name: KeyName) -> str | None:
        return self._tables.config.get(f"keyset/{name.value}")

    async def get_jwt_secret_key(self) -> str | None:
        return await self.get_keyset(KeyName.JWT_SECRET_KEY)

    async def get_aes_key(self) -> str | None:
        return await self.get_keyset(KeyName.AES_KEY)

    async def get_encryption_key(self) -> str | None:
        return await self.get_keyset(KeyName.ENCRYPTION_KEY)

    async def get_api_secret_key(self) -> str | None:
        return await self.get_keyset(KeyName.API_SECRET_KEY)

    async def keyset_names(self) -> frozenset[str]:
        return frozenset(row.removeprefix("keyset/") for row in self._tables.config if row.startswith("keyset/"))

    async def guarded_rows(self) -> int:
        return len(self._tables.users) + len(self._tables.credentials)

    async def put(self, row: str, value: str, at: datetime) -> None:
        self._tables.config[row] = value

    async def rows(self) -> Mapping[str, str]:
        return self._tables.config.copy()

    async def duplicates(self) -> Sequence[str]:
        return ()

    async def clear(self) -> None:
        self._tables.config.clear()


@like_an_engine
class FakeKeyScheduleRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def all(self) -> Mapping[str, KeySchedule]:
        return dict(self._tables.schedules)

    async def put(self, schedule: KeySchedule, at: datetime) -> None:
        self._tables.schedules[schedule.name.value] = schedule
