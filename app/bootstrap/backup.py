"""The stages of `keyhall backup`: writing needs the database and its keys, reading needs neither."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.bootstrap.database import master_keys, reachable_database
from app.domain.backup import OpenWith
from app.domain.errors import ConfigInvalid, NoInstall
from app.domain.secrets import SecretText
from app.infrastructure.backup.files import AgeBackupFiles
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.infrastructure.database.migrate import known_revisions
from app.services.backup import BackupCreation, BackupVerification
from app.settings import Settings
from app.settings.secret_files import read_text_file


def backup_verification(settings: Settings) -> BackupVerification:
    """The means to read and judge backups; nothing is opened yet."""
    randomness = SystemRandomness()
    return BackupVerification(
        files=AgeBackupFiles(settings.database_url, randomness),
        master_keys=master_keys(settings),
        wrapping=MasterKeyWrapping,
        derivation=Derivation(),
        envelope=AesGcmEnvelope(randomness),
    )


def own_identities(settings: Settings) -> OpenWith:
    """The content of BACKUP_IDENTITY_FILE, if one is named. Raises ConfigInvalid where it cannot be read."""
    path = settings.backup_identity_file
    if path is None:
        return OpenWith()
    try:
        return OpenWith(identities=SecretText(read_text_file(path)))
    except ValueError as error:
        raise ConfigInvalid(
            f"BACKUP_IDENTITY_FILE {path} {error}",
            remedy="name the identity file that `age-keygen -o FILE` made, or remove the setting",
        ) from None


@asynccontextmanager
async def open_backup_creation(settings: Settings) -> AsyncIterator[BackupCreation]:
    """The means to back up this install; its keys are verified. Raises StartupError, NoInstall.

    Nothing is migrated: a new version of Keyhall can back up a database before it upgrades it.
    """
    async with reachable_database(settings, may_create=False) as reachable:
        if not await reachable.verify():
            raise NoInstall
        at_head = await reachable.revision() == known_revisions()[-1]
        yield BackupCreation(
            storage=reachable.storage if at_head else None,
            verification=backup_verification(settings),
            recipient=settings.backup_recipient,
            clock=SystemClock(),
        )
