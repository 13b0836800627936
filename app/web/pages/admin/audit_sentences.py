"""Rows of the audit trail as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from gettext import NullTranslations
from types import MappingProxyType
from typing import Final

from app.domain.audit import Action, AuditItem, Result
from app.domain.identity import Source
from app.localisation import mark

RESULTS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        Result.OK.value: (mark("done"), "valid"),
        Result.DENIED.value: (mark("denied"), "refused"),
        Result.FAILED.value: (mark("failed"), "refused"),
        Result.INTENT.value: (mark("intended"), "unchecked"),
    }
)
"""How it ended: the word and the shape of each."""

_DONE: Final[Mapping[str, str]] = MappingProxyType(
    {
        Action.INSTALL_CREATED: mark("%(who)s created this install."),
        Action.KEY_ADOPTED: mark("%(who)s took over a key from the settings."),
        Action.KEYS_LOADED: mark("%(who)s loaded the application keys."),
        Action.MASTER_KEY_PRINTED: mark("%(who)s printed the master key."),
        Action.KEY_ROTATION_REQUESTED: mark("%(who)s asked for the rotation of a key."),
        Action.KEY_ROTATION_CANCELLED: mark("%(who)s cancelled the rotation of a key."),
        Action.KEY_ANNOUNCED: mark("%(who)s announced a new version of a key."),
        Action.KEY_IMPORTED: mark("%(who)s imported a version of a key."),
        Action.KEY_PROMOTED: mark("%(who)s made a version of a key the primary."),
        Action.KEY_RETIRED: mark("%(who)s retired a version of a key."),
        Action.KEY_REVOKED: mark("%(who)s revoked a version of a key."),
        Action.KEY_DESTROYED: mark("%(who)s destroyed a version of a key."),
        Action.KEY_SCHEDULED: mark("%(who)s changed the schedule of a key."),
        Action.ENVIRONMENT_CHANGED: mark("%(who)s moved this install to another environment."),
        Action.CACHES_CLEARED: mark("%(who)s had the caches cleared."),
        Action.MASTER_KEY_CHANGED: mark("%(who)s changed the master key."),
        Action.KEYS_RESET: mark("%(who)s reset the application keys."),
        Action.OWNER_CREATED: mark("%(who)s became the first owner."),
        Action.USER_CREATED: mark("%(who)s made an account."),
        Action.USER_LINK_ISSUED: mark("%(who)s made a one-time link for an account."),
        Action.USER_CLAIMED: mark("%(who)s claimed an account by its link."),
        Action.PASSWORD_RESET: mark("%(who)s chose another password by a link."),
        Action.PASSWORD_CHANGED: mark("%(who)s changed a password."),
        Action.PASSWORD_SET: mark("%(who)s set the password of an account."),
        Action.PREFERENCES_CHANGED: mark("%(who)s changed the language or the time zone of an account."),
        Action.USER_LINKED: mark("%(who)s linked a Discord account."),
        Action.USER_UNLINKED: mark("%(who)s unlinked a Discord account."),
        Action.USER_UNLOCKED: mark("%(who)s let a user try again after wrong passwords."),
        Action.USER_ROLE_CHANGED: mark("%(who)s gave a user another role."),
        Action.USER_DISABLED: mark("%(who)s disabled an account."),
        Action.USER_ENABLED: mark("%(who)s enabled an account."),
        Action.USER_RESET: mark("%(who)s reset an account."),
        Action.INVITATION_ISSUED: mark("%(who)s made an invitation."),
        Action.INVITATION_WITHDRAWN: mark("%(who)s withdrew an invitation."),
        Action.USER_EXPORTED: mark("%(who)s exported the data of a user."),
        Action.USER_ERASED: mark("%(who)s erased an account."),
        Action.LOGIN: mark("%(who)s signed in."),
        Action.REFRESH_REUSED: mark("%(who)s presented a refresh token a second time."),
        Action.REAUTHENTICATED: mark("%(who)s proved again who they are."),
        Action.LOGOUT: mark("%(who)s signed out."),
        Action.SESSION_REVOKED: mark("%(who)s ended a session."),
        Action.PASSKEY_ADDED: mark("%(who)s added a passkey."),
        Action.PASSKEY_REMOVED: mark("%(who)s removed a passkey."),
        Action.PASSKEY_USED: mark("%(who)s used a passkey."),
        Action.FACTOR_STARTED: mark("%(who)s began to add a second factor."),
        Action.FACTOR_CONFIRMED: mark("%(who)s added a second factor."),
        Action.FACTOR_REMOVED: mark("%(who)s removed a second factor."),
        Action.FACTOR_PROVEN: mark("%(who)s proved a second factor."),
        Action.RECOVERY_CODES_MADE: mark("%(who)s made new recovery codes."),
        Action.RECOVERY_CODE_USED: mark("%(who)s used a recovery code."),
        Action.TOKEN_CREATED: mark("%(who)s made an API token."),
        Action.TOKEN_REVOKED: mark("%(who)s revoked an API token."),
        Action.CREDENTIAL_READ: mark("%(who)s read a credential."),
        Action.CREDENTIAL_ADDED: mark("%(who)s stored a credential."),
        Action.CREDENTIAL_CHANGED: mark("%(who)s changed a credential."),
        Action.CREDENTIAL_REPLACED: mark("%(who)s replaced the secret of a credential."),
        Action.CREDENTIAL_ROLLED_BACK: mark("%(who)s put back a former secret of a credential."),
        Action.CREDENTIAL_REMOVED: mark("%(who)s removed a credential."),
        Action.CREDENTIAL_RESTORED: mark("%(who)s restored a credential."),
        Action.CREDENTIAL_PURGED: mark("%(who)s deleted a credential for good."),
        Action.CREDENTIAL_REVEALED: mark("%(who)s revealed the secret of a credential."),
        Action.CREDENTIAL_USED: mark("%(who)s used a credential."),
        Action.CREDENTIAL_UNREADABLE: mark("%(who)s found that a credential cannot be read."),
        Action.BACKUP_REQUESTED: mark("%(who)s asked for a backup."),
        Action.BACKUP_CREATED: mark("%(who)s made a backup."),
        Action.BACKUP_RESTORED: mark("%(who)s restored a backup."),
        Action.BACKUP_REHEARSED: mark("%(who)s rehearsed restoring a backup."),
        Action.BACKUP_DELETED: mark("%(who)s deleted a backup."),
        Action.ACCESS_REFUSED: mark("%(who)s asked for something that they may not have."),
        Action.MESSAGE_ENCRYPTED: mark("%(who)s encrypted a message."),
        Action.MESSAGE_OPENED: mark("%(who)s opened a message."),
    }
)
_OTHERWISE: Final[Mapping[str, str]] = MappingProxyType(
    {
        Result.DENIED.value: mark("%(who)s was refused: %(action)s."),
        Result.FAILED.value: mark("%(who)s did not succeed: %(action)s."),
        Result.INTENT.value: mark("%(who)s was about to begin: %(action)s."),
    }
)
_SOMEBODY: Final = mark("Somebody who was not signed in")
_NOBODY: Final[Mapping[str, str]] = MappingProxyType(
    {
        Source.CLI.value: mark("The operator at the command line"),
        Source.SYSTEM.value: mark("Keyhall itself"),
    }
)


def sentence(item: AuditItem, say: NullTranslations) -> str:
    """Who did what, in the reader's language; an action that an edited row made up is named as it stands there."""
    who = item.actor or say.gettext(_NOBODY.get(item.source, _SOMEBODY))
    done = _DONE.get(item.action)
    if item.action != Action.ACCESS_REFUSED and item.result in _OTHERWISE:
        text = _OTHERWISE[item.result]
    else:
        text = done or mark("%(who)s did this: %(action)s.")
    return say.gettext(text) % {"who": who, "action": item.action}
