"""The sequencer, and the only place where parts are put together.

A start is a nest of stages, each an async context manager that undoes itself in reverse: settings → database reachable
→ what is there verified, read-only → migrations → keys → services. Nothing listens before the last stage yields.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import URL

from app.domain.audit import Action
from app.domain.errors import (
    ConfigInvalid,
    DatabaseUnavailable,
    MigrationFailed,
    NoInstall,
    StorageError,
    StorageFull,
    StorageReadOnly,
)
from app.domain.keys import Environment, KeyName
from app.domain.master_key import RestoredMasterKey
from app.domain.schema import SchemaState
from app.domain.secrets import SecretText
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.infrastructure.database.engine import Database, open_database
from app.infrastructure.database.migrate import check_schema, current_revision, known_revisions, upgrade
from app.infrastructure.database.unit_of_work import SqlStorage
from app.infrastructure.install_file import InstallFile
from app.infrastructure.logging import configure_logging
from app.infrastructure.master_key import MasterKeys, OneMasterKey
from app.infrastructure.secret_files import check_secret_file_modes
from app.services import Services
from app.services.audit import by_operator
from app.services.keys import InstallRules, KeyManagementService
from app.services.keys.master_key import MasterKeyChange
from app.services.keys.reading import KeyReader
from app.services.keys.reset import KeyReset
from app.services.keys.writing import KeyWriter
from app.services.ports import MasterKeySource
from app.settings import Settings

log = logging.getLogger(__name__)

RETRY_BUDGET_SECONDS: Final = 60.0
"""How long a start waits for a database that is away or locked."""
_NO_INSTALL: Final = "there is no install yet: start `keyhall run` once, it makes one"
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 4.0

_T = TypeVar("_T")


def log_to_stderr(settings: Settings, level: str) -> None:
    """Send the log to standard error, with everything that the settings hold back taken out of it."""
    redactor = configure_logging(level, settings.log_format)
    for secret in settings.secrets():
        redactor.add(secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenKeys:
    """The stage in which the keys are verified and loaded; ``created`` when this very start made them."""

    database: Database
    storage: SqlStorage
    keys: KeyManagementService
    created: bool
    retry: StartupRetry


@asynccontextmanager
async def open_keys(
    settings: Settings, *, may_create: bool, importing: KeyName | None = None, source: MasterKeySource | None = None
) -> AsyncIterator[OpenKeys]:
    """Open the database, verify the install, migrate, load the keys. Raises StartupError, NoInstall.

    What the settings give for the key that is ``importing`` is not held against it: importing resolves that conflict.
    """
    check_secret_file_modes(settings.secret_files)
    remembered = InstallFile(settings.data_dir).read()  # before the database is looked at, as KeyManagementService does
    async with open_database(settings.database_url.reveal(), may_create=may_create) as database:
        storage = SqlStorage(database)
        keys = _key_management(settings, storage, source, importing=importing)
        if not database.exists():
            keys.require_no_install_expected(remembered)
            if not may_create:
                raise NoInstall(_NO_INSTALL)
        retry = StartupRetry(settings.database_name_for_people, SystemClock())
        await retry.run(database.probe)
        await retry.run(lambda: check_schema(database))
        installed = await retry.run(keys.verify)
        if not installed and not may_create:
            raise NoInstall(_NO_INSTALL)
        if installed:
            await _keep_copy(settings, database)
        await retry.run(lambda: upgrade(database))
        created = await retry.run(lambda: keys.initialize(may_create=may_create))
        yield OpenKeys(database=database, storage=storage, keys=keys, created=created, retry=retry)


async def _keep_copy(settings: Settings, database: Database) -> None:
    """Before an install's schema changes, keep a copy that was opened and verified. Raises MigrationFailed."""
    revision, head = await current_revision(database), known_revisions()[-1]
    if revision == head:
        return
    # A name of its own for every process: many may start at once.
    unique = f"{SystemClock().now():%Y%m%dT%H%M%SZ}-{SystemRandomness().token_bytes(4).hex()}"
    path = settings.backup_dir / f"before-{head}-{unique}.db"
    try:
        if not await database.copy(path):
            log.warning("the schema goes from %s to %s: the server's own backup is the only way back", revision, head)
            return
        copy = URL.create("sqlite+aiosqlite", database=str(path))
        async with open_database(copy.render_as_string(), may_create=False) as copied:
            await _key_management(settings, SqlStorage(copied)).verify()
    except (OSError, StorageError) as error:
        raise MigrationFailed(
            f"no copy of the database could be made in {path.parent} before migration {head}, and nothing was changed",
            remedy="make BACKUP_DIR a directory with free space that the user who runs Keyhall may write",
        ) from error
    log.info("the schema goes from %s to %s: a verified copy of the database is %s", revision, head, path)


@asynccontextmanager
async def open_unverified_keys(settings: Settings) -> AsyncIterator[KeyManagementService]:
    """Open nothing but the key store, for judging it: nothing is verified, migrated or made. Raises NoInstall."""
    check_secret_file_modes(settings.secret_files)
    remembered = InstallFile(settings.data_dir).read()
    async with open_database(settings.database_url.reveal(), may_create=False) as database:
        keys = _key_management(settings, SqlStorage(database))
        if not database.exists():
            keys.require_no_install_expected(remembered)
            raise NoInstall(_NO_INSTALL)
        yield keys


async def schema_state(settings: Settings, *, upgrade_first: bool) -> SchemaState:
    """Where the schema stands, after running pending migrations where asked. Raises StartupError, NoInstall."""
    check_secret_file_modes(settings.secret_files)
    remembered = InstallFile(settings.data_dir).read()
    async with open_database(settings.database_url.reveal(), may_create=upgrade_first) as database:
        if not database.exists():
            _key_management(settings, SqlStorage(database)).require_no_install_expected(remembered)
            if not upgrade_first:
                raise NoInstall(
                    f"there is no database at {settings.database_name_for_people}: run `keyhall db upgrade`"
                )
        retry = StartupRetry(settings.database_name_for_people, SystemClock())
        await retry.run(database.probe)
        await retry.run(lambda: check_schema(database))
        if upgrade_first:
            # An install that is there is verified before anything in it changes, as at every start.
            if await retry.run(_key_management(settings, SqlStorage(database)).verify):
                await _keep_copy(settings, database)
            await retry.run(lambda: upgrade(database))
        current = await retry.run(lambda: current_revision(database))
        return SchemaState(database=settings.database_name_for_people, current=current, head=known_revisions()[-1])


def _key_management(
    settings: Settings,
    storage: SqlStorage,
    source: MasterKeySource | None = None,
    *,
    importing: KeyName | None = None,
) -> KeyManagementService:
    return KeyManagementService(
        storage=storage,
        master_keys=source or master_keys(settings),
        wrapping=MasterKeyWrapping,
        derivation=Derivation(),
        record=InstallFile(settings.data_dir),
        rules=_rules(settings, importing),
        clock=SystemClock(),
        randomness=SystemRandomness(),
    )


def _rules(settings: Settings, importing: KeyName | None = None) -> InstallRules:
    return InstallRules(
        environment=settings.app_env,
        pinned_install_id=str(settings.install_id) if settings.install_id else None,
        outside_keys={name: key for name, key in settings.outside_keys.items() if name != importing},
    )


@asynccontextmanager
async def open_services(settings: Settings, opened: OpenKeys, *, kind: str) -> AsyncIterator[Services]:
    """Build the services on verified keys, and take a lease as a process of that kind for as long as they are used."""
    # These pull in what `keyhall keys list` has no use for.
    from app.infrastructure.crypto.messages import FernetMessages  # noqa: PLC0415
    from app.infrastructure.crypto.tokens import JwtAccessTokens  # noqa: PLC0415
    from app.infrastructure.database.feed import DatabaseFeed  # noqa: PLC0415
    from app.infrastructure.passwords import Argon2Passwords  # noqa: PLC0415
    from app.services.authentication import AuthenticationService, Lifetimes, RequestAuthenticator  # noqa: PLC0415
    from app.services.bot_state import BotStateService  # noqa: PLC0415
    from app.services.credentials import (  # noqa: PLC0415
        CredentialCipher,
        CredentialService,
        CredentialTransfer,
        EnvironmentCredentials,
    )
    from app.services.dashboard import DashboardService  # noqa: PLC0415
    from app.services.housekeeping import HousekeepingService  # noqa: PLC0415
    from app.services.idempotency import Idempotency  # noqa: PLC0415
    from app.services.identity import IdentityService  # noqa: PLC0415
    from app.services.instances import InstanceService  # noqa: PLC0415
    from app.services.jobs import JobService  # noqa: PLC0415
    from app.services.messages import MessageService  # noqa: PLC0415
    from app.services.rotation import RotationService  # noqa: PLC0415

    storage, keys = opened.storage, opened.keys
    clock, randomness, derivation = SystemClock(), SystemRandomness(), Derivation()
    passwords = Argon2Passwords(cheap=settings.app_env is Environment.TEST)
    cipher = CredentialCipher(keys=keys, envelope=AesGcmEnvelope(randomness), derivation=derivation)
    feed = DatabaseFeed(opened.database)
    instances = InstanceService(storage=storage, keys=keys, feed=feed, clock=clock, randomness=randomness, kind=kind)
    credentials = CredentialService(
        storage=storage,
        cipher=cipher,
        idempotency=Idempotency(keys=keys, derivation=derivation, clock=clock),
        environment=EnvironmentCredentials(
            by_provider=settings.environment_credentials, guilds=settings.env_credential_guilds
        ),
        clock=clock,
        randomness=randomness,
    )
    identity = IdentityService(
        storage=storage,
        keys=keys,
        transfer=CredentialTransfer(cipher=cipher, clock=clock),
        passwords=passwords,
        clock=clock,
        randomness=randomness,
        registration=settings.registration,
    )
    tokens = JwtAccessTokens(issuer=f"keyhall:{keys.install_id}", audience="keyhall-api")
    lifetimes = Lifetimes(
        access=timedelta(minutes=settings.access_token_expire_minutes),
        session=timedelta(days=settings.refresh_token_expire_days),
    )
    jobs = JobService(storage=storage, clock=clock, randomness=randomness)
    services = Services(
        feed=feed,
        keys=keys,
        instances=instances,
        jobs=jobs,
        rotation=RotationService(
            storage=storage,
            keys=keys,
            instances=instances,
            jobs=jobs,
            cipher=cipher,
            clock=clock,
            token_lifetime=lifetimes.access,
            rotation_days=settings.key_rotation_days,
        ),
        identity=identity,
        credentials=credentials,
        authentication=AuthenticationService(
            storage=storage,
            keys=keys,
            passwords=passwords,
            tokens=tokens,
            derivation=derivation,
            clock=clock,
            randomness=randomness,
            lifetimes=lifetimes,
        ),
        requests=RequestAuthenticator(storage=storage, keys=keys, tokens=tokens, clock=clock),
        messages=MessageService(storage=storage, keys=keys, cipher=FernetMessages(), clock=clock),
        dashboard=DashboardService(
            storage=storage,
            keys=keys,
            credentials=credentials,
            clock=clock,
            rotation=timedelta(days=settings.key_rotation_days),
        ),
        bot_state=BotStateService(storage=storage, clock=clock),
        housekeeping=HousekeepingService(storage=storage, clock=clock),
    )
    try:
        await opened.retry.run(instances.refresh)
        async with feed.listening(), instances.present():
            yield services
    finally:
        await passwords.close()


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


def write_master_key(settings: Settings) -> Path:
    """Make the default master key file on the operator's word. Raises ConfigInvalid where one is there."""
    source = master_keys(settings)
    if os.path.lexists(source.default_file):
        raise ConfigInvalid(
            f"{source.default_file} is there already", remedy="keep it: it may be the only key that opens an install"
        )
    source.create()
    return source.default_file


async def master_key_page(settings: Settings) -> str:
    """The master key as a page to print, once the audit trail knows of it durably. Raises StartupError, NoInstall."""
    from app.infrastructure.paper import page  # noqa: PLC0415

    async with open_keys(settings, may_create=False) as opened:
        needed = opened.keys.ring.manifest.master_key_id
        material = master_keys(settings).given()[0]
        if MasterKeyWrapping(material).master_key_id != needed:
            raise ConfigInvalid(
                f"a change of the master key is under way: the install still needs the previous one, {needed}",
                remedy="run `keyhall keys rotate-master` to its end, then print the new one",
            )
        now = SystemClock().now()
        async with opened.storage.write() as uow:
            await uow.audit.append(by_operator(Action.MASTER_KEY_PRINTED, now, about=("master_key", needed)))
        return page(material, opened.keys.install_id, needed, now)


@asynccontextmanager
async def open_master_key_change(settings: Settings) -> AsyncIterator[MasterKeyChange]:
    """Verified keys, and the means to put them under another master key; no lease. Raises StartupError, NoInstall."""
    source = master_keys(settings)
    async with open_keys(settings, may_create=False, source=source) as opened:
        yield MasterKeyChange(storage=opened.storage, keys=opened.keys, source=source, clock=SystemClock())


@asynccontextmanager
async def open_key_reset(settings: Settings) -> AsyncIterator[KeyReset]:
    """Nothing but what making an install's keys anew needs; nothing is changed yet. Raises StartupError, NoInstall."""
    from app.services.jobs import JobService  # noqa: PLC0415
    from app.services.keys.reset import KeyReset  # noqa: PLC0415

    check_secret_file_modes(settings.secret_files)
    record, remembered = InstallFile(settings.data_dir), InstallFile(settings.data_dir).read()
    async with open_database(settings.database_url.reveal(), may_create=False) as database:
        storage, source = SqlStorage(database), master_keys(settings)
        if not database.exists():
            _key_management(settings, storage, source).require_no_install_expected(remembered)
            raise NoInstall(_NO_INSTALL)
        retry = StartupRetry(settings.database_name_for_people, SystemClock())
        await retry.run(database.probe)
        await retry.run(lambda: check_schema(database))

        async def prepare() -> Path | None:
            copy = await _copy_before_reset(settings, database)
            await retry.run(lambda: upgrade(database))
            return copy

        clock, randomness, derivation, rules = SystemClock(), SystemRandomness(), Derivation(), _rules(settings)
        reader = KeyReader(master_keys=source, wrapping=MasterKeyWrapping, derivation=derivation, rules=rules)
        yield KeyReset(
            storage=storage,
            source=source,
            reader=reader,
            writer=KeyWriter(reader=reader, derivation=derivation, record=record, clock=clock, randomness=randomness),
            wrapping=MasterKeyWrapping,
            derivation=derivation,
            record=record,
            rules=rules,
            jobs=JobService(storage=storage, clock=clock, randomness=randomness),
            clock=clock,
            randomness=randomness,
            prepare=prepare,
            at_head=await current_revision(database) == known_revisions()[-1],
        )


async def _copy_before_reset(settings: Settings, database: Database) -> Path | None:
    """An embedded database as it is: should the master key turn up again, that copy opens. Raises ConfigInvalid."""
    path = settings.backup_dir / f"before-reset-{SystemClock().now():%Y%m%dT%H%M%S.%fZ}.db"
    try:
        return path if await database.copy(path) else None
    except (OSError, StorageError) as error:
        raise ConfigInvalid(
            f"no copy of the database could be made in {path.parent} before the reset, and nothing was changed",
            remedy="make BACKUP_DIR a directory with free space that the user who runs Keyhall may write",
        ) from error


async def restore_master_key(settings: Settings, given: SecretText, *, write: bool) -> RestoredMasterKey:
    """Read a master key from words or text, prove that it opens the install, and put its file back where asked to.

    Nothing else is changed. Raises InvalidInput for what is no master key, MasterKeyMismatch for another install's,
    ConfigInvalid where something else is in the file's place, NoInstall and every other StartupError.
    """
    from app.infrastructure.paper import from_words_or_text  # noqa: PLC0415

    material = from_words_or_text(given.reveal(), settings.app_env)
    check_secret_file_modes(settings.secret_files)
    remembered = InstallFile(settings.data_dir).read()
    async with open_database(settings.database_url.reveal(), may_create=False) as database:
        keys = _key_management(settings, SqlStorage(database), OneMasterKey(material))
        if not database.exists():
            keys.require_no_install_expected(remembered)
            raise NoInstall(_NO_INSTALL)
        retry = StartupRetry(settings.database_name_for_people, SystemClock())
        await retry.run(database.probe)
        await retry.run(lambda: check_schema(database))
        if not await retry.run(keys.verify):
            raise NoInstall(_NO_INSTALL)
    source = master_keys(settings)
    return RestoredMasterKey(
        master_key_id=MasterKeyWrapping(material).master_key_id,
        database=settings.database_name_for_people,
        file=str(source.default_file),
        written=write and source.install(material),
        overridden_by=source.overridden_by,
    )


class StartupRetry:
    """One budget of waiting for all steps of a start: a database that restarts or is locked is worth a minute."""

    def __init__(self, database_name: str, clock: SystemClock) -> None:
        self._database_name = database_name
        self._clock = clock
        self._deadline = clock.monotonic() + RETRY_BUDGET_SECONDS
        self._said = False

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
            if not self._said:
                log.info("waiting for the database %s", self._database_name)
                self._said = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
