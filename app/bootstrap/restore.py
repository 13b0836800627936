"""The stage of `keyhall backup restore`: a master key and a file; the database may be absent, empty or damaged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.bootstrap.database import (
    StartupRetry,
    foreign_database,
    install_rules,
    master_keys,
    require_trusted_files,
)
from app.domain.errors import ConfigInvalid
from app.infrastructure.backup.files import AgeBackupFiles
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.infrastructure.database.engine import Database
from app.infrastructure.database.restoring import restore_target
from app.infrastructure.install_file import InstallFile
from app.services.backup.restore import BackupRestore, RestoreTools
from app.services.jobs import JobService
from app.services.keys.reading import KeyReader
from app.services.keys.writing import KeyWriter
from app.settings import DatabaseUrl, Settings


@asynccontextmanager
async def open_backup_restore(settings: Settings, into: str | None = None) -> AsyncIterator[BackupRestore]:
    """The means to restore a backup into DATABASE_URL, or ``into`` another database; nothing is changed yet.

    Raises StartupError.
    """
    require_trusted_files(settings)
    url = settings.database_url if into is None else _parsed(into)
    record, source, clock, randomness = (
        InstallFile(settings.data_dir),
        master_keys(settings),
        SystemClock(),
        SystemRandomness(),
    )
    remembered, derivation = record.read(), Derivation()
    reader = KeyReader(
        master_keys=source, wrapping=MasterKeyWrapping, derivation=derivation, rules=install_rules(settings)
    )
    retry = StartupRetry(url, clock)

    async def answering(database: Database) -> None:
        await retry.run(database.look)
        await retry.run(database.probe)

    async with restore_target(
        url, answering=answering, foreign=lambda tables: foreign_database(settings, url, tables, remembered)
    ) as target:
        yield BackupRestore(
            files=AgeBackupFiles(url, randomness),
            target=target,
            tools=RestoreTools(
                source=source,
                reader=reader,
                writer=KeyWriter(
                    reader=reader, derivation=derivation, record=record, clock=clock, randomness=randomness
                ),
                envelope=AesGcmEnvelope(randomness),
                derivation=derivation,
                record=record,
                jobs=lambda storage: JobService(storage=storage, clock=clock, randomness=randomness),
                clock=clock,
            ),
            remembers=url == settings.database_url,
        )


def _parsed(text: str) -> DatabaseUrl:
    try:
        return DatabaseUrl.parse(text)
    except ValueError as refused:
        raise ConfigInvalid(f"--into {refused}", remedy="name the database as DATABASE_URL does") from None
