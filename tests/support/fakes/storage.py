"""A storage in memory that commits or does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from typing import TypeVar

from app.domain.audit import Action, Result
from app.domain.errors import StorageError, StorageFull
from app.services.deadlines import check_deadline
from app.services.ports import Clock, StorageFigures
from tests.support.fakes.api_tokens import FakeApiTokenRepository
from tests.support.fakes.audit import FakeAuditChainRepository, FakeAuditRepository
from tests.support.fakes.credentials import FakeCredentialRepository, FakeEncryptedRowRepository
from tests.support.fakes.discord import FakeSpentTicketRepository
from tests.support.fakes.factors import FakeFactorRepository
from tests.support.fakes.identity import (
    FakeAttemptRepository,
    FakeOneTimeLinkRepository,
    FakeSessionRepository,
    FakeUserRepository,
)
from tests.support.fakes.keys import FakeKeyRepository, FakeKeyScheduleRepository
from tests.support.fakes.operations import (
    FakeBackupRepository,
    FakeBotStateRepository,
    FakeIdempotencyRepository,
    FakeImportedEntryRepository,
    FakeInstanceRepository,
    FakeJobRepository,
)
from tests.support.fakes.passkeys import FakePasskeyRepository
from tests.support.fakes.privacy import FakePersonalDataRepository
from tests.support.fakes.surroundings import FakeClock
from tests.support.fakes.tables import Tables

_T = TypeVar("_T")


class FakeStorage:
    """One writer at a time, readers on a snapshot; what a unit of work wrote is there only once it has committed."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or FakeClock()
        self.tables = Tables()
        self.commits = 0
        self.units = 0
        self._writer = asyncio.Lock()
        self._unreadable: StorageError | None = None
        self._unwritable: StorageError | None = None
        self._last_commit: int | None = None

    @asynccontextmanager
    async def read(self) -> AsyncIterator[FakeUnitOfWork]:
        await asyncio.sleep(0)
        if self._unreadable:
            raise self._unreadable
        with self._nothing_slow():
            yield FakeUnitOfWork(self.tables.snapshot(), self._clock)

    def lookup(self, *, large: bool = False) -> AbstractAsyncContextManager[FakeUnitOfWork]:
        """One moment as well, which is more than is promised."""
        return self.read()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[FakeUnitOfWork]:
        async with self._writer:
            await asyncio.sleep(0)
            if self._unwritable:
                raise self._unwritable
            tables = self.tables.snapshot()
            with self._nothing_slow():
                yield FakeUnitOfWork(tables, self._clock)
            check_deadline()
            self.tables = tables
            self.commits += 1
            if self.commits == self._last_commit:
                self._unreadable = self._unwritable = StorageError()

    @contextmanager
    def _nothing_slow(self) -> Iterator[None]:
        """Fail if the loop came round while this unit of work was open: the fake storage itself never waits."""
        self.units += 1
        rounds: list[bool] = []
        came_round = asyncio.get_running_loop().call_soon(rounds.append, True)
        try:
            yield
        finally:
            came_round.cancel()
        assert not rounds, "something else than the database was awaited inside a unit of work"

    def data_version(self) -> int | None:
        return self.commits

    announced_version = data_version

    async def cached(self, kind: str, key: str, load: Callable[[FakeUnitOfWork], Awaitable[_T | None]]) -> _T | None:
        async with self.read() as uow:
            return await load(uow)

    def forget_rows(self) -> None:
        """Nothing is kept."""

    def figures(self) -> StorageFigures:
        return StorageFigures(events={}, cache_hits=0, cache_misses=0)

    # -- what tests do to it -------------------------------------------------------------------------------------------

    @contextmanager
    def full(self) -> Iterator[None]:
        """No write goes through."""
        self._unwritable = StorageFull()
        try:
            yield
        finally:
            self._unwritable = None

    @contextmanager
    def dead(self) -> Iterator[None]:
        """Neither reads nor writes go through."""
        self._unreadable = self._unwritable = StorageError()
        try:
            yield
        finally:
            self._unreadable = self._unwritable = None

    @contextmanager
    def dead_after(self, commits: int) -> Iterator[None]:
        """Neither reads nor writes go through any more once that many units of work have committed."""
        self._last_commit = self.commits + commits
        with ExitStack() as stack:
            if not commits:
                stack.enter_context(self.dead())
            try:
                yield
            finally:
                self._unreadable = self._unwritable = self._last_commit = None

    def trail(self) -> list[tuple[Action, Result]]:
        """Return actions and results in the audit trail, except those of the start."""
        return [(each.action, each.result) for each in self.tables.audit if each.action is not Action.INSTALL_CREATED]


class FakeUnitOfWork:
    """Every repository on one set of tables."""

    def __init__(self, tables: Tables, clock: Clock) -> None:
        self.keys = FakeKeyRepository(tables)
        self.users = FakeUserRepository(tables)
        self.sessions = FakeSessionRepository(tables)
        self.links = FakeOneTimeLinkRepository(tables)
        self.passkeys = FakePasskeyRepository(tables)
        self.tickets = FakeSpentTicketRepository(tables)
        self.factors = FakeFactorRepository(tables)
        self.api_tokens = FakeApiTokenRepository(tables)
        self.imports = FakeImportedEntryRepository(tables)
        self.credentials = FakeCredentialRepository(tables)
        self.encrypted_rows = FakeEncryptedRowRepository(tables)
        self.audit = FakeAuditRepository(tables)
        self.audit_chain = FakeAuditChainRepository(tables)
        self.instances = FakeInstanceRepository(tables, clock)
        self.attempts = FakeAttemptRepository(tables)
        self.idempotency = FakeIdempotencyRepository(tables)
        self.jobs = FakeJobRepository(tables, clock)
        self.schedules = FakeKeyScheduleRepository(tables)
        self.backups = FakeBackupRepository(tables)
        self.personal_data = FakePersonalDataRepository(tables)
        self.bot_state = FakeBotStateRepository(tables)
