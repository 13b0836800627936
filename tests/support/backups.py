"""Backups of an install, made in this process."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.bootstrap.backup import backup_verification, open_backup_creation
from app.domain.backup import BackupHeader, BackupReport, EncryptTo, OpenWith, Row
from app.domain.secrets import SecretText
from app.infrastructure.backup.age import decrypted
from app.infrastructure.backup.age_keys import X25519Identity
from app.infrastructure.backup.archive import ArchiveReader
from app.services.audit import OPERATOR

if TYPE_CHECKING:
    from app.services.backup import CreatedBackup
    from tests.support.installs import Place

IDENTITY: Final = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0"
"""The test identity of the C2SP vectors for age."""
RECIPIENT: Final = str(X25519Identity.parse(IDENTITY).recipient)
OPENS: Final = OpenWith(identities=SecretText(IDENTITY))


async def back_up(place: Place, path: Path, *, replace: bool = False) -> CreatedBackup:
    """Make a backup, as `keyhall backup create` does."""
    async with open_backup_creation(place.load()) as creation:
        return await creation.create(
            OPERATOR, path, EncryptTo(recipient=RECIPIENT), replace=replace, show=lambda *_: None
        )


async def verified(place: Place, path: Path) -> BackupReport:
    """Judge a backup, as `keyhall backup verify` does."""
    verification = backup_verification(place.load())
    return await verification.verify(path, OPENS)


def content(file: bytes) -> tuple[BackupHeader, list[tuple[str, Row]]]:
    """Every row of a backup. Raises BackupError."""
    reader = ArchiveReader(decrypted(io.BytesIO(file), [X25519Identity.parse(IDENTITY)]))
    return reader.header, list(reader.rows())


def of(rows: Sequence[tuple[str, Row]], table: str) -> list[Row]:
    """The rows of one table."""
    return [row for name, row in rows if name == table]
