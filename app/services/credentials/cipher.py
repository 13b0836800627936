"""Encryption of credentials: the context that a value is bound to, and the key version that decrypts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from app.domain.credentials import CredentialRecord, HistoryRecord, Owner, OwnerKind, has_fingerprint
from app.domain.encrypted_columns import (
    CREDENTIAL_SECRETS,
    FORMER_SECRETS,
    TOTP_SECRETS,
    EncryptedColumn,
    EncryptedRow,
    Reencrypted,
)
from app.domain.errors import CryptoError, NotReady, StartupError
from app.domain.keys import KeyName, Manifest
from app.domain.second_factor import TotpFactor
from app.domain.secrets import SecretBytes
from app.services.keys import KeyManagementService, KeyRing, Primary
from app.services.ports import EncryptionContext, Envelope, KeyDerivation

_T = TypeVar("_T")
_FINGERPRINT_BYTES: Final = 8


class CredentialCipher:
    """Encrypts and decrypts secrets for their rows. A secret that moves to another row or owner is encrypted again."""

    def __init__(self, *, keys: KeyManagementService, envelope: Envelope, derivation: KeyDerivation) -> None:
        self._keys = keys
        self._envelope = envelope
        self._derivation = derivation

    def encrypt(self, secret: str, credential_id: str, owner: Owner, primary: Primary) -> bytes:
        """Return the envelope of a secret for its row in `api_credentials`."""
        return self._encrypt(secret, self._context(CREDENTIAL_SECRETS, credential_id, owner.kind, owner.id), primary)

    def encrypt_former(self, secret: str, history_id: str, owner: Owner, primary: Primary) -> bytes:
        """Return the envelope of a former secret for its row in `credential_history`."""
        return self._encrypt(secret, self._context(FORMER_SECRETS, history_id, owner.kind, owner.id), primary)

    def decrypt(self, record: CredentialRecord) -> str:
        """Return a credential's secret. Raises CryptoError if it does not decrypt, NotReady while keys are stale."""
        context = self._context(CREDENTIAL_SECRETS, record.id, record.owner.kind, record.owner.id)
        return self._decrypt(record.encrypted_value, context)

    def decrypt_former(self, record: HistoryRecord, owner: Owner) -> str:
        """Return a former secret of a credential of that owner. Raises as ``decrypt`` does."""
        return self._decrypt(record.encrypted_value, self._context(FORMER_SECRETS, record.id, owner.kind, owner.id))

    def encrypt_totp(self, secret: SecretBytes, factor_id: str, user_id: str, primary: Primary) -> bytes:
        """Return the envelope of an authenticator's secret for its row in `totp_factors`."""
        context = self._context(TOTP_SECRETS, factor_id, OwnerKind.USER, user_id)
        return self._envelope.encrypt(secret.reveal(), context, key_version=primary.version, material=primary.material)

    def decrypt_totp(self, factor: TotpFactor) -> SecretBytes:
        """Return the secret of an authenticator. Raises as ``decrypt`` does."""
        context = self._context(TOTP_SECRETS, factor.id, OwnerKind.USER, factor.user_id)
        return SecretBytes(self._decrypted(factor.encrypted_secret, context))

    def reencrypt(
        self, column: EncryptedColumn, rows: Sequence[EncryptedRow], primary: Primary
    ) -> list[Reencrypted | None]:
        """Return the rows under that version; None for one that does not decrypt. Raises NotReady while keys are stale.

        Takes some 10 µs of processor time per row: call it in a thread, with not more than a few thousand rows.
        """
        envelopes = self._envelope.reencrypt(
            rows,
            column,
            install_id=self._keys.install_id,
            materials=self._keys.usable_materials(column.key_name),
            key_version=primary.version,
            material=primary.material,
        )
        return [
            None if envelope is None else Reencrypted(row, primary.version, envelope)
            for row, envelope in zip(rows, envelopes, strict=True)
        ]

    def opened_by(self, column: EncryptedColumn, rows: Sequence[EncryptedRow]) -> list[int | None]:
        """Return the key version that decrypts each row; None for one that does not decrypt. Raises NotReady.

        Nothing else protects a row's `key_version`: a row that claims the primary, but was encrypted by a version that
        is about to be destroyed, would be skipped by a re-encryption and then lost. Call it in a thread, as
        ``reencrypt``.
        """
        materials = self._keys.usable_materials(column.key_name)
        return list(self._envelope.opened_by(rows, column, install_id=self._keys.install_id, materials=materials))

    def fingerprint(self, ring: KeyRing, secret: str) -> str | None:
        """Return the fingerprint under the primary of API_SECRET_KEY; see ``fingerprint_with``."""
        return self.fingerprint_with(ring.primary(KeyName.API_SECRET_KEY), secret)

    def fingerprint_with(self, primary: Primary, secret: str) -> str | None:
        """Return 16 hex digits that identify a leaked secret, under that version of API_SECRET_KEY.

        None for a secret so weak that it could be guessed from them.
        """
        if not has_fingerprint(secret):
            return None
        mac = self._derivation.mac(primary.material, "credential-fingerprint", secret.encode())
        return mac[:_FINGERPRINT_BYTES].hex()

    def keys(self) -> Manifest:
        """Return the manifest of the keys that decrypt at this moment. Raises NotReady while they are stale."""
        return self._keys.confirmed_manifest()

    async def refresh(self) -> bool:
        """Read the keysets again; True when they changed, so that a secret that did not decrypt may do so now.

        Another process may have promoted a version a moment ago: its rows are not unreadable, this process is behind.
        """
        try:
            return await self._keys.reload()
        except StartupError as error:  # the instance service reports the cause; for a request it means: not now
            raise NotReady from error

    async def open_totp(self, factor: TotpFactor) -> SecretBytes | None:
        """Return the secret of an authenticator, or None where it does not decrypt, with the keysets read again."""
        return await self.opened(lambda: self.decrypt_totp(factor))

    async def opened(self, attempt: Callable[[], _T]) -> _T | None:
        """Return what an attempt to decrypt returns, or None where it fails, also with the keysets read again."""
        try:
            return attempt()
        except CryptoError:
            if not await self.refresh():
                return None
        try:
            return attempt()
        except CryptoError:
            return None

    def _context(self, column: EncryptedColumn, row_id: str, owner_kind: str, owner_id: str) -> EncryptionContext:
        return EncryptionContext(
            install_id=self._keys.install_id,
            table=column.table,
            row_id=row_id,
            owner_kind=owner_kind,
            owner_id=owner_id,
            field=column.field,
            key_name=column.key_name,
        )

    def _encrypt(self, secret: str, context: EncryptionContext, primary: Primary) -> bytes:
        return self._envelope.encrypt(secret.encode(), context, key_version=primary.version, material=primary.material)

    def _decrypt(self, envelope: bytes, context: EncryptionContext) -> str:
        return self._decrypted(envelope, context).decode()

    def _decrypted(self, envelope: bytes, context: EncryptionContext) -> bytes:
        material = self._keys.usable_materials(KeyName.AES_KEY).get(self._envelope.key_version(envelope))
        if material is None:
            raise CryptoError("encrypted by a key version that is destroyed or unknown")
        return self._envelope.decrypt(envelope, context, material=material)
