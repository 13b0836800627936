"""Ports for application keys and the master key that wraps them (docs/keys.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from app.domain.keys import KeyName, KeySchedule
from app.domain.secrets import SecretBytes, SecretText
from app.domain.stored_secret import SecretPlace, StoredSecret

# ---------------------------------------------------------------------------------------------------------------------
# Cryptography
# ---------------------------------------------------------------------------------------------------------------------


class KeyWrapping(Protocol):
    """One master key (KEK), already split into its sub-keys."""

    @property
    def master_key_id(self) -> str:
        """16 hex digits that identify this master key and reveal nothing of it."""
        ...

    def wrap(self, material: SecretBytes, *, install_id: str, name: KeyName, version: int) -> bytes:
        """Encrypt with AES-256-GCM under a sub-key; the AAD binds install, name and version."""
        ...

    def unwrap(self, wrapped: bytes, *, install_id: str, name: KeyName, version: int) -> SecretBytes:
        """Return the material. Raises CryptoError unless it was wrapped for exactly this install, name and version."""
        ...

    def row_mac(self, row: str, install_id: str, value: bytes) -> bytes:
        """Return the HMAC-SHA256 over row name, install id and value, each length-prefixed."""
        ...

    def canary(self, install_id: str) -> bytes:
        """Return 32 bytes that only this master key can have made for this install."""
        ...

    def opens_canary(self, canary: bytes, install_id: str) -> bool:
        """Whether this master key made that canary for this install."""
        ...

    def setup_token(self, install_id: str) -> SecretText:
        """Return the token that claims the first owner: the same in every process of an install."""
        ...


class KeyDerivation(Protocol):
    """Values derived from application keys; one label, one use."""

    def fingerprint(self, name: KeyName, material: SecretBytes) -> str:
        """Return 16 hex digits that identify a version of an application key."""
        ...

    def mac(self, material: SecretBytes, label: str, *parts: bytes) -> bytes:
        """Return the HMAC-SHA256 of the length-prefixed parts under the sub-key for ``label``: 32 bytes."""
        ...

    def chain(
        self, material: SecretBytes, label: str, previous: bytes, links: Sequence[Sequence[bytes]]
    ) -> Sequence[bytes]:
        """Return for each link the ``mac`` of the one before it, first ``previous``, and of its own parts."""
        ...


# ---------------------------------------------------------------------------------------------------------------------
# Outside the database
# ---------------------------------------------------------------------------------------------------------------------


class MasterKeySource(Protocol):
    """Where the master key comes from (docs/keys.md)."""

    def given(self) -> Sequence[SecretBytes]:
        """Return the current and, during a change, the previous master key; empty when none is given.

        Raises InsecureKey for a key, or the mode of a key file, that must not be used; ConfigInvalid for a file that
        cannot be read, a key given twice, or a previous key without a current one.
        """
        ...

    def create(self) -> SecretBytes:
        """Make the default key file, durably, or read it where another process was faster.

        Raises ConfigInvalid where it cannot be written, and as ``given`` does.
        """
        ...


class ChangeableMasterKey(MasterKeySource, Protocol):
    """A source whose default file Keyhall itself may change. Raises ConfigInvalid, InsecureKey, as ``given`` does."""

    @property
    def default_file(self) -> Path:
        """The file in which ``create`` and a change put the key."""
        ...

    @property
    def place(self) -> SecretPlace | None:
        """The secret outside that the current key comes from; None where it comes from elsewhere."""
        ...

    @property
    def previous_file(self) -> Path:
        """The file that holds the old key while the default file is being changed."""
        ...

    @property
    def in_default_file(self) -> bool:
        """Whether the current key comes from the default file and not from the settings."""
        ...

    def begin_change(self) -> SecretBytes:
        """Put a fresh key into the default file, the old one beside it, and return the fresh key.

        Where a change was begun and not finished, return its key and change nothing: the caller rewraps the database
        under it, then calls ``finish_change``.
        """
        ...

    def finish_change(self, current: SecretBytes) -> None:
        """Delete the previous key; the database is durably under ``current``.

        Does nothing where ``current`` is not the current key any more: another change has begun and needs its own
        previous key.
        """
        ...

    def start_over(self, at: datetime) -> tuple[SecretBytes, Sequence[Path]]:
        """Put a fresh key into the default file, for an install whose own is lost.

        The files that were there are moved aside, never deleted; their new paths are returned with the key.
        """
        ...


class RenewableMasterKey(ChangeableMasterKey, Protocol):
    """A source that follows the secret outside."""

    def renew(self, stored: StoredSecret) -> None:
        """Give the master key of a newer version; those that were given before stay, behind it.

        Does nothing where the master key does not come from the secret. Raises InsecureKey, and then nothing changes.
        """
        ...


class SecretsBackend(Protocol):
    """The place outside that holds the settings that are secret."""

    async def fetch(self) -> StoredSecret:
        """Read the secret, off the event loop and within a deadline.

        Raises SecretsUnavailable where it is denied, late, broken or partial; ConfigInvalid for a value given twice.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberedInstall:
    """The content of DATA_DIR/install.json."""

    install_id: str
    epochs: Mapping[str, int]


class InstallRecord(Protocol):
    """DATA_DIR/install.json: outside the database, so that a lost or older database is noticed."""

    def read(self) -> RememberedInstall | None:
        """Return the content, or None where there is no file.

        Raises InstallMismatch if the file is damaged, ConfigInvalid if it may not be read.
        """
        ...

    def remember(self, install_id: str, epochs: Mapping[str, int]) -> None:
        """Write the file atomically; an epoch never goes down.

        Raises InstallMismatch if the file is damaged or names another install, ConfigInvalid if it cannot be written.
        """
        ...

    def prove(self) -> None:
        """Check that the file could be written, before anything depends on it. Raises ConfigInvalid."""
        ...


# ---------------------------------------------------------------------------------------------------------------------
# Repositories
# ---------------------------------------------------------------------------------------------------------------------


class KeyRepository(Protocol):
    """The only reader and writer of `app_config`. Values are canonical JSON text, verified by the service."""

    async def exists(self) -> bool:
        """Whether the table is there (it is not before the first migration)."""
        ...

    async def lock(self) -> None:
        """Exclude every other process that creates or changes keys until the unit of work ends."""
        ...

    async def get_manifest(self, *, share_lock: bool = False) -> str | None:
        """Return the manifest row; with ``share_lock`` nobody can change it until the unit of work ends.

        Raises KeyDamaged where it is there twice.
        """
        ...

    async def get_keyset(self, name: KeyName) -> str | None:
        """Return the row `keyset/<NAME>`, or None. Raises KeyDamaged where it is there twice."""
        ...

    async def get_jwt_secret_key(self) -> str | None:
        """Return the row of the keyset that signs access tokens, or None."""
        ...

    async def get_aes_key(self) -> str | None:
        """Return the row of the keyset that encrypts credentials at rest, or None."""
        ...

    async def get_encryption_key(self) -> str | None:
        """Return the row of the keyset that encrypts the tokens of `/encrypt`, or None."""
        ...

    async def get_api_secret_key(self) -> str | None:
        """Return the row of the keyset that makes hashes of API tokens and fingerprints, or None."""
        ...

    async def keyset_names(self) -> frozenset[str]:
        """Return the names of all `keyset/…` rows, also of keysets that this version does not have."""
        ...

    async def guarded_rows(self) -> int:
        """Count users and credentials: with any of them no key may be generated. A missing table counts as empty."""
        ...

    async def put(self, row: str, value: str, at: datetime) -> None:
        """Insert or replace a row: `manifest` or `keyset/<NAME>`."""
        ...

    async def rows(self) -> Mapping[str, str]:
        """Return every row unchecked, also rows that cannot be read as keys."""
        ...

    async def duplicates(self) -> Sequence[str]:
        """Return the names of rows that are there more than once, as after a restore without the primary key."""
        ...

    async def clear(self) -> None:
        """Delete every row; the caller writes replacements in the same unit of work."""
        ...


class KeyScheduleRepository(Protocol):
    """Rotation schedules that differ from KEY_ROTATION_DAYS."""

    async def all(self) -> Mapping[str, KeySchedule]:
        """Return the schedules by key name; a key without a row follows the settings."""
        ...

    async def put(self, schedule: KeySchedule, at: datetime) -> None:
        """Insert or replace the schedule of its key."""
        ...
