"""The first stage of every start and command: a database that is reachable, readable, verified, migrated."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from app.domain.errors import (
    ConfigInvalid,
    DatabaseDamaged,
    DatabaseFault,
    DatabaseUnavailable,
    InstallMismatch,
    MigrationFailed,
    NoInstall,
    StartupError,
    StorageError,
)
from app.domain.keys import Environment, KeyName
from app.infrastructure import install_file, master_key
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.infrastructure.data_directory import check_owners_and_mode
from app.infrastructure.database.engine import Database, open_database
from app.infrastructure.database.faults import of_a_server
from app.infrastructure.database.migrate import (
    check_schema,
    current_revision,
    foreign_tables,
    known_revisions,
    upgrade,
)
from app.infrastructure.database.unit_of_work import SqlStorage
from app.infrastructure.install_file import InstallFile
from app.infrastructure.master_key import MasterKeys
from app.services.keys import InstallRules, KeyManagementService
from app.services.keys.owner import KeyOwner
from app.services.ports import MasterKeySource, RememberedInstall
from app.settings import DatabaseUrl, Settings
from app.settings.secret_files import check_secret_file_modes

log = logging.getLogger(__name__)

RETRY_BUDGET_SECONDS: Final = 60.0
"""How long a start waits for a database that is away or locked."""
_TRUSTED_FILES: Final = (install_file.FILE_NAME, master_key.FILE_NAME, master_key.PREVIOUS_FILE_NAME, "keyhall.db")
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 4.0

_T = TypeVar("_T")


class StartupRetry:
    """One waiting budget for all steps of a start: a database that restarts or is locked may need a minute.

    A cause that does not heal by waiting (app/infrastructure/database/faults.py) halts at once.
    """

    def __init__(self, url: DatabaseUrl, clock: SystemClock, budget: float | None = None) -> None:
        self._url = url
        self._clock = clock
        self._budget = RETRY_BUDGET_SECONDS if budget is None else budget
        self._deadline = clock.monotonic() + self._budget
        self._logged: str | None = None

    async def run(self, step: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a step while waiting may help. Raises DatabaseUnavailable, DatabaseDamaged."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await step()
            except StorageError as error:
                fault = error.fault
                if fault is not None and self._url.server is not None:
                    fault = of_a_server(fault)
                if fault is not None and not fault.heals:
                    raise self._halt(fault) from None
                why = error.detail if fault is None else self._filled(f"it {fault.happened} ({fault.code})", fault)
                if self._clock.monotonic() + pause > self._deadline:
                    remedy = "start the database, or correct DATABASE_URL" if fault is None else fault.remedy
                    raise DatabaseUnavailable(
                        f"the database {self._url.name} did not answer for {self._budget:.0f} seconds: {why}",
                        remedy=remedy if fault is None else self._filled(remedy, fault),
                    ) from error
            if why != self._logged:
                log.info("waiting for the database %s: %s", self._url.name, why)
                self._logged = why
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _halt(self, fault: DatabaseFault) -> StartupError:
        kind = DatabaseDamaged if fault.damaged else DatabaseUnavailable
        remedy = self._filled(fault.remedy, fault)
        if fault.damaged and self._url.path is not None:
            remedy = _way_out(self._url.path)
        return kind(
            f"the database {self._url.name} {self._filled(fault.happened, fault)} ({fault.code})", remedy=remedy
        )

    def _filled(self, text: str, fault: DatabaseFault) -> str:
        server = self._url.server
        role = server.username if server is not None else None
        return text.format(
            role=_identifier(role or _own_user()),
            database=_identifier(server.database or "") if server is not None else self._url.name,
            about=fault.about,
            file=self._url.name,
        )


def _own_user() -> str:
    """The name of this process's user; its number where the system has no name for it, as in many containers."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _way_out(path: Path) -> str:
    """The remedy for a damaged SQLite file. A `-wal` beside it may be of another state of the file, before a copy."""
    beside = path.with_name(f"{path.name}-wal")
    restore = "restore the newest backup with `keyhall backup restore FILE`"
    if not beside.exists() or not beside.stat().st_size:
        return f"stop every process and {restore}"
    names = (f"{beside.name}.aside{number}" for number in ("", *range(2, 1000)))
    aside = next(each for name in names if not (each := beside.with_name(name)).exists())
    moved = f"{shlex.quote(str(beside))} {shlex.quote(str(aside))}"
    former = f"if the file was put there beside the -wal of a former one, run `mv {moved}`"
    return f"stop every process; {former}; else {restore}"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachableDatabase:
    """A database that answers and whose schema this version can read; nothing in it was verified or changed yet."""

    settings: Settings
    database: Database
    storage: SqlStorage
    reserved: SqlStorage
    keys: KeyManagementService
    retry: StartupRetry

    async def verify(self) -> bool:
        """Verify every key, reading only; False where there is no install. Raises StartupError."""
        return await self.retry.run(self.keys.verify)

    async def migrate(self, *, installed: bool) -> None:
        """Bring the schema to head; an install's database is copied or backed up first. Raises StartupError."""
        if installed:
            await self._keep_way_back()
        await self.retry.run(lambda: upgrade(self.database))

    async def revision(self) -> str | None:
        """The schema's revision; None where nothing was ever migrated. Raises DatabaseUnavailable."""
        return await self.retry.run(lambda: current_revision(self.database))

    async def _keep_way_back(self) -> None:
        """Before an install's schema changes, keep a verified copy or backup. Raises MigrationFailed."""
        step = await self.revision(), known_revisions()[-1]
        if step[0] == step[1]:
            return
        from app.bootstrap.copies import keep_way_back  # noqa: PLC0415 - a start at head goes without it

        await keep_way_back(
            self.settings,
            self.database,
            master_keys(self.settings),
            lambda storage: key_management(self.settings, storage).verify(),
            step,
        )

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
    patient: bool = False,
    budget: float | None = None,
) -> AsyncIterator[ReachableDatabase]:
    """Open the database and wait until it answers.

    Args:
        settings: what the operator decided.
        may_create: whether an embedded database that is not there is made.
        source: where the master key comes from, if not from the settings.
        importing: the key that is about to be imported: what the settings give for it is no conflict.
        patient: whether statements may take long: nobody is served meanwhile.
        budget: how many seconds to wait for a database that may come back, if not as long as a start.
        absent: raised where there is no database and none may be made, if not the usual NoInstall.

    Raises:
        StartupError: the database is away, refuses, is another's, or demands a newer version.
        NoInstall: there is no database, and none may be made.
    """
    require_trusted_files(settings)
    # Read before the database is looked at: see KeyReader.load.
    remembered = InstallFile(settings.data_dir).read()
    async with open_database(
        settings.database_url, may_create=may_create, connections=settings.database_connections, patient=patient
    ) as database:
        storage, reserved = SqlStorage(database), SqlStorage(database, reserved=True)
        keys = key_management(settings, reserved, source, importing=importing)
        if not database.exists():
            keys.require_no_install_expected(remembered)
            if not may_create:
                raise absent or NoInstall
        retry = StartupRetry(settings.database_url, SystemClock(), budget)
        # Before anything else opens the file: see `check_file`.
        if not await retry.run(database.look) and settings.database_url.path is not None:
            log.info("the database was checked for damage in part: `keyhall db check` checks all of it")
        await retry.run(database.probe)
        if foreign := await retry.run(lambda: foreign_tables(database)):
            raise foreign_database(settings, settings.database_url, foreign, remembered)
        await retry.run(lambda: check_schema(database))
        yield ReachableDatabase(
            settings=settings, database=database, storage=storage, reserved=reserved, keys=keys, retry=retry
        )


def require_trusted_files(settings: Settings, environment: Environment | None = None) -> None:
    """Halt on files that others may have replaced, as in that environment. Raises InsecureKey."""
    check_secret_file_modes(settings.secret_files)
    production = (environment or settings.app_env) is Environment.PRODUCTION
    check_owners_and_mode(settings.data_dir, _TRUSTED_FILES, production=production)


def foreign_database(
    settings: Settings, url: DatabaseUrl, tables: Sequence[str], remembered: RememberedInstall | None
) -> StartupError:
    """The halt for a database of another program; InstallMismatch where an install was expected there."""
    named = f"{', '.join(tables[:3])}{' and more' if len(tables) > 3 else ''}"
    happened = (
        f"the database {url.name} is another program's: its table{'s' * (len(tables) > 1)} {named} "
        f"{'are' if len(tables) > 1 else 'is'} not Keyhall's"
    )
    remedy = "name a database in DATABASE_URL that no other program uses"
    if remembered is not None or settings.install_id is not None:
        return InstallMismatch(happened, remedy=f"{remedy}, that of this install")
    return MigrationFailed(happened, remedy=remedy)


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
        outside_keys={} if importing else settings.outside_keys,
        legacy_key=settings.credential_encryption_key,
        owner=KeyOwner(settings.stored_secret)
        if settings.stored_secret and settings.stored_secret.current.keys
        else None,
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
        stored=settings.stored_secret,
    )
