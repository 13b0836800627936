"""Events of the audit trail: actor, time, action, source and result. Never a secret, nor part of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from app.domain.identity import Source


class Action(StrEnum):
    """Every action that leaves a row."""

    INSTALL_CREATED = "install.created"
    KEY_ADOPTED = "key.adopted"
    KEYS_LOADED = "keys.loaded"
    MASTER_KEY_PRINTED = "master_key.printed"
    KEY_ROTATION_REQUESTED = "key.rotation_requested"
    KEY_ROTATION_CANCELLED = "key.rotation_cancelled"
    KEY_ANNOUNCED = "key.announced"
    KEY_IMPORTED = "key.imported"
    KEY_PROMOTED = "key.promoted"
    KEY_RETIRED = "key.retired"
    KEY_REVOKED = "key.revoked"
    KEY_DESTROYED = "key.destroyed"
    KEY_SCHEDULED = "key.scheduled"
    ENVIRONMENT_CHANGED = "install.environment_changed"
    CACHES_CLEARED = "caches.cleared"
    MASTER_KEY_CHANGED = "master_key.changed"
    KEYS_RESET = "keys.reset"
    OWNER_CREATED = "owner.created"
    USER_CREATED = "user.created"
    USER_LINK_ISSUED = "user.link_issued"
    USER_CLAIMED = "user.claimed"
    PASSWORD_RESET = "user.password_reset"  # noqa: S105 - the name of an action
    PASSWORD_CHANGED = "user.password_changed"  # noqa: S105
    PASSWORD_SET = "user.password_set"  # noqa: S105
    PREFERENCES_CHANGED = "user.preferences_changed"
    USER_LINKED = "user.linked"
    USER_UNLINKED = "user.unlinked"
    USER_UNLOCKED = "user.unlocked"
    USER_ROLE_CHANGED = "user.role_changed"
    USER_DISABLED = "user.disabled"
    USER_ENABLED = "user.enabled"
    USER_RESET = "user.reset"
    INVITATION_ISSUED = "invitation.issued"
    INVITATION_WITHDRAWN = "invitation.withdrawn"
    USER_EXPORTED = "user.exported"
    USER_ERASED = "user.erased"
    LOGIN = "auth.login"
    REFRESH_REUSED = "auth.refresh_reused"
    REAUTHENTICATED = "auth.reauthenticated"
    LOGOUT = "auth.logout"
    SESSION_REVOKED = "auth.session_revoked"
    PASSKEY_ADDED = "passkey.added"
    PASSKEY_REMOVED = "passkey.removed"
    PASSKEY_USED = "passkey.used"
    FACTOR_STARTED = "factor.started"
    FACTOR_CONFIRMED = "factor.confirmed"
    FACTOR_REMOVED = "factor.removed"
    FACTOR_PROVEN = "factor.proven"
    RECOVERY_CODES_MADE = "factor.recovery_codes_made"
    RECOVERY_CODE_USED = "factor.recovery_code_used"
    TOKEN_CREATED = "token.created"  # noqa: S105 - the name of an action
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - the name of an action
    CREDENTIAL_READ = "credential.read"  # only when it was refused
    CREDENTIAL_ADDED = "credential.added"
    CREDENTIAL_CHANGED = "credential.changed"
    CREDENTIAL_REPLACED = "credential.replaced"
    CREDENTIAL_ROLLED_BACK = "credential.rolled_back"
    CREDENTIAL_REMOVED = "credential.removed"
    CREDENTIAL_RESTORED = "credential.restored"
    CREDENTIAL_PURGED = "credential.purged"
    CREDENTIAL_REVEALED = "credential.revealed"
    CREDENTIAL_USED = "credential.used"
    CREDENTIAL_UNREADABLE = "credential.unreadable"
    BACKUP_REQUESTED = "backup.requested"
    BACKUP_CREATED = "backup.created"
    BACKUP_RESTORED = "backup.restored"
    BACKUP_REHEARSED = "backup.rehearsed"
    BACKUP_DELETED = "backup.deleted"
    ACCESS_REFUSED = "access.refused"
    MESSAGE_ENCRYPTED = "message.encrypted"
    MESSAGE_OPENED = "message.opened"


class Result(StrEnum):
    """How it ended. ``intent`` is written before the act, where the act cannot be taken back."""

    OK = "ok"
    DENIED = "denied"
    FAILED = "failed"
    INTENT = "intent"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One row. ``subject_id`` is random and stands for a person; names and addresses live in `subjects`."""

    at: datetime
    action: Action
    result: Result
    source: Source
    subject_id: str | None
    address: str | None = None
    object_kind: str | None = None
    object_id: str | None = None
    detail: Mapping[str, str | int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def times(self) -> int:
        """How many events the row stands for: refusals of one kind may stand in one row as a sum."""
        return int(self.detail.get("times", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """The rows that somebody wants to see; None leaves a question open.

    ``subject_id`` stands for the person whose acts are wanted; ``action`` is one action or, as the part before its dot,
    all of a family. ``since`` is included, ``until`` is not.
    """

    subject_id: str | None = None
    action: str | None = None
    about: tuple[str, str] | None = None
    result: Result | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditItem:
    """A row as people read it. ``actor`` is a person's name, None where it was the operator or Keyhall itself (see
    ``source``) or somebody who was not signed in. ``about`` is kind and id of an object, joined by a colon.

    ``at`` is None and ``detail`` empty where an edited row holds something else in their place.
    """

    id: str
    at: datetime | None
    actor: str | None
    action: str
    about: str | None
    result: str
    source: str
    detail: Mapping[str, Any]

    def as_members(self) -> dict[str, Any]:
        """The row as every edge shows it, in this order."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalUse:
    """How often somebody used a credential; ``name`` is None for the operator and for Keyhall itself."""

    name: str | None
    uses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageHour:
    """How often a credential was used in an hour; "" where a row named no subject or no object."""

    hour: datetime
    object_kind: str
    object_id: str
    subject_id: str
    source: str
    result: str
    uses: int
