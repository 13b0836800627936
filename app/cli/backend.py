"""The port through which commands open services; bootstrap implements it, so the CLI does not depend on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from pathlib import Path
    from typing import BinaryIO

    from app.domain.backup import OpenWith
    from app.domain.diagnosis import Diagnosis
    from app.domain.keys import Environment, KeyName
    from app.domain.schema import SchemaState
    from app.domain.secrets import SecretText
    from app.services import Services
    from app.services.audit_trail import AuditReading
    from app.services.backup import BackupCreation, BackupVerification
    from app.services.backup.restore import BackupRestore
    from app.services.keys import KeyManagementService
    from app.services.keys.environment import EnvironmentMove
    from app.services.keys.master_key import MasterKeyChange, RestoredMasterKey
    from app.services.keys.reset import KeyReset
    from app.services.ports import LegacyDatabase


class Backend(Protocol):
    """Each method opens only what its name says. Raises StartupError, and NoInstall where an install is needed."""

    def runnable(self, text: str) -> str:
        """The text, in which each `keyhall …` in backticks is typed as this machine can run it."""
        ...

    def address(self, path: str) -> str:
        """The address of a page, for a link: at PUBLIC_URL, or where the web listens."""
        ...

    @property
    def rotation_days(self) -> int:
        """How many days a primary may serve whose key has no schedule of its own."""
        ...

    def keys(self) -> AbstractAsyncContextManager[KeyManagementService]:
        """Verified keys alone."""
        ...

    def unverified_keys(self) -> AbstractAsyncContextManager[KeyManagementService]:
        """The key store alone, unverified, to check it."""
        ...

    def read_source(self, path: Path, *, largest: int) -> bytes:
        """The content of a file from another program, at most ``largest`` bytes. Raises ImportStopped."""
        ...

    def legacy_database(self, url: str) -> AbstractAsyncContextManager[LegacyDatabase]:
        """The database of another program, read only. Raises ImportStopped."""
        ...

    def services(self, *, importing: KeyName | None = None) -> AbstractAsyncContextManager[Services]:
        """All services, with a lease; while a key is ``importing``, keys in the settings are no conflict."""
        ...

    def key_from_settings(self, name: KeyName) -> SecretText | None:
        """The value that the settings give for an application key, None where they give none."""
        ...

    async def schema(self, *, upgrade: bool = False, check: bool = False) -> SchemaState:
        """The schema's state, after running pending migrations or a whole check for damage where asked."""
        ...

    def new_key(self) -> str:
        """32 random bytes in hex, stored nowhere."""
        ...

    def new_master_key(self) -> str:
        """A new master key as text, stored nowhere."""
        ...

    def write_master_key(self) -> Path:
        """Make the default master key file. Raises StartupError where one exists."""
        ...

    async def master_key_page(self) -> str:
        """The master key as an SVG page to print; its audit row commits first."""
        ...

    def write_private_file(self, path: Path, content: str, *, replace: bool) -> None:
        """Make a file of mode 0600, or replace one and keep its owner. Raises OSError."""
        ...

    def private_file(self, path: Path, *, replace: bool) -> AbstractContextManager[BinaryIO]:
        """The same, to be written in parts: without its name until all is written. Raises OSError."""
        ...

    def audit(self) -> AbstractAsyncContextManager[AuditReading]:
        """The audit trail, to be read: without any key."""
        ...

    def master_key_change(self) -> AbstractAsyncContextManager[MasterKeyChange]:
        """Verified keys, and the means to put them under another master key."""
        ...

    def environment_move(self, target: Environment) -> AbstractAsyncContextManager[EnvironmentMove]:
        """The means to move an install to that environment."""
        ...

    def demands_on_settings(self, target: Environment, *, rewrapped: bool) -> Sequence[str]:
        """The changes of settings that such a move leaves to the operator, a sentence each."""
        ...

    def key_reset(self) -> AbstractAsyncContextManager[KeyReset]:
        """The means to give an install new keys; nothing is verified."""
        ...

    async def restore_master_key(self, given: SecretText, *, write: bool) -> RestoredMasterKey:
        """Prove that words or text are this install's master key, and write its file if ``write`` is set.

        Raises InvalidInput if the text is no master key.
        """
        ...

    def backup_creation(self) -> AbstractAsyncContextManager[BackupCreation]:
        """The means to back up this install; its keys are verified, and no pending migration is run."""
        ...

    async def diagnose(self) -> Diagnosis:
        """Everything that can be wrong with this installation, looked over; changes nothing and raises nothing."""
        ...

    def backup_verification(self) -> BackupVerification:
        """The means to read backups, without the database."""
        ...

    def backup_keys(self) -> OpenWith:
        """The keys that this machine has for backups: BACKUP_IDENTITY_FILE, and a passphrase of the master key."""
        ...

    def backup_restore(self, into: str | None) -> AbstractAsyncContextManager[BackupRestore]:
        """The means to restore a backup into the database of the settings, or into another one."""
        ...


class Run(Protocol):
    """Starts a process; the entrypoint implements it."""

    def __call__(self, *, web: bool = False, bot: bool = False, worker: bool = False, sync: bool = False) -> None:
        """Run these components until a signal ends the process. Raises StartupError."""
        ...


def backend(context: typer.Context) -> Backend:
    """The backend of this command."""
    found: Backend = context.find_root().obj
    return found
