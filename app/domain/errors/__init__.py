"""Every failure Keyhall knows by name.

Two families leave the house: a ``StartupError`` halts a start and carries a slug, an exit code and a remedy; an
``AppError`` answers one request and carries a code. HTTP statuses, Discord answers and log lines are derived from
these in one place per edge, never here.
"""

from __future__ import annotations

from typing import ClassVar


class KeyhallError(Exception):
    """The root of everything that Keyhall raises on purpose. Messages never hold key material."""


# ---------------------------------------------------------------------------------------------------------------------
# A start that cannot go on
# ---------------------------------------------------------------------------------------------------------------------


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
    """Not reachable within the retry budget, or read-only."""

    slug = "database_unavailable"
    exit_code = 69


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


class NoInstall(KeyhallError):
    """A command needs an install and there is none; only `run`, `web` and `bot` create one."""

    def __init__(self, message: str = "there is no install yet: start `keyhall run` once, it makes one") -> None:
        super().__init__(message)


# ---------------------------------------------------------------------------------------------------------------------
# A request that cannot be answered as asked
# ---------------------------------------------------------------------------------------------------------------------


class AppError(KeyhallError):
    """One request fails; the process goes on. ``code`` is what clients program against."""

    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title


class InvalidInput(AppError):
    """What was sent is not acceptable; ``field`` names where, the value is never repeated."""

    code = "invalid_input"
    title = "The input is not acceptable"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class InvalidCredentials(AppError):
    """Unknown user, wrong password or disabled account: one answer for all three."""

    code = "invalid_credentials"
    title = "The username or password is wrong"


class OtpRequired(AppError):
    """The account has a second factor and none was given."""

    code = "otp_required"
    title = "A one-time code is required"


class InvalidToken(AppError):
    """A token that is forged, expired, revoked, malformed or absent."""

    code = "invalid_token"
    title = "Sign in to continue"


class ReauthenticationRequired(AppError):
    """Nothing proved who is at the keyboard within the last ten minutes."""

    code = "reauthentication_required"
    title = "Confirm your password to continue"


class TooManyAttempts(AppError):
    """A limit was reached; ``retry_after`` is in whole seconds."""

    code = "too_many_attempts"
    title = "Too many attempts"

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Try again in {retry_after} seconds")
        self.retry_after = retry_after


class Forbidden(AppError):
    """The actor is known and may not do this."""

    code = "forbidden"
    title = "You may not do this"


class NotFound(AppError):
    """It does not exist, or not for this actor: the two are never told apart."""

    code = "not_found"
    title = "There is nothing here"


class AlreadyExists(AppError):
    """A name that must be unique is taken."""

    code = "already_exists"
    title = "It exists already"


class SetupClosed(AppError):
    """An owner exists or existed, or the setup token is wrong."""

    code = "setup_closed"
    title = "There is an owner already"


class VersionConflict(AppError):
    """Somebody else changed it in the meantime; read it again."""

    code = "version_conflict"
    title = "It was changed in the meantime"


class KeyStateConflict(AppError):
    """A key, or one of its versions, is not in a state in which this can be done to it."""

    code = "key_state_conflict"
    title = "This key is not in a state for that"


class IdempotencyConflict(AppError):
    """The same Idempotency-Key came with another request."""

    code = "idempotency_conflict"
    title = "This Idempotency-Key was used for another request"


class QuotaExceeded(AppError):
    """An owner holds as many credentials as are allowed."""

    code = "quota_exceeded"
    title = "The quota is used up"


class CredentialUnreadable(AppError):
    """The stored bytes do not open; nothing is guessed and nothing else is affected."""

    code = "credential_unreadable"
    title = "This credential cannot be read: enter it again"


class NoCredential(AppError):
    """Nobody stored a credential that would serve this use."""

    code = "no_credential"
    title = "No stored credential serves this"


class CannotOpen(AppError):
    """A token of `/encrypt` that was made for somebody else, was changed, or is no token."""

    code = "cannot_open"
    title = "This token cannot be opened here"


class NotReady(AppError):
    """This process could not confirm its keys lately and serves nothing until it has."""

    code = "not_ready"
    title = "Keyhall is not ready; try again in a few seconds"


class Overloaded(AppError):
    """More work waits than can be done in time."""

    code = "overloaded"
    title = "Too busy right now"


class StorageError(AppError):
    """The database did not answer: never to be read as 'nothing there'."""

    code = "storage_unavailable"
    title = "The database does not answer"


class StorageBusy(StorageError):
    """The database is locked by somebody else."""

    code = "storage_busy"
    title = "The database is busy"


class StorageReadOnly(StorageError):
    """The database refuses writes."""

    code = "storage_read_only"
    title = "The database is read-only"


class StorageFull(StorageError):
    """No space is left for a write; reads go on."""

    code = "storage_full"
    title = "The database has no space left"


class UniqueViolation(KeyhallError):
    """A repository was asked to insert what exists already; services turn it into an answer."""


class CryptoError(KeyhallError):
    """Ciphertext that does not open: one type for every cause, so that no cause can be probed."""
