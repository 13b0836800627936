"""The first stage of every start and command: a database that is reachable, readable, verified, migrated."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from app.domain.errors import (
    ConfigInvalid,
    DatabaseUnavailable,
    MigrationFailed,
    NoInstall,
    StorageError,
    StorageFull,
    StorageReadOnly,
)
from app.domain.keys import KeyName
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.infrastructure.database.engine import Database, open_database
from app.infrastructure.database.migrate import check_schema, current_revision, known_revisions, upgrade
from app.infrastructure.database.unit_of_work import SqlStorage
from app.infrastructure.install_file import InstallFile
from app.infrastructure.master_key import MasterKeys
from app.services.keys import InstallRules, KeyManagementService
from app.services.ports import MasterKeySource
from app.settings import DatabaseUrl, Settings
from app.settings.secret_files import check_secret_file_modes

log = logging.getLogger(__name__)

RETRY_BUDGET_SECONDS: Final = 60.0
"""How long a start waits for a database that is away or locked."""
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 4.0

_T = TypeVar("_T")


class StartupRetry:
    """One waiting budget for all steps of a start: a database that restarts or is locked may need a minute."""

    def __init__(self, database_name: str, clock: SystemClock) -> None:
        self._database_name = database_name
        self._clock = clock
        self._deadline = clock.monotonic() + RETRY_BUDGET_SECONDS
        self._logged = False

    async def run(self, step: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a step while the database does not answer. Raises DatabaseUnavailable when the budget is spent."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await step()
            except StorageReadOnly:
                raise DatabaseUnavailable(
                    f"the database {self._database_name} is read-only",
                    remedy="let the user who runs Keyhall write the file and its directory, or use the primary server",
                ) from None
            except StorageFull:
                raise DatabaseUnavailable(
                    f"the database {self._database_name} has no space left", remedy="free some space on its disk"
                ) from None
            except StorageError as error:
                if self._clock.monotonic() + pause > self._deadline:
                    raise DatabaseUnavailable(
                        f"the database {self._database_name} did not answer for {RETRY_BUDGET_SECONDS:.0f} seconds: "
                        f"{error.detail}",
                        remedy="start the database, or correct DATABASE_URL",
                    ) from error
            if not self._logged:
                log.info("waiting for the database %s", self._database_name)
                self._logged = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachableDatabase:
    """A database that answers and whose schema this version can read; nothing in it was verified or changed yet."""

    settings: Settings
    database: Database
    storage: SqlStorage
    keys: KeyManagementService
    retry: StartupRetry

    async def verify(self) -> bool:
        """Verify every key, reading only; False where there is no install. Raises StartupError."""
        return await self.retry.run(self.keys.verify)

    async def migrate(self, *, installed: bool) -> None:
        """Bring the schema to head; an install's database is copied first. Raises StartupError."""
        if installed:
            await self._keep_copy()
        await self.retry.run(lambda: upgrade(self.database))

    async def revision(self) -> str | None:
        """The schema's revision; None where nothing was ever migrated. Raises DatabaseUnavailable."""
        return await self.retry.run(lambda: current_revision(self.database))

    async def _keep_copy(self) -> None:
        """Before an install's schema changes, keep a copy that was opened and verified. Raises MigrationFailed."""
        revision, head = await self.revision(), known_revisions()[-1]
        if revision == head:
            return
        # Each process has a file name of its own: many may start at once.
        unique = f"{SystemClock().now():%Y%m%dT%H%M%SZ}-{SystemRandomness().token_bytes(4).hex()}"
        path = self.settings.backup_dir / f"before-{head}-{unique}.db"
        try:
            if not await self.database.copy(path):
                log.warning(
                    "the schema goes from %s to %s: the server's own backup is the only way back", revision, head
                )
                return
            async with open_database(DatabaseUrl(path=path), may_create=False) as copied:
                await key_management(self.settings, SqlStorage(copied)).verify()
        except (OSError, StorageError) as error:
            raise MigrationFailed(
                f"no copy of the database could be made in {path.parent} before migration {head}, and nothing was "
                "changed",
                remedy="make BACKUP_DIR a directory with free space that the user who runs Keyhall may write",
            ) from error
        log.info("the schema goes from %s to %s: a verified copy of the database is %s", revision, head, path)

    async def copy_before_reset(self) -> Path | None:
        """Copy an embedded database as it is, to open again if the lost master key is found. Raises ConfigInvalid."""
        path = self.settings.backup_dir / f"before-reset-{SystemClock().now():%Y%m%dT%H%M%S.%fZ}.db"
        try:
            return path if await self.database.copy(path) else None
        except (OSError, StorageError) as error:
            raise ConfigInvalid(
                f"no copy of the database could be made in {path.parent} before the reset, and nothing was changed",
                remedy="make BACKUP_DIR a directory with free space that the user who runs Keyhall may write",
            ) from error


@asynccontextmanager
async def reachable_database(
    settings: Settings,
    *,
    may_create: bool,
    source: MasterKeySource | None = None,
    importing: KeyName | None = None,
    absent: NoInstall | None = None,
) -> AsyncIterator[ReachableDatabase]:
    """Open the database and wait until it answers.

    Args:
        settings: what the operator decided.
        may_create: whether an embedded database that is not there is made.
        source: where the master key comes from, if not from the settings.
        importing: the key that is about to be imported: what the settings give for it is no conflict.
        absent: raised where there is no database and none may be made, if not the usual NoInstall.

    Raises:
        StartupError: the database is away, refuses, is another's, or demands a newer version.
        NoInstall: there is no database, and none may be made.
    """
    check_secret_file_modes(settings.secret_files)
    # Read before the database is looked at: see KeyReader.load.
    remembered = InstallFile(settings.data_dir).read()
    async with open_database(settings.database_url, may_create=may_create) as database:
        storage = SqlStorage(database)
        keys = key_management(settings, storage, source, importing=importing)
        if not database.exists():
            keys.require_no_install_expected(remembered)
            if not may_create:
                raise absent or NoInstall
        retry = StartupRetry(settings.database_url.name, SystemClock())
        await retry.run(database.probe)
        await retry.run(lambda: check_schema(database))
        yield ReachableDatabase(settings=settings, database=database, storage=storage, keys=keys, retry=retry)


def key_management(
    settings: Settings,
    storage: SqlStorage,
    source: MasterKeySource | None = None,
    *,
    importing: KeyName | None = None,
) -> KeyManagementService:
    """The key store's service; nothing is read yet."""
    return KeyManagementService(
        storage=storage,
        master_keys=source or master_keys(settings),
        wrapping=MasterKeyWrapping,
        derivation=Derivation(),
        record=InstallFile(settings.data_dir),
        rules=install_rules(settings, importing),
        clock=SystemClock(),
        randomness=SystemRandomness(),
    )


def install_rules(settings: Settings, importing: KeyName | None = None) -> InstallRules:
    """The demands of the settings on the install."""
    return InstallRules(
        environment=settings.app_env,
        pinned_install_id=str(settings.install_id) if settings.install_id else None,
        outside_keys={name: key for name, key in settings.outside_keys.items() if name != importing},
    )


def master_keys(settings: Settings) -> MasterKeys:
    """Where this start's master key comes from."""
    return MasterKeys(
        data_dir=settings.data_dir,
        environment=settings.app_env,
        randomness=SystemRandomness(),
        master_key=settings.master_key,
        master_key_file=settings.master_key_file,
        previous=settings.master_key_previous,
    )
