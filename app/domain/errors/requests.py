"""A request that cannot be answered as asked: each error has a code (docs/api.md, "Errors")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from app.domain.errors.root import KeyhallError
from app.domain.secrets import SecretText


class AppError(KeyhallError):
    """One request fails; the process goes on. ``code`` is what clients program against.

    ``recorded``: the service that refused it has recorded that in the audit trail.
    """

    code: ClassVar[str]
    title: ClassVar[str]
    recorded: bool = False

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title

    def as_recorded(self) -> Self:
        """Return this error, marked so that no edge records the refusal again."""
        self.recorded = True
        return self


class InvalidInput(AppError):
    """A value of the request is not acceptable; ``field`` names it, and the value is never repeated."""

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
    """The account has a second factor and none was given.

    ``pending`` lets a browser give the code without the password again.
    """

    code = "otp_required"
    title = "A one-time code is required"

    def __init__(self, pending: SecretText | None = None) -> None:
        super().__init__("Enter a code of your authenticator app, or a recovery code")
        self.pending = pending


class SecondFactorUnreadable(AppError):
    """The stored secret of a second factor does not open. It still counts: nobody gets in without it."""

    code = "second_factor_unreadable"
    title = "The second factor of this account cannot be read"

    def __init__(self) -> None:
        super().__init__(
            "The second factor of this account cannot be read: use a recovery code, or ask an admin to reset the "
            "account"
        )


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


class MissingScope(Forbidden):
    """An API token lacks the ``scope`` for this; None where no scope is enough."""

    title = "This API token may not do this"

    def __init__(self, scope: str | None = None) -> None:
        super().__init__(
            "No scope of an API token allows this: sign in with a session"
            if scope is None
            else f"This API token lacks the scope {scope}"
        )
        self.scope = scope


class InvitationRequired(Forbidden):
    """Somebody without an account, where the operator makes the accounts."""

    title = "Ask the owner for an account first"


class MembershipRequired(Forbidden):
    """Somebody who is in no server that the bot serves, where its members may register."""

    title = "Only members of this bot's servers can use it"


class TicketRefused(Forbidden):
    """Somebody came from Discord with a browser that was not sent there, or not lately, or that was here already."""

    title = "This was begun in another browser, took longer than ten minutes, or is done already: begin again"


class LinkCodeRefused(Forbidden):
    """A code for linking accounts that was never made, was used or has expired: one answer for all three."""

    title = "This code was used, has expired or never was: make another one on your account page"


class DiscordDeclined(Forbidden):
    """Somebody came from Discord without having agreed there."""

    title = "You did not agree at Discord, so nothing was changed"


class NotFound(AppError):
    """It does not exist, or not for this actor: the answer is the same for both."""

    code = "not_found"
    title = "There is nothing here"


class AlreadyExists(AppError):
    """A name that must be unique is taken."""

    code = "already_exists"
    title = "It exists already"


class PasskeyRefused(AppError):
    """The answer of an authenticator is malformed, too late, or not for this account and origin."""

    code = "passkey_refused"
    title = "This passkey cannot be added"


class LastOwner(AppError):
    """The only owner who can sign in would be one no more."""

    code = "last_owner"
    title = "Somebody else must be an owner first"

    def __init__(self) -> None:
        super().__init__("This is the only owner who can sign in: give somebody else the role of owner first")


class LinkConflict(AlreadyExists):
    """The account, or the Discord account, is linked already, or linking them would lose something."""

    title = "This Discord account is linked to another user: unlink it first"


class SetupClosed(AppError):
    """An owner exists or existed."""

    code = "setup_closed"
    title = "There is an owner already"


class NoOtherWayIn(AppError):
    """Without this the user could not sign in to the account any more."""

    code = "no_other_way_in"
    title = "Without this you could not sign in any more: set a password first"


class VersionConflict(AppError):
    """Somebody else changed it in the meantime; read it again."""

    code = "version_conflict"
    title = "It was changed in the meantime"


class PasswordChanged(AppError):
    """Another request changed the password, or ended all sessions of the account, before this one could."""

    code = "password_changed"
    title = "The account was changed by another request meanwhile, so its password was not: sign in again to go on"


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


class SecretsNotRead(AppError):
    """The place outside that holds the secrets did not give them: the present ones stay in use."""

    code = "secrets_unavailable"
    title = "The secrets cannot be read right now; the present ones stay in use"


class DiscordUnavailable(AppError):
    """Discord did not answer in time, or not as it is documented."""

    code = "discord_unavailable"
    title = "Discord does not answer right now; try again in a minute"


class NotConfigured(AppError):
    """The operator has to set something first; ``detail`` names the setting."""

    code = "not_configured"
    title = "This needs a setting that is not set"


class Overloaded(AppError):
    """More work waits than can be done in time."""

    code = "overloaded"
    title = "Too busy right now"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFault:
    """Why a database did not do what was asked, for the operator (app/infrastructure/database/faults.py).

    ``happened`` continues "the database NAME …". ``remedy`` may hold the placeholders {role}, {database}, {about} and
    {file}. ``about`` is the object that the database names, such as a schema.
    """

    code: str
    happened: str
    remedy: str
    heals: bool = True
    """Whether waiting may help: a server that restarts, a lock that somebody holds."""
    damaged: bool = False
    about: str = ""


class RequestExpired(AppError):
    """Its time was over, or its client gone, before anything of it took effect."""

    code = "request_expired"
    title = "This took too long, so it was not carried out: try again"


class StorageError(AppError):
    """The database did not answer: never to be read as 'nothing there'."""

    code = "storage_unavailable"
    title = "The database does not answer"
    fault: DatabaseFault | None = None
    """The cause that the driver gave. Clients see the title alone."""


class OutcomeUnknown(StorageError):
    """COMMIT was sent and its answer was lost: the change took effect or it did not. Never to be repeated blindly."""

    code = "outcome_unknown"
    title = "It is not known whether this took effect"

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            detail
            or "The database was lost while this was being stored, so it may have taken effect or not: look at it "
            "again, and repeat only missing changes"
        )


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
