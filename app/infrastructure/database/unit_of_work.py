"""The units of work that services are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from app.domain.audit import Action, Result
from app.domain.identity import Source
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.database.engine import Connection, Database
from app.infrastructure.database.repositories.api_tokens import ApiTokenRepositoryImpl
from app.infrastructure.database.repositories.attempts import AttemptRepositoryImpl
from app.infrastructure.database.repositories.audit import AuditRepositoryImpl
from app.infrastructure.database.repositories.audit_chain import AuditChainRepositoryImpl
from app.infrastructure.database.repositories.backups import BackupRepositoryImpl
from app.infrastructure.database.repositories.bot_state import BotStateRepositoryImpl
from app.infrastructure.database.repositories.credentials import CredentialRepositoryImpl
from app.infrastructure.database.repositories.encrypted_rows import EncryptedRowRepositoryImpl
from app.infrastructure.database.repositories.factors import FactorRepositoryImpl
from app.infrastructure.database.repositories.idempotency import IdempotencyRepositoryImpl
from app.infrastructure.database.repositories.identity import UserRepositoryImpl
from app.infrastructure.database.repositories.imports import ImportedEntryRepositoryImpl
from app.infrastructure.database.repositories.instances import InstanceRepositoryImpl
from app.infrastructure.database.repositories.jobs import JobRepositoryImpl
from app.infrastructure.database.repositories.keys import KeyRepositoryImpl
from app.infrastructure.database.repositories.links import OneTimeLinkRepositoryImpl
from app.infrastructure.database.repositories.passkeys import PasskeyRepositoryImpl
from app.infrastructure.database.repositories.personal_data import PersonalDataRepositoryImpl
from app.infrastructure.database.repositories.schedules import KeyScheduleRepositoryImpl
from app.infrastructure.database.repositories.sessions import SessionRepositoryImpl
from app.infrastructure.database.repositories.tickets import SpentTicketRepositoryImpl
from app.infrastructure.database.row_cache import RowCache
from app.services.deadlines import check_deadline
from app.services.ports import Randomness, StorageFigures, UnitOfWork

_T = TypeVar("_T")


class SqlUnitOfWork:
    """See `app.services.ports.UnitOfWork`."""

    def __init__(self, connection: Connection, randomness: Randomness) -> None:
        self.keys = KeyRepositoryImpl(connection)
        self.users = UserRepositoryImpl(connection)
        self.sessions = SessionRepositoryImpl(connection)
        self.links = OneTimeLinkRepositoryImpl(connection)
        self.passkeys = PasskeyRepositoryImpl(connection)
        self.tickets = SpentTicketRepositoryImpl(connection)
        self.factors = FactorRepositoryImpl(connection)
        self.api_tokens = ApiTokenRepositoryImpl(connection)
        self.imports = ImportedEntryRepositoryImpl(connection)
        self.credentials = CredentialRepositoryImpl(connection)
        self.encrypted_rows = EncryptedRowRepositoryImpl(connection)
        self.audit = AuditRepositoryImpl(connection, randomness)
        self.audit_chain = AuditChainRepositoryImpl(connection)
        self.instances = InstanceRepositoryImpl(connection)
        self.attempts = AttemptRepositoryImpl(connection)
        self.idempotency = IdempotencyRepositoryImpl(connection)
        self.jobs = JobRepositoryImpl(connection)
        self.schedules = KeyScheduleRepositoryImpl(connection)
        self.backups = BackupRepositoryImpl(connection)
        self.personal_data = PersonalDataRepositoryImpl(connection)
        self.bot_state = BotStateRepositoryImpl(connection)


class SqlStorage:
    """See `app.services.ports.Storage`. Every method may raise StorageError or one of its kinds.

    A ``reserved`` one uses connections that no request can take: for the process's own lease, keys and readiness.
    """

    def __init__(self, database: Database, randomness: Randomness | None = None, *, reserved: bool = False) -> None:
        self._database = database
        self._reserved = reserved
        self._randomness = randomness or SystemRandomness()
        self._cache = RowCache()
        self._events: Counter[tuple[Action, Result, Source]] = Counter()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[UnitOfWork]:
        """A consistent view."""
        async with self._database.read(reserved=self._reserved) as connection:
            yield SqlUnitOfWork(connection, self._randomness)

    @asynccontextmanager
    async def lookup(self, *, large: bool = False) -> AsyncIterator[UnitOfWork]:
        """A few rows, each statement by itself."""
        async with self._database.lookup(large=large, reserved=self._reserved) as connection:
            yield SqlUnitOfWork(connection, self._randomness)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[UnitOfWork]:
        """Commits at its end, rolls back if anything was raised, or if the request that it belongs to has expired."""
        async with self._database.write(reserved=self._reserved) as connection:
            uow = SqlUnitOfWork(connection, self._randomness)
            yield uow
            if not self._reserved:  # the lease and the keys are everybody's
                check_deadline()
        for event in uow.audit.appended:
            self._events[event.action, event.result, event.source] += event.times

    def data_version(self) -> int | None:
        """A number that changes with every commit by anybody; None on PostgreSQL."""
        return self._database.data_version()

    def announced_version(self) -> int | None:
        """The same, but commits of this process that announced nothing do not change it."""
        return self._database.announced_version()

    async def cached(self, kind: str, key: str, load: Callable[[UnitOfWork], Awaitable[_T | None]]) -> _T | None:
        """A row as of now. An absent row is not remembered: guessed keys would evict real rows."""
        position = self._database.data_version()
        if position is None:
            async with self.lookup() as unit:
                return await load(unit)
        row: _T | None = self._cache.get(kind, key, position)
        if row is None:
            async with self.lookup() as unit:
                row = await load(unit)
            if row is not None:
                self._cache.put(kind, key, position, row)
        return row

    def forget_rows(self) -> None:
        """Drop every row that is kept in memory."""
        self._cache.clear()

    def figures(self) -> StorageFigures:
        """See the port."""
        return StorageFigures(events=dict(self._events), cache_hits=self._cache.hits, cache_misses=self._cache.misses)
