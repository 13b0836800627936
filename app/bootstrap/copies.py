"""The way back from a migration: a verified copy of an embedded database, a verified backup of another."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from app.domain.backup import EncryptTo, OpenWith
from app.domain.errors import BackupError, ConfigInvalid, InvalidInput, MigrationFailed, StorageError
from app.domain.secrets import SecretText
from app.infrastructure.backup.files import AgeBackupFiles
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.crypto.derive import Derivation
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.crypto.wrapping import MasterKeyWrapping
from app.infrastructure.database.engine import Database, open_database
from app.infrastructure.database.restoring import fits
from app.infrastructure.database.unit_of_work import SqlStorage
from app.infrastructure.private_files import make_directory
from app.services.backup import BackupVerification
from app.services.ports import MasterKeySource
from app.settings import DatabaseUrl, Settings
from app.settings.secret_files import read_text_file

log = logging.getLogger(__name__)


def verification_with(settings: Settings, source: MasterKeySource) -> BackupVerification:
    """The means to read and judge backups with that master key; nothing is opened yet."""
    randomness = SystemRandomness()
    return BackupVerification(
        files=AgeBackupFiles(settings.database_url, randomness),
        master_keys=source,
        wrapping=MasterKeyWrapping,
        derivation=Derivation(),
        envelope=AesGcmEnvelope(randomness),
        fits=fits,
    )


def own_keys(settings: Settings, source: MasterKeySource) -> OpenWith:
    """The keys that this machine has for backups: BACKUP_IDENTITY_FILE, and the passphrase of the master key.

    Raises ConfigInvalid where the file cannot be read, and as ``source.given`` does.
    """
    path, given = settings.backup_identity_file, source.given()
    passphrase = MasterKeyWrapping(given[0]).backup_passphrase() if given else None
    try:
        identities = SecretText(read_text_file(path)) if path is not None else None
    except ValueError as error:
        raise ConfigInvalid(
            f"BACKUP_IDENTITY_FILE {path} {error}",
            remedy="name the identity file that `age-keygen -o FILE` made, or remove the setting",
        ) from None
    return OpenWith(identities=identities, passphrase=passphrase)


async def keep_way_back(
    settings: Settings,
    database: Database,
    source: MasterKeySource,
    verify: Callable[[SqlStorage], Awaitable[bool]],
    step: tuple[str | None, str],
) -> None:
    """Before an install's schema makes that step, keep what leads back in BACKUP_DIR. Raises MigrationFailed.

    ``verify`` verifies the keys of a storage.
    """
    before, head = step
    # Each process has a file name of its own: many may start at once.
    unique = f"{SystemClock().now():%Y%m%dT%H%M%SZ}-{SystemRandomness().token_bytes(4).hex()}"
    path = settings.backup_dir / f"before-{head}-{unique}"
    try:
        copy = path.with_suffix(".db")
        if await database.copy(copy):
            async with open_database(DatabaseUrl(path=copy), may_create=False) as copied:
                await verify(SqlStorage(copied))
            log.info("the schema goes from %s to %s: a verified copy of the database is %s", before, head, copy)
        else:
            backup = path.with_suffix(".age")
            await _back_up(settings, source, backup)
            log.info("the schema goes from %s to %s: a verified backup of the database is %s", before, head, backup)
    except (OSError, StorageError, BackupError, InvalidInput) as error:
        raise MigrationFailed(
            f"no verified copy of the database could be made in {path.parent} before migration {head}, and nothing was "
            f"changed ({error})",
            remedy="make BACKUP_DIR a directory with free space that the user who runs Keyhall may write",
        ) from error


async def _back_up(settings: Settings, source: MasterKeySource, path: Path) -> None:
    """To BACKUP_RECIPIENT, or else under a passphrase of the master key: nobody is there to choose one."""
    if settings.backup_recipient is not None:
        to = EncryptTo(recipient=settings.backup_recipient)
    else:
        to = EncryptTo(passphrase=MasterKeyWrapping(source.given()[0]).backup_passphrase())
    verification = verification_with(settings, source)
    make_directory(path.parent)
    _, report = await verification.files.write(
        path, to, verification.report, replace=False, created_at=SystemClock().now(), show=lambda _done, _total: None
    )
    for problem in report.problems:  # the install had it before: no reason to stay on the old schema
        log.warning("the backup before the migration: %s", problem)
