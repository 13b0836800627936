"""Ports for imports from other programs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from app.domain.secrets import SecretBytes, SecretText


class ImportedEntryRepository(Protocol):
    """The marks of entries that were imported: MACs, under a key that no rotation replaces."""

    async def known(self, marks: Collection[bytes]) -> frozenset[bytes]:
        """Return those of these marks, at most some hundred, that are stored."""
        ...

    async def add(self, mark: bytes, credential_id: str, at: datetime) -> None:
        """Store a mark. Raises UniqueViolation for one that is there: another process has imported the entry."""
        ...


class LegacyCipher(Protocol):
    """Decrypts what other programs stored: Fernet tokens, and AES-GCM with a nonce of 12 bytes in front."""

    def read_key(self, text: SecretText) -> SecretBytes:
        """Return the 32 bytes that a text writes in hex, base64 or base64url. Raises CryptoError."""
        ...

    def open(self, value: SecretText | SecretBytes, keys: Sequence[SecretBytes], *, encrypted: bool) -> SecretText:
        """Return the plaintext, under the first of these keys, or of the one in the settings, that opens the value.

        Text that is certainly no ciphertext, or that need not be ``encrypted`` and does not open, is plaintext itself.
        Raises CryptoError, whose message continues "NAME …".
        """
        ...


class LegacyDatabase(Protocol):
    """The database of another program, for reading. Every method may raise ImportStopped."""

    @property
    def name(self) -> str:
        """Which one it is, without user and password."""
        ...

    async def tables(self) -> Mapping[str, Sequence[str]]:
        """Return the tables with the names of their columns."""
        ...

    def rows(self, name: str, columns: Sequence[str], *, as_text: Sequence[str] = ()) -> AsyncIterator[Sequence[Any]]:
        """Iterate over these columns of a table, some rows at a time; those in ``as_text`` are converted to text."""
        ...
