"""The stages of `keyhall backup`: writing needs the database and its keys, reading needs neither."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.bootstrap.copies import own_keys, verification_with
from app.bootstrap.database import master_keys, reachable_database
from app.domain.backup import OpenWith
from app.domain.backup_plan import BackupPlan, Keep
from app.domain.errors import NoInstall
from app.infrastructure.clock import SystemClock, SystemRandomness
from app.infrastructure.database.migrate import known_revisions
from app.services.backup import BackupCreation, BackupVerification
from app.settings import Settings


def backup_verification(settings: Settings) -> tuple[BackupVerification, OpenWith]:
    """The means to read and judge backups, and the keys that this machine has for them. Raises StartupError."""
    source = master_keys(settings)
    return verification_with(settings, source), own_keys(settings, source)


def backup_plan(settings: Settings) -> BackupPlan:
    """The operator's decisions, which the settings have checked."""
    return BackupPlan(
        directory=settings.backup_dir,
        recipient=settings.backup_recipient,
        schedule=settings.backup_schedule,
        keep=Keep.parse(settings.backup_keep),
    )


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
