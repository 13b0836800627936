"""The options and questions by which commands learn what opens a backup."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.output import read_secret
from app.domain.backup import OpenWith
from app.domain.errors import BackupLocked
from app.domain.secrets import SecretText

if TYPE_CHECKING:
    from app.cli.backend import Backend

PASSPHRASE: Final[str] = "scrypt"  # noqa: S105 - how age calls it
IdentityFile = Annotated[
    Path | None,
    typer.Option(
        "--identity-file",
        exists=True,
        dir_okay=False,
        help="The age identity of its recipient. Without this: BACKUP_IDENTITY_FILE.",
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", exists=True, dir_okay=False, help="A file that holds the passphrase."),
]


def given_keys(identity_file: Path | None, passphrase_file: Path | None) -> OpenWith | None:
    """The key that the options give, or None."""
    if identity_file is not None and passphrase_file is not None:
        raise typer.BadParameter("choose one of --identity-file and --passphrase-file")
    if identity_file is not None:
        return OpenWith(identities=SecretText(read_secret("Identity", identity_file)))
    if passphrase_file is not None:
        return OpenWith(passphrase=passphrase_in(passphrase_file))
    return None


async def keys_for(opened: Backend, path: Path) -> OpenWith:
    """The keys where no option gives one: those of this machine, or a passphrase that is asked for.

    Raises BackupError, where the file is none.
    """
    verification, own = opened.backup_verification(), opened.backup_keys()
    try:
        await verification.files.inspect(path, own)
    except BackupLocked:
        # The passphrase of the master key, under which backups before a migration are, is not the right one.
        kinds = (await verification.files.inspect(path, OpenWith())).kinds
        if kinds == (PASSPHRASE,) and sys.stdin.isatty():
            return OpenWith(passphrase=SecretText(read_secret("Passphrase", None)))
        return dataclasses.replace(own, passphrase=None)
    return own


def passphrase_in(file: Path) -> SecretText:
    """The passphrase in a file."""
    return SecretText(read_secret("Passphrase", file))


def backup_path(file: Path) -> Path:
    """The absolute path of a backup."""
    if str(file) == "-":
        raise typer.BadParameter("name a file: a backup is read back, and found by its name")
    return file.expanduser().absolute()
