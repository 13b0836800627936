"""The stages of `keyhall backup`: writing needs the database and its keys, reading needs neither."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from app.bootstrap.copies import own_keys, verification_with
from app.bootstrap.database import master_keys, reachable_database
from app.domain.backup import BackupHeader, OpenWith
from app.domain.backup_plan import BackupPlan, Keep
from app.domain.errors import NoInstall
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.database.migrate import known_revisions
from app.infrastructure.own_loop import in_own_loop
from app.services.backup import BackupCreation, BackupVerification
from app.services.backup.rehearsal import RehearsalPlace
from app.services.ports import MasterKeySource
from app.services.ports.restoring import Staged
from app.settings import Settings


def backup_verification(settings: Settings) -> BackupVerification:
    """The means to read and judge backups; nothing is opened yet."""
    return verification_with(settings, master_keys(settings))


def backup_keys(settings: Settings) -> OpenWith:
    """The keys that this machine has for backups. Raises ConfigInvalid, InsecureKey."""
    return own_keys(settings, master_keys(settings))


def backup_plan(settings: Settings) -> BackupPlan:
    """The operator's decisions, which the settings have checked."""
    return BackupPlan(
        directory=settings.backup_dir,
        recipient=settings.backup_recipient,
        schedule=settings.backup_schedule,
        keep=Keep.parse(settings.backup_keep),
    )


def rehearsal_place(settings: Settings, source: MasterKeySource) -> RehearsalPlace:
    """The means of this machine for rehearsals; nothing is opened yet."""
    return RehearsalPlace(
        scratch=lambda header: _scratch(settings, header),
        elsewhere=in_own_loop,
        keys=lambda: own_keys(settings, source),
    )


def _scratch(settings: Settings, header: BackupHeader) -> AbstractAsyncContextManager[Staged]:
    from app.infrastructure.database.restoring import staged_file  # noqa: PLC0415 - a start does not wait for it

    return staged_file(settings.data_dir / ".rehearsal", header)


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
            verification=verification_with(settings, master_keys(settings)),
            recipient=settings.backup_recipient,
            clock=SystemClock(),
            randomness=SystemRandomness(),
        )
