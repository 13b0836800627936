"""The second stage: keys that are verified and loaded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.bootstrap.database import StartupRetry, reachable_database
from app.domain.errors import NoInstall
from app.domain.keys import KeyName
from app.infrastructure.database.engine import Database
from app.infrastructure.database.unit_of_work import SqlStorage
from app.services.keys import KeyManagementService
from app.services.ports import MasterKeySource
from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenKeys:
    """A migrated database and its loaded keys; ``created`` when this very start made the install.

    ``reserved`` is the same storage on connections that no request can take.
    """

    database: Database
    storage: SqlStorage
    reserved: SqlStorage
    keys: KeyManagementService
    created: bool
    retry: StartupRetry


@asynccontextmanager
async def open_keys(
    settings: Settings, *, may_create: bool, importing: KeyName | None = None, source: MasterKeySource | None = None
) -> AsyncIterator[OpenKeys]:
    """Open the database, verify the install, migrate, load the keys. Raises StartupError, NoInstall.

    A value in the settings for the key that is ``importing`` is no conflict: the import resolves it.
    """
    async with reachable_database(settings, may_create=may_create, source=source, importing=importing) as reachable:
        installed = await reachable.verify()
        if not installed and not may_create:
            raise NoInstall
        await reachable.migrate(installed=installed)
        keys, retry = reachable.keys, reachable.retry
        created = await retry.run(lambda: keys.initialize(may_create=may_create))
        yield OpenKeys(
            database=reachable.database,
            storage=reachable.storage,
            reserved=reachable.reserved,
            keys=keys,
            created=created,
            retry=retry,
        )
