"""Credentials between clear and sealed: which place an envelope is bound to, and which key version opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.credentials import has_fingerprint
from app.domain.errors import CryptoError
from app.domain.keys import KeyName
from app.services.ports import Place

if TYPE_CHECKING:
    from app.domain.credentials import CredentialRecord, HistoryRecord, Owner
    from app.services.key_management import KeyManagementService, Primary
    from app.services.ports import Envelope, KeyDerivation, UnitOfWork

_FINGERPRINT_BYTES: Final = 8


class CredentialSealing:
    """Seals and opens secrets for their rows; whoever moves a secret to another row or owner seals it anew."""

    def __init__(self, *, keys: KeyManagementService, envelope: Envelope, derivation: KeyDerivation) -> None:
        self._keys = keys
        self._envelope = envelope
        self._derivation = derivation

    async def primary(self, uow: UnitOfWork) -> Primary:
        """The key version to seal with in this unit of work, which nobody can replace until it ends."""
        return await self._keys.primary_under_lock(uow, KeyName.AES_KEY)

    def seal(self, secret: str, credential_id: str, owner: Owner, primary: Primary) -> bytes:
        """The secret for its row in `api_credentials`."""
        return self._seal(secret, self._place("api_credentials", credential_id, owner), primary)

    def seal_former(self, secret: str, history_id: str, owner: Owner, primary: Primary) -> bytes:
        """The secret for its row in `credential_history`."""
        return self._seal(secret, self._place("credential_history", history_id, owner), primary)

    def open(self, record: CredentialRecord) -> str:
        """The secret of a credential. Raises CryptoError where it does not open, NotReady while keys are stale."""
        return self._open(record.encrypted_value, self._place("api_credentials", record.id, record.owner))

    def open_former(self, record: HistoryRecord, owner: Owner) -> str:
        """A former secret of a credential of that owner. Raises as ``open`` does."""
        return self._open(record.encrypted_value, self._place("credential_history", record.id, owner))

    async def fingerprint(self, uow: UnitOfWork, secret: str) -> str | None:
        """16 hex digits by which a leaked secret is known again; None for one that could be guessed from them."""
        if not has_fingerprint(secret):
            return None
        primary = await self._keys.primary_under_lock(uow, KeyName.API_SECRET_KEY)
        mac = self._derivation.mac(primary.material, "credential-fingerprint", secret.encode())
        return mac[:_FINGERPRINT_BYTES].hex()

    async def refresh(self) -> bool:
        """Look at the keysets again; True when they moved, so that what did not open may open now.

        Another process may have promoted a version a moment ago: its rows are not unreadable, this process is behind.
        """
        return await self._keys.reload()

    def _place(self, table: str, row_id: str, owner: Owner) -> Place:
        return Place(
            install_id=self._keys.install_id,
            table=table,
            row_id=row_id,
            owner_kind=owner.kind.value,
            owner_id=owner.id,
            field="encrypted_value",
            key_name=KeyName.AES_KEY.value,
        )

    def _seal(self, secret: str, place: Place, primary: Primary) -> bytes:
        return self._envelope.seal(secret.encode(), place, key_version=primary.version, material=primary.material)

    def _open(self, envelope: bytes, place: Place) -> str:
        material = self._keys.opening(KeyName.AES_KEY).get(self._envelope.key_version(envelope))
        if material is None:
            raise CryptoError("sealed by a key version that is destroyed or was never there")
        return self._envelope.open(envelope, place, material=material).decode()
