"""A start that cannot go on: each error has a slug, an exit code and a remedy (docs/reference.md, "Halts")."""

from __future__ import annotations

from typing import ClassVar

from app.domain.errors.root import KeyhallError


class StartupError(KeyhallError):
    """A start halts before a port opens.

    ``exit_code`` follows sysexits.h where it has a name for the case (65 data, 69 unavailable, 70 software,
    71 operating system, 75 temporary, 77 permission, 78 configuration).
    """

    slug: ClassVar[str]
    exit_code: ClassVar[int]

    def __init__(self, happened: str, *, remedy: str) -> None:
        super().__init__(happened)
        self.happened = happened
        self.remedy = remedy

    def line(self) -> str:
        """The last line that the process prints on stderr; always a single line."""
        text = f"keyhall: halted [{self.slug}] {self.happened} — {self.remedy}"
        return " ".join(text.split())


class ConfigInvalid(StartupError):
    """A setting is missing, malformed or given twice."""

    slug = "config_invalid"
    exit_code = 78


class MasterKeyMissing(StartupError):
    """Keys exist, or the environment is production, and no master key is given."""

    slug = "master_key_missing"
    exit_code = 78


class MasterKeyMismatch(StartupError):
    """The master key given does not open this install."""

    slug = "master_key_mismatch"
    exit_code = 78


class InsecureKey(StartupError):
    """A placeholder, sample, test, short, compromised or destroyed key; or a key file open to others."""

    slug = "insecure_key"
    exit_code = 78


class InstallMismatch(StartupError):
    """The database is empty or another's, while install.json or INSTALL_ID names an install."""

    slug = "install_mismatch"
    exit_code = 65


class DatabaseEmpty(InstallMismatch):
    """The database is empty, while install.json or INSTALL_ID names an install."""


class EnvironmentMismatch(StartupError):
    """The install belongs to another APP_ENV."""

    slug = "environment_mismatch"
    exit_code = 78


class KeyMissing(StartupError):
    """A key that the manifest names is not there, or the manifest itself is not while data is."""

    slug = "key_missing"
    exit_code = 65


class KeyDamaged(StartupError):
    """A row does not unwrap, was edited, swapped, truncated, put back older, or holds a version twice."""

    slug = "key_damaged"
    exit_code = 65


class KeyConflict(StartupError):
    """A key from outside equals no version of the stored one."""

    slug = "key_conflict"
    exit_code = 65


class DatabaseUnavailable(StartupError):
    """Not reachable within the retry budget, or it refuses what waiting does not change."""

    slug = "database_unavailable"
    exit_code = 69


class DatabaseDamaged(StartupError):
    """The SQLite file is no database, or a page or an index of it is broken."""

    slug = "database_damaged"
    exit_code = 65


class SecretsUnavailable(StartupError):
    """The secrets backend denied, timed out or was partial."""

    slug = "secrets_unavailable"
    exit_code = 69


class SchemaNewer(StartupError):
    """The database demands a newer app or names an unknown revision."""

    slug = "schema_newer"
    exit_code = 70


class MigrationFailed(StartupError):
    """A migration failed; the schema is as before."""

    slug = "migration_failed"
    exit_code = 70


class AddressInUse(StartupError):
    """The web address is taken."""

    slug = "address_in_use"
    exit_code = 71


class InUse(StartupError):
    """A restore or reset while a process is live."""

    slug = "in_use"
    exit_code = 75


class BotLoginFailed(StartupError):
    """Discord refused the token."""

    slug = "bot_login_failed"
    exit_code = 77
