"""A process with an audit trail to seal, to tamper with and to verify."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from app.domain.audit import Action, AuditEvent, Result
from app.domain.identity import Role, Source
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.database.unit_of_work import SqlStorage
from tests.support.database import migrated, user
from tests.support.fakes import FakeClock
from tests.support.keyhall import member, open_keyhall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.domain.audit_chain import Verification
    from app.infrastructure.database.engine import Database
    from app.services.ports import AuditExports
    from tests.support.keyhall import Keyhall

AUDITOR: Final = member(FakeClock(), role=Role.AUDITOR)


@dataclass(frozen=True)
class Trail:
    """A process and the tables below it."""

    keyhall: Keyhall
    database: Database
    clock: FakeClock

    async def happens(self, *actions: Action) -> None:
        """An event of each action, all in one unit of work."""
        async with self.keyhall.storage.write() as uow:
            for action in actions:
                await uow.audit.append(
                    AuditEvent(
                        at=self.clock.now(),
                        action=action,
                        result=Result.OK,
                        source=Source.WEB,
                        subject_id=user().subject_id,
                        address="192.0.2.7",
                        object_kind="credential",
                        object_id="c",
                        detail={"n": 1},
                    )
                )

    async def seal(self) -> None:
        while await self.keyhall.services.audit_sealing.seal():
            pass

    async def verify(self, remembered: str | None = None) -> Verification:
        return await self.keyhall.services.audit_verification.verify(AUDITOR, remembered=remembered)

    async def edit(self, *statements: str) -> None:
        async with self.database.write() as connection:
            for each in statements:
                await connection.change(text(each.replace(":", "\\:")))

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        async with self.database.read() as connection:
            return [tuple(row) for row in await connection.rows(text(statement))]


@asynccontextmanager
async def opened(url: str, *, exports: AuditExports | None = None) -> AsyncIterator[Trail]:
    async with migrated(url) as database:
        clock = FakeClock()
        keyhall = await open_keyhall(SqlStorage(database), clock, SystemRandomness(), exports=exports)
        async with keyhall.storage.write() as uow:
            await uow.users.add(user())
        yield Trail(keyhall, database, clock)


@asynccontextmanager
async def sealed(url: str, *, exports: AuditExports | None = None) -> AsyncIterator[Trail]:
    """Six security events and four uses; position 1 is the making of the install."""
    async with opened(url, exports=exports) as trail:
        await trail.happens(*[Action.LOGIN, Action.CREDENTIAL_USED] * 4, Action.LOGOUT)
        await trail.seal()
        yield trail
