"""Ports for encrypted values: credentials, their history, and messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from app.domain.credential_lists import ListFilter, ListPlace, Tab, TabCounts
from app.domain.credentials import CredentialRecord, HistoryRecord, Owner, Status
from app.domain.encrypted_columns import EncryptedColumn, EncryptedRow, Reencrypted
from app.domain.identity import User
from app.domain.secrets import SecretBytes

# ---------------------------------------------------------------------------------------------------------------------
# Cryptography
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionContext:
    """The row and column that an encrypted value belongs to; it decrypts in no other."""

    install_id: str
    table: str
    row_id: str
    owner_kind: str
    owner_id: str
    field: str
    key_name: str


class Envelope(Protocol):
    """Authenticated encryption of a value at rest, bound to its context (docs/envelope.md)."""

    def encrypt(
        self, plaintext: bytes, context: EncryptionContext, *, key_version: int, material: SecretBytes
    ) -> bytes:
        """Return the envelope; salt and nonce are new with every call."""
        ...

    def key_version(self, envelope: bytes) -> int:
        """Return the key version in the header, unauthenticated. Raises CryptoError if this is no envelope."""
        ...

    def decrypt(self, envelope: bytes, context: EncryptionContext, *, material: SecretBytes) -> bytes:
        """Return the plaintext. Raises CryptoError; it does not say whether key, context or bytes are wrong."""
        ...

    def reencrypt(
        self,
        rows: Sequence[EncryptedRow],
        column: EncryptedColumn,
        *,
        install_id: str,
        materials: Mapping[int, SecretBytes],
        key_version: int,
        material: SecretBytes,
    ) -> Sequence[bytes | None]:
        """Decrypt each with the version in its header and encrypt it with this one; None for one that does not open."""
        ...

    def opened_by(
        self,
        rows: Sequence[EncryptedRow],
        column: EncryptedColumn,
        *,
        install_id: str,
        materials: Mapping[int, SecretBytes],
    ) -> Sequence[int | None]:
        """Return the version in each row's header, if that version decrypts it; else None."""
        ...


class MessageCipher(Protocol):
    """Fernet tokens, keyed per scope by HKDF(version, "fernet", scope)."""

    def encrypt(self, plaintext: bytes, scope: str, material: SecretBytes) -> str:
        """Return a Fernet token."""
        ...

    def decrypt(self, token: str, scope: str, materials: Sequence[SecretBytes]) -> bytes:
        """Return the plaintext; the materials are tried in their order. Raises CryptoError when none fits."""
        ...


# ---------------------------------------------------------------------------------------------------------------------
# Repositories
# ---------------------------------------------------------------------------------------------------------------------


class ProviderTotals(NamedTuple):
    """Live credentials of one provider, counted; one that has expired may be aged, too."""

    provider: str
    total: int
    expired: int
    aged: int
    oldest_update: datetime
    last_used: datetime | None
    last_verified: datetime | None


class CredentialRepository(Protocol):
    """Rows of `api_credentials`, removed ones included until they are purged.

    Every record returned says, from the same query, when the latest row of its history was replaced. Methods that take
    ``expected_version`` change nothing and return False where there is no row of that id and version; the others
    ignore an unknown id.
    """

    async def add(self, record: CredentialRecord) -> None:
        """Store a new row. Raises UniqueViolation where the owner has a live one of that provider and label."""
        ...

    async def get(self, credential_id: str) -> CredentialRecord | None:
        """Return the record, removed or not, or None."""
        ...

    async def of_owner(
        self,
        owner: Owner,
        *,
        provider: str | None = None,
        label: str | None = None,
        removed: bool = False,
        created_by: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Sequence[CredentialRecord]:
        """Return an owner's live records, or with ``removed`` the removed ones, in the order of their ids.

        A label matches in any capitalisation.
        """
        ...

    async def listed(
        self, wanted: ListFilter, tab: Tab, *, place: ListPlace | None, backwards: bool, limit: int
    ) -> Sequence[CredentialRecord]:
        """Return the records of a tab after a place, or those before it nearest to it, in the order of the list.

        ``backwards`` without a place returns the last ones.
        """
        ...

    async def tab_counts(self, wanted: ListFilter) -> TabCounts:
        """Count the records of every tab."""
        ...

    async def lock_owner(self, owner: Owner) -> None:
        """Exclude others that add for this owner until the unit of work ends, so that the quota is exact."""
        ...

    async def count(self, owner: Owner) -> int:
        """Count the owner's rows, removed ones included."""
        ...

    async def count_and_account(self, owner: Owner) -> tuple[int, User | None]:
        """As ``count``; and the owner's account, None for a guild or where there is none."""
        ...

    async def change(
        self, credential_id: str, *, expected_version: int, label: str, expires_at: datetime | None, at: datetime
    ) -> bool:
        """Set label and expiry, and count the version up. Raises UniqueViolation."""
        ...

    async def replace(
        self,
        credential_id: str,
        *,
        expected_version: int,
        encrypted_value: bytes,
        key_version: int,
        fingerprint: str | None,
        expires_at: datetime | None,
        at: datetime,
    ) -> bool:
        """Store a new secret, unchecked and unused, and count the version up."""
        ...

    async def set_removed(self, credential_id: str, *, expected_version: int, at: datetime, removed: bool) -> bool:
        """Remove or restore, and count the version up. Raises UniqueViolation on restoring."""
        ...

    async def move(
        self,
        credential_id: str,
        *,
        expected_version: int,
        owner: Owner,
        label: str,
        encrypted_value: bytes,
        key_version: int,
        at: datetime,
    ) -> bool:
        """Change the owner; the value comes re-encrypted for it. Counts the version up. Raises UniqueViolation."""
        ...

    async def mark_used(self, credential_id: str, at: datetime) -> None:
        """Set the time of the last use; a time earlier than the stored one changes nothing."""
        ...

    async def shared_by(self, user_id: str) -> Sequence[CredentialRecord]:
        """Return the credentials of guilds that this user shared, removed ones included, in the order of their ids."""
        ...

    async def reassign_sharer(self, source: str, target: str) -> int:
        """Record ``target`` as the sharer of all guild credentials that ``source`` shared; return how many."""
        ...

    async def shares_of(self, user_id: str) -> Mapping[str, int]:
        """Count the credentials that a user shared with guilds, removed ones included, by the guild's id."""
        ...

    async def set_status(self, credential_id: str, status: Status, at: datetime) -> None:
        """Set the status without a new version; VALID and REFUSED (a provider's answer) set ``last_verified_at``."""
        ...

    async def set_fingerprint(self, credential_id: str, *, expected_version: int, fingerprint: str | None) -> bool:
        """Set the fingerprint without a new version."""
        ...

    async def forget_keys(self, *, opening: Sequence[int]) -> None:
        """Delete every fingerprint, and mark as unreadable each row that none of these key versions encrypted."""
        ...

    async def page(self, *, after: str | None, limit: int) -> Sequence[CredentialRecord]:
        """Return rows of all owners, removed ones included, in the order of their ids."""
        ...

    async def unreadable(self, *, after: str | None, limit: int) -> Sequence[CredentialRecord]:
        """Return live rows of all owners whose status is UNREADABLE, in the order of their ids."""
        ...

    async def totals_of_owner(self, owner: Owner, now: datetime) -> Sequence[ProviderTotals]:
        """Count the owner's live rows per provider."""
        ...

    async def totals_between(self, after: str | None, last: str, now: datetime) -> Sequence[ProviderTotals]:
        """Count the live rows of all owners per provider, of the ids after ``after`` up to ``last``."""
        ...

    async def purge(self, credential_id: str, *, expected_version: int) -> bool:
        """Delete a removed credential, with its history."""
        ...

    async def guilds(self, *, after: str, limit: int) -> Sequence[str]:
        """Return the ids of guilds that have credentials, removed ones too, in the order of the ids after ``after``."""
        ...

    async def purge_of(self, owner: Owner, *, limit: int) -> int:
        """Delete credentials of an owner, also those that are not removed, at most ``limit``; return how many."""
        ...

    async def purge_removed(self, before: datetime, *, limit: int | None = None) -> int:
        """Delete credentials that were removed before then, at most ``limit``, with their history; return how many."""
        ...

    async def add_history(self, record: HistoryRecord) -> None:
        """Store a former secret of an existing credential."""
        ...

    async def history(self, credential_id: str) -> Sequence[HistoryRecord]:
        """Return the former secrets, latest version first."""
        ...

    async def former(self, record_id: str) -> HistoryRecord | None:
        """Return one former secret, or None."""
        ...

    async def replace_history(self, record_id: str, *, encrypted_value: bytes, key_version: int) -> None:
        """Store the same former secret, encrypted again after a change of owner."""
        ...

    async def drop_history(self, record_id: str) -> None:
        """Delete one former secret."""
        ...


class EncryptedRowRepository(Protocol):
    """Every encrypted column, in bulk. Pages are in the order of ids and begin after ``after``."""

    async def batch(
        self, column: EncryptedColumn, *, primary: int, after: str | None, limit: int
    ) -> Sequence[EncryptedRow]:
        """Return rows that another key version than ``primary`` encrypted, removed credentials included."""
        ...

    async def all(self, column: EncryptedColumn, *, after: str | None, limit: int) -> Sequence[EncryptedRow]:
        """Return rows, whichever key version encrypted them."""
        ...

    async def swap(self, column: EncryptedColumn, rows: Sequence[Reencrypted]) -> int:
        """Replace envelopes and their key versions, and nothing else; return how many were replaced.

        A row that was changed, moved, re-encrypted or removed since it was read stays as it is.
        """
        ...

    async def count(self, column: EncryptedColumn) -> int:
        """Return the number of rows, from an index."""
        ...

    async def counts(self, column: EncryptedColumn) -> Mapping[int, int]:
        """Return the number of rows per key version, which reads every row."""
        ...
