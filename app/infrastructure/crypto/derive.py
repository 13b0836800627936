"""Sub-keys by HKDF-SHA256 (RFC 5869): one label, one use. docs/envelope.md documents every label."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.domain.keys import KeyName
from app.domain.secrets import SecretBytes

_SCHEME: Final = "keyhall/v1"
_SHA256: Final = SHA256()


class Label(StrEnum):
    """Every use that a derived key has. A label is never used for a second purpose and never changes its meaning."""

    # From the master key
    WRAP = "wrap"
    ROW_MAC = "row-mac"
    CANARY = "canary"
    SETUP_TOKEN = "setup-token"  # noqa: S105 - the name of a use, not a token
    MASTER_KEY_ID = "id"
    BACKUP_PASSPHRASE = "backup-passphrase"  # noqa: S105 - the name of a use
    # From a version of an application key
    FINGERPRINT = "fingerprint"
    MAC = "mac"
    FERNET = "fernet"


def encode_tuple(*parts: str | bytes) -> bytes:
    """Each part as its length in 4 big-endian bytes, then its bytes: no two tuples give the same.

    Text is UTF-8; lone surrogates, which only an edited row can hold, are kept instead of raising, so that such a text
    equals nothing that was ever encrypted.
    """
    encoded: list[bytes] = []
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        encoded += (len(data).to_bytes(4, "big"), data)
    return b"".join(encoded)


def hkdf_sha256(material: bytes, *, salt: bytes | None, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869), extract and expand; ``length`` in bytes, at most 8160."""
    return HKDF(_SHA256, length, salt, info).derive(material)


def derive(material: SecretBytes, label: Label, *context: str | bytes, length: int = 32) -> bytes:
    """The sub-key of a uniformly random key for one use, ``length`` bytes; ``context`` narrows the use further."""
    info = encode_tuple(_SCHEME, label.value, *context)
    return hkdf_sha256(material.reveal(), salt=None, info=info, length=length)


class Derivation:
    """Implements ``KeyDerivation``."""

    def fingerprint(self, name: KeyName, material: SecretBytes) -> str:
        """16 hex digits that identify a version of an application key."""
        return derive(material, Label.FINGERPRINT, name.value, length=8).hex()

    def mac(self, material: SecretBytes, label: str, *parts: bytes) -> bytes:
        """HMAC-SHA256 of the length-prefixed parts under the sub-key for ``label``: 32 bytes."""
        return hmac.digest(derive(material, Label.MAC, label), encode_tuple(*parts), "sha256")

    def chain(
        self, material: SecretBytes, label: str, previous: bytes, links: Sequence[Sequence[bytes]]
    ) -> Sequence[bytes]:
        """For each link the HMAC of the one before it, first ``previous``, and of its own parts; one derivation."""
        key, seals = derive(material, Label.MAC, label), list[bytes]()
        for parts in links:
            previous = hmac.digest(key, encode_tuple(previous, *parts), "sha256")
            seals.append(previous)
        return seals
