"""Ports for restoring a backup: the database that is replaced, and the one that is made beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from app.domain.backup import BackupHeader, Rows
from app.services.ports.backup import ShowProgress
from app.services.ports.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """The database that is to be replaced; ``storage`` is None where it cannot be read, and ``why`` says so.

    ``at_head`` is whether its schema is the one that this version reads in all its tables.
    """

    storage: Storage | None
    at_head: bool = False
    why: str | None = None


class Loaded(NamedTuple):
    """How many rows were stored, and table and id of those with a value that no schema takes."""

    rows: int
    refused: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The place of the database that was replaced, and the command that deletes it."""

    place: str
    removed_by: str


class Staged(Protocol):
    """A database that nobody else sees. Methods raise StorageError."""

    @property
    def storage(self) -> Storage:
        """Its units of work, once it is upgraded."""
        ...

    def load(self, header: BackupHeader, rows: Rows, show: ShowProgress) -> Loaded:
        """Store every row, in the calling thread, but for those with a value that no schema takes.

        Raises BackupDamaged for other rows that the schema does not take, and what ``rows`` raises.
        """
        ...

    async def upgrade(self) -> None:
        """Bring its schema to head. Raises MigrationFailed."""
        ...


class RestoreTarget(Protocol):
    """A database that a restore replaces. Methods raise StorageError, and StartupError where it must not be touched."""

    @property
    def name(self) -> str:
        """Which database it is, without user and password."""
        ...

    async def require_free(self) -> None:
        """Raise InUse, naming the processes, while any lease on the database is live."""
        ...

    def present(self) -> AbstractAsyncContextManager[Present | None]:
        """The database that is there; None where there is none, or an empty one."""
        ...

    def staged(self, header: BackupHeader) -> AbstractAsyncContextManager[Staged]:
        """An empty database beside it, at the backup's revision. It is gone when the block ends, also after a kill.

        Raises InUse while another restore is under way, SchemaNewer for a backup of a newer version.
        """
        ...

    async def replace(self, at: datetime) -> Kept | None:
        """Put the staged database in its place, in one transaction in which no lease is live, and keep what was there.

        Call it within ``staged``. Returns None where nothing was there.
        """
        ...
