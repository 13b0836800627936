"""Bootstrap: the only place where parts are put together.

A start is a nest of stages, each an async context manager that undoes itself in reverse: settings → database reachable
→ what it holds verified, reading only → migrations (database.py) → keys (keys.py) → services (services.py). Nothing
listens before the last stage yields. Single commands open as far as they need (commands.py).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

# Imports inside the methods keep a command from paying for what it does not open: `keyhall keys list` needs no Argon2.
if TYPE_CHECKING:
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
    from app.settings import Settings

log = logging.getLogger(__name__)


def log_to_stderr(settings: Settings, level: str) -> Callable[[SecretText], None]:
    """Send the log to standard error, with every secret of the settings redacted; returns how to redact another."""
    from app.infrastructure.logging import configure_logging  # noqa: PLC0415

    redactor = configure_logging(level, settings.log_format)
    for secret in settings.secrets():
        redactor.add(secret)
    for notice in settings.notices:
        log.warning(notice)
    if (stored := settings.stored_secret) is not None:
        log.info("Loaded secrets from AWS", extra={"aws_name": stored.place.name, "aws_version": stored.current.id})
    return redactor.add


def settings_of_a_start() -> Settings:
    """The settings, and with SECRETS_BACKEND=aws what AWS holds, before anything is opened. Raises StartupError."""
    from app.settings import Settings  # noqa: PLC0415

    settings = Settings.load()
    if settings.secret_place is None:
        return settings
    from app.bootstrap.secrets import secrets_backend  # noqa: PLC0415

    return Settings.load(stored=secrets_backend(settings.secret_place).fetch_before_a_loop_runs())


class Backend:
    """Everything that commands open. Implements `app.cli.backend.Backend`; the settings are read once, when needed."""

    @cached_property
    def settings(self) -> Settings:
        """The settings. Raises ConfigInvalid, SecretsUnavailable."""
        return settings_of_a_start()

    def _settings_of_a_command(self) -> Settings:
        """The settings, the log being set up: a command prints its answer, so only warnings and errors are logged."""
        level = self.settings.log_level if self.settings.log_level in {"error", "critical"} else "warning"
        log_to_stderr(self.settings, level)
        return self.settings

    def runnable(self, text: str) -> str:
        from app.infrastructure.invocation import runnable  # noqa: PLC0415

        return runnable(text)

    def address(self, path: str) -> str:
        return f"{self.settings.origin}{path}"

    def read_source(self, path: Path, *, largest: int) -> bytes:
        from app.bootstrap.sources import read_source  # noqa: PLC0415

        return read_source(path, largest=largest)

    @asynccontextmanager
    async def legacy_database(self, url: str) -> AsyncIterator[LegacyDatabase]:
        from app.infrastructure.database.legacy import legacy_database  # noqa: PLC0415

        async with legacy_database(url) as database:
            yield database

    @property
    def rotation_days(self) -> int:
        return self.settings.key_rotation_days

    @asynccontextmanager
    async def keys(self) -> AsyncIterator[KeyManagementService]:
        from app.bootstrap.keys import open_keys  # noqa: PLC0415

        async with open_keys(self._settings_of_a_command(), may_create=False) as opened:
            yield opened.keys

    @asynccontextmanager
    async def unverified_keys(self) -> AsyncIterator[KeyManagementService]:
        from app.bootstrap.commands import open_unverified_keys  # noqa: PLC0415

        async with open_unverified_keys(self._settings_of_a_command()) as keys:
            yield keys

    @asynccontextmanager
    async def services(self, *, importing: KeyName | None = None) -> AsyncIterator[Services]:
        from app.bootstrap.keys import open_keys  # noqa: PLC0415
        from app.bootstrap.services import open_services  # noqa: PLC0415

        settings = self._settings_of_a_command()
        async with (
            open_keys(settings, may_create=False, importing=importing) as opened,
            open_services(settings, opened, kind="cli") as services,
        ):
            yield services

    async def schema(self, *, upgrade: bool = False, check: bool = False) -> SchemaState:
        from app.bootstrap.commands import schema_state  # noqa: PLC0415

        return await schema_state(self._settings_of_a_command(), upgrade=upgrade, check=check)

    def key_from_settings(self, name: KeyName) -> SecretText | None:
        return self.settings.outside_keys.get(name.value)

    def new_key(self) -> str:
        from app.bootstrap.commands import new_key  # noqa: PLC0415

        return new_key()

    def new_master_key(self) -> str:
        from app.bootstrap.commands import new_master_key  # noqa: PLC0415

        return new_master_key()

    def write_master_key(self) -> Path:
        from app.bootstrap.commands import write_master_key  # noqa: PLC0415

        return write_master_key(self.settings)

    async def master_key_page(self) -> str:
        from app.bootstrap.commands import master_key_page  # noqa: PLC0415

        return await master_key_page(self._settings_of_a_command())

    def write_private_file(self, path: Path, content: str, *, replace: bool) -> None:
        from app.infrastructure.private_files import write  # noqa: PLC0415

        write(path, content, replace=replace)

    def private_file(self, path: Path, *, replace: bool) -> AbstractContextManager[BinaryIO]:
        from app.infrastructure.private_files import writing  # noqa: PLC0415

        return writing(path, replace=replace)

    @asynccontextmanager
    async def audit(self) -> AsyncIterator[AuditReading]:
        from app.bootstrap.commands import open_audit  # noqa: PLC0415

        async with open_audit(self._settings_of_a_command()) as audit:
            yield audit

    @asynccontextmanager
    async def master_key_change(self) -> AsyncIterator[MasterKeyChange]:
        from app.bootstrap.commands import open_master_key_change  # noqa: PLC0415

        async with open_master_key_change(self._settings_of_a_command()) as change:
            yield change

    @asynccontextmanager
    async def environment_move(self, target: Environment) -> AsyncIterator[EnvironmentMove]:
        from app.bootstrap.environments import open_environment_move  # noqa: PLC0415

        async with open_environment_move(self._settings_of_a_command(), target) as move:
            yield move

    def demands_on_settings(self, target: Environment, *, rewrapped: bool) -> Sequence[str]:
        from app.bootstrap.environments import demands_on_settings  # noqa: PLC0415

        return demands_on_settings(self.settings, target, rewrapped=rewrapped)

    @asynccontextmanager
    async def key_reset(self) -> AsyncIterator[KeyReset]:
        from app.bootstrap.commands import open_key_reset  # noqa: PLC0415

        async with open_key_reset(self._settings_of_a_command()) as reset:
            yield reset

    async def restore_master_key(self, given: SecretText, *, write: bool) -> RestoredMasterKey:
        from app.bootstrap.commands import restore_master_key  # noqa: PLC0415

        return await restore_master_key(self._settings_of_a_command(), given, write=write)

    @asynccontextmanager
    async def backup_creation(self) -> AsyncIterator[BackupCreation]:
        from app.bootstrap.backup import open_backup_creation  # noqa: PLC0415

        async with open_backup_creation(self._settings_of_a_command()) as creation:
            yield creation

    async def diagnose(self) -> Diagnosis:
        from app.bootstrap.doctor import diagnose  # noqa: PLC0415

        def load() -> Settings:
            log_to_stderr(self.settings, "critical")  # the checks say it
            return self.settings

        return await diagnose(load)

    def backup_verification(self) -> BackupVerification:
        from app.bootstrap.backup import backup_verification  # noqa: PLC0415

        return backup_verification(self._settings_of_a_command())

    def backup_keys(self) -> OpenWith:
        from app.bootstrap.backup import backup_keys  # noqa: PLC0415

        return backup_keys(self._settings_of_a_command())

    @asynccontextmanager
    async def backup_restore(self, into: str | None) -> AsyncIterator[BackupRestore]:
        from app.bootstrap.restore import open_backup_restore  # noqa: PLC0415

        async with open_backup_restore(self._settings_of_a_command(), into) as restore:
            yield restore
