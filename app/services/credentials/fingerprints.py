"""Fingerprints of credentials: MACs under API_SECRET_KEY, recomputed when that key is rotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.credentials import CredentialRecord
from app.domain.errors import CryptoError
from app.services.credentials.cipher import CredentialCipher
from app.services.keys import Primary


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintChanges:
    """The records whose fingerprint changes, each with the new one, and the records that do not decrypt."""

    changed: Sequence[tuple[CredentialRecord, str | None]]
    unreadable: Sequence[CredentialRecord]


class Fingerprints:
    """Decrypts credentials and computes their fingerprints; slow enough to belong in a thread."""

    def __init__(self, cipher: CredentialCipher) -> None:
        self._cipher = cipher

    def of(self, records: Sequence[CredentialRecord], primary: Primary) -> FingerprintChanges:
        """Return the changes that give these records their fingerprints under that version of API_SECRET_KEY."""
        changed, unreadable = [], []
        for record in records:
            try:
                secret = self._cipher.decrypt(record)
            except CryptoError:
                unreadable.append(record)
                continue
            fingerprint = self._cipher.fingerprint_with(primary, secret)
            if fingerprint != record.fingerprint:
                changed.append((record, fingerprint))
        return FingerprintChanges(changed=changed, unreadable=unreadable)
