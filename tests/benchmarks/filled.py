"""A process of Keyhall, inside this one, on an install full of credentials."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import insert

from app.bootstrap.keys import open_keys
from app.bootstrap.services import open_services
from app.domain.credentials import Owner, OwnerKind
from app.domain.keys import KeyName
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.database.schema import api_credentials
from app.services.credentials import CredentialCipher
from tests.support.database import NOW

if TYPE_CHECKING:
    from app.infrastructure.database.engine import Database
    from app.services import Services
    from app.services.ports import Storage
    from tests.support.installs import Place

SECRET_BYTES = 60
ROWS_PER_INSERT = 500
ROWS_PER_FILL = 1_000


@dataclass(frozen=True, kw_only=True)
class Install:
    """Nobody else is on it."""

    services: Services
    storage: Storage
    database: Database
    cipher: CredentialCipher

    @classmethod
    async def opened(cls, stack: AsyncExitStack, place: Place) -> Install:
        """Make it, for as long as the stack lasts; there is no credential yet."""
        settings = place.load()
        opened = await stack.enter_async_context(open_keys(settings, may_create=True))
        services = await stack.enter_async_context(open_services(settings, opened, kind="benchmark"))
        cipher = CredentialCipher(
            keys=opened.keys, envelope=AesGcmEnvelope(SystemRandomness()), derivation=Derivation()
        )
        return cls(services=services, storage=opened.storage, database=opened.database, cipher=cipher)

    async def fill(self, rows: int, owner_id: str | None = None, *, first: int = 0) -> list[str]:
        """Store so many credentials, of that owner or of one each, numbered from ``first`` on; their ids.

        In parts, between which the process renews its lease.
        """
        stored: list[str] = []
        for begin in range(first, first + rows, ROWS_PER_FILL):
            await self.ready()
            stored += await self._fill(range(begin, min(begin + ROWS_PER_FILL, first + rows)), owner_id)
        return stored

    async def ready(self) -> None:
        """Let the process confirm its keys, which a loop that is always busy would keep from it."""
        await asyncio.sleep(0)
        while not self.services.keys.confirmed:  # noqa: ASYNC110 - the service announces no change of it
            await asyncio.sleep(0.05)

    async def _fill(self, numbers: range, owner_id: str | None) -> list[str]:
        primary = self.services.keys.primary(KeyName.AES_KEY)
        stored = [credential_row(number, owner_id) for number in numbers]
        for row in stored:
            secret = os.urandom(SECRET_BYTES // 2).hex()
            owner = Owner(OwnerKind.USER, row["owner_id"])
            row["encrypted_value"] = self.cipher.encrypt(secret, row["id"], owner, primary)
        await insert_rows(self.database, stored)
        return [str(row["id"]) for row in stored]


async def insert_rows(database: Database, rows: list[dict[str, Any]]) -> None:
    """Insert them in one transaction."""
    async with database.write() as connection:
        for start in range(0, len(rows), ROWS_PER_INSERT):
            await connection.change(insert(api_credentials).values(rows[start : start + ROWS_PER_INSERT]))


def credential_row(number: int, owner_id: str | None = None) -> dict[str, Any]:
    """A credential without its secret, of that owner or of one of its own."""
    new_id = SystemRandomness().new_id
    return {
        "id": new_id(),
        "owner_kind": "user",
        "owner_id": owner_id or new_id(),
        "provider": "openai",
        "label": f"Number {number}",
        "label_key": f"number {number}",
        "key_version": 1,
        "version": 1,
        "fingerprint": os.urandom(8).hex(),
        "status": "unchecked",
        "created_by": owner_id or "somebody",
        "created_at": NOW,
        "updated_at": NOW,
    }


class LoopWatch:
    """For how long, at most, this process's event loop let a timer of a millisecond wait."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._again()
        return self

    def _again(self) -> None:
        self._due = self._loop.time() + 0.001
        self._timer = self._loop.call_at(self._due, self._rung)

    def _rung(self) -> None:
        self.longest = max(self.longest, (self._loop.time() - self._due) * 1000)
        self._again()

    def __exit__(self, *_: object) -> None:
        assert self._timer is not None
        self._timer.cancel()
