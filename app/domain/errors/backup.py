"""A backup that cannot be written or read: each error says what happened and what to do."""

from __future__ import annotations

from app.domain.errors.root import KeyhallError


class BackupError(KeyhallError):
    """The root of them; the message holds the remedy."""


class NotABackup(BackupError):
    """The file is no age file, or what it holds was not written by Keyhall."""


class BackupLocked(BackupError):
    """The identity or the passphrase given does not open the file, or none was given."""


class BackupDamaged(BackupError):
    """The file was cut, changed or put together of parts; nothing in it may be used."""


class BackupNewer(BackupError):
    """A newer version of Keyhall wrote it, in a way that this one cannot read."""


class BackupNotWritten(BackupError):
    """No backup was made: the place for it is taken, full, read-only or not there. Nothing half-written stayed."""


class BackupUnreadable(BackupError):
    """Credentials in the backup do not open with the keys in it; the message names some of them."""
