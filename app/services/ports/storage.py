"""The database as the services see it: one unit of work at a time.

Two promises hold for every method of every repository. A read that fails raises StorageError: it is never reported as
"nothing found". A write that would break a uniqueness rule raises UniqueViolation and leaves the unit of work usable
only for rolling back. Besides, text that an engine could not store (NUL, a lone surrogate) raises InvalidInput, as does
a time beyond the years 1 to 9999 in UTC.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from app.domain.audit import Action, Result
from app.domain.identity import Source
from app.services.ports.api_tokens import ApiTokenRepository
from app.services.ports.audit import AuditChainRepository, AuditRepository
from app.services.ports.backup import BackupRepository
from app.services.ports.credentials import CredentialRepository, EncryptedRowRepository
from app.services.ports.discord import SpentTicketRepository
from app.services.ports.factors import FactorRepository
from app.services.ports.identity import AttemptRepository, SessionRepository, UserRepository
from app.services.ports.imports import ImportedEntryRepository
from app.services.ports.keys import KeyRepository, KeyScheduleRepository
from app.services.ports.links import OneTimeLinkRepository
from app.services.ports.operations import (
    BotStateRepository,
    IdempotencyRepository,
    InstanceRepository,
    JobRepository,
)
from app.services.ports.passkeys import PasskeyRepository
from app.services.ports.privacy import PersonalDataRepository

_T = TypeVar("_T")


class UnitOfWork(Protocol):
    """One transaction, with every repository in it."""

    @property
    def keys(self) -> KeyRepository:
        """Application keys, wrapped."""
        ...

    @property
    def users(self) -> UserRepository:
        """Users."""
        ...

    @property
    def sessions(self) -> SessionRepository:
        """Sessions and refresh tokens."""
        ...

    @property
    def links(self) -> OneTimeLinkRepository:
        """One-time links."""
        ...

    @property
    def passkeys(self) -> PasskeyRepository:
        """Passkeys."""
        ...

    @property
    def tickets(self) -> SpentTicketRepository:
        """Tickets of browsers that were used."""
        ...

    @property
    def factors(self) -> FactorRepository:
        """Second factors and recovery codes."""
        ...

    @property
    def api_tokens(self) -> ApiTokenRepository:
        """API tokens."""
        ...

    @property
    def imports(self) -> ImportedEntryRepository:
        """The marks of entries that were imported from other programs."""
        ...

    @property
    def credentials(self) -> CredentialRepository:
        """Credentials and their history."""
        ...

    @property
    def encrypted_rows(self) -> EncryptedRowRepository:
        """Every encrypted column, for rotations."""
        ...

    @property
    def audit(self) -> AuditRepository:
        """The audit trail."""
        ...

    @property
    def audit_chain(self) -> AuditChainRepository:
        """The chains of its audit seals."""
        ...

    @property
    def instances(self) -> InstanceRepository:
        """Processes and their leases."""
        ...

    @property
    def attempts(self) -> AttemptRepository:
        """Counters for limits."""
        ...

    @property
    def idempotency(self) -> IdempotencyRepository:
        """Requests that were made under an Idempotency-Key."""
        ...

    @property
    def jobs(self) -> JobRepository:
        """The queue."""
        ...

    @property
    def schedules(self) -> KeyScheduleRepository:
        """Rotation schedules."""
        ...

    @property
    def backups(self) -> BackupRepository:
        """The backups that the install made."""
        ...

    @property
    def personal_data(self) -> PersonalDataRepository:
        """Everything about one person, and the erasures."""
        ...

    @property
    def bot_state(self) -> BotStateRepository:
        """Facts of the bot."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFigures:
    """The work that this process has done in the database since its start.

    ``events`` counts the audit events that it committed; the cache is that of ``Storage.cached``.
    """

    events: Mapping[tuple[Action, Result, Source], int]
    cache_hits: int
    cache_misses: int


class Storage(Protocol):
    """The database, one unit of work at a time."""

    def read(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Open a consistent view, for any number of rows; writes in it are never kept. Raises StorageError."""
        ...

    def lookup(self, *, large: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        """Open a view for statements that find a few rows by a key and can be judged one by one: the cheapest read.

        Each statement sees what was committed before it, so two of them may see different moments. It may run on the
        event loop's thread: one that reads more than a row of ciphertext, or more than a page of anything else,
        is ``large``. Writes in it are refused. Raises StorageError.
        """
        ...

    def write(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Open a unit of work that commits at its end, and rolls back if anything was raised in it.

        Never await anything slow inside. Raises StorageError, also at the end: then nothing was committed, except for
        its kind OutcomeUnknown. Once it has committed it raises nothing. Raises RequestExpired instead of committing
        where the request that it belongs to has expired (deadlines.py).
        """
        ...

    def data_version(self) -> int | None:
        """Return a number that changes with every commit by any process (SQLite `data_version`); None where the engine
        has none.
        """
        ...

    def announced_version(self) -> int | None:
        """The same, but commits of this process that announced nothing do not change it: neither keys nor new jobs."""
        ...

    async def cached(self, kind: str, key: str, load: Callable[[UnitOfWork], Awaitable[_T | None]]) -> _T | None:
        """Return a row: from memory while no process has committed since it was read, else loaded in a lookup.

        Where ``data_version()`` is None nothing is kept. Only ciphertext and metadata may be cached, never plaintext.
        Raises StorageError.
        """
        ...

    def forget_rows(self) -> None:
        """Drop every row that ``cached`` keeps in memory."""
        ...

    def figures(self) -> StorageFigures:
        """Return what this process has done in the database so far."""
        ...
