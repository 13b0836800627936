"""Credentials between clear and sealed: which place an envelope is bound to, and which key version opens it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from app.domain.credentials import CredentialRecord, HistoryRecord, Owner, has_fingerprint
from app.domain.encrypted_columns import CREDENTIAL_SECRETS, FORMER_SECRETS, EncryptedColumn, EncryptedRow, Reencrypted
from app.domain.errors import CryptoError, NotReady, StartupError
from app.domain.keys import KeyName
from app.services.keys import KeyManagementService, Primary
from app.services.ports import EncryptionContext, Envelope, KeyDerivation, UnitOfWork

_FINGERPRINT_BYTES: Final = 8


class CredentialCipher:
    """Seals and opens secrets for their rows; whoever moves a secret to another row or owner seals it anew."""

    def __init__(self, *, keys: KeyManagementService, envelope: Envelope, derivation: KeyDerivation) -> None:
        self._keys = keys
        self._envelope = envelope
        self._derivation = derivation

    async def primary(self, uow: UnitOfWork) -> Primary:
        """The key version to seal with in this unit of work, which nobody can replace until it ends."""
        return await self._keys.primary_under_lock(uow, KeyName.AES_KEY)

    def encrypt(self, secret: str, credential_id: str, owner: Owner, primary: Primary) -> bytes:
        """The secret for its row in `api_credentials`."""
        return self._seal(secret, self._place(CREDENTIAL_SECRETS, credential_id, owner.kind, owner.id), primary)

    def seal_former(self, secret: str, history_id: str, owner: Owner, primary: Primary) -> bytes:
        """The secret for its row in `credential_history`."""
        return self._seal(secret, self._place(FORMER_SECRETS, history_id, owner.kind, owner.id), primary)

    def open(self, record: CredentialRecord) -> str:
        """The secret of a credential. Raises CryptoError where it does not open, NotReady while keys are stale."""
        place = self._place(CREDENTIAL_SECRETS, record.id, record.owner.kind, record.owner.id)
        return self._open(record.encrypted_value, place)

    def open_former(self, record: HistoryRecord, owner: Owner) -> str:
        """A former secret of a credential of that owner. Raises as ``open`` does."""
        return self._open(record.encrypted_value, self._place(FORMER_SECRETS, record.id, owner.kind, owner.id))

    def reencrypt(
        self, column: EncryptedColumn, rows: Sequence[EncryptedRow], primary: Primary
    ) -> list[Reencrypted | None]:
        """The rows under that version; None for one that does not open. Raises NotReady while keys are stale.

        Computes for some 15 µs per row: call it in a thread, with not more than a few thousand rows.
        """
        envelopes = self._envelope.reencrypt(
            [(row.value, self._place(column, row.id, row.owner_kind, row.owner_id)) for row in rows],
            materials=self._keys.usable_materials(column.key_name),
            key_version=primary.version,
            material=primary.material,
        )
        return [
            None if envelope is None else Reencrypted(row, primary.version, envelope)
            for row, envelope in zip(rows, envelopes, strict=True)
        ]

    def opened_by(self, column: EncryptedColumn, rows: Sequence[EncryptedRow]) -> list[int | None]:
        """The version that each opens with; None for one that does not open. Raises NotReady while keys are stale.

        Nothing protects a row's `key_version` but this: a row that names the primary, and was sealed by a version that
        is about to go, would be passed over by a re-encryption and then lost. Call it in a thread, as ``reseal``.
        """
        opens = self._envelope.verify(
            [(row.value, self._place(column, row.id, row.owner_kind, row.owner_id)) for row in rows],
            materials=self._keys.usable_materials(column.key_name),
        )
        return [self._envelope.key_version(row.value) if fine else None for row, fine in zip(rows, opens, strict=True)]

    async def fingerprint(self, uow: UnitOfWork, secret: str) -> str | None:
        """16 hex digits by which a leaked secret is known again; None for one that could be guessed from them."""
        primary = await self._keys.primary_under_lock(uow, KeyName.API_SECRET_KEY)
        return self.fingerprint_with(primary, secret)

    def fingerprint_with(self, primary: Primary, secret: str) -> str | None:
        """The fingerprint under that version of API_SECRET_KEY."""
        if not has_fingerprint(secret):
            return None
        mac = self._derivation.mac(primary.material, "credential-fingerprint", secret.encode())
        return mac[:_FINGERPRINT_BYTES].hex()

    async def refresh(self) -> bool:
        """Look at the keysets again; True when they moved, so that what did not open may open now.

        Another process may have promoted a version a moment ago: its rows are not unreadable, this process is behind.
        """
        try:
            return await self._keys.reload()
        except StartupError as error:  # the keeper of the lease says what is wrong; here it means: not now
            raise NotReady from error

    def _place(self, column: EncryptedColumn, row_id: str, owner_kind: str, owner_id: str) -> EncryptionContext:
        return EncryptionContext(
            install_id=self._keys.install_id,
            table=column.table,
            row_id=row_id,
            owner_kind=owner_kind,
            owner_id=owner_id,
            field=column.field,
            key_name=column.key_name,
        )

    def _seal(self, secret: str, place: EncryptionContext, primary: Primary) -> bytes:
        return self._envelope.encrypt(secret.encode(), place, key_version=primary.version, material=primary.material)

    def _open(self, envelope: bytes, place: EncryptionContext) -> str:
        material = self._keys.usable_materials(KeyName.AES_KEY).get(self._envelope.key_version(envelope))
        if material is None:
            raise CryptoError("sealed by a key version that is destroyed or was never there")
        return self._envelope.open(envelope, place, material=material).decode()
