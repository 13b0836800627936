"""Fernet tokens that open only for the member or guild they were made for."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken

from app.domain.errors import CryptoError
from app.domain.secrets import SecretBytes
from app.infrastructure.crypto.derive import Label, derive


class FernetMessages:
    """Implements ``MessageCipher``.

    Fernet has no associated data, so the scope is bound by the key: HKDF(version, "fernet", scope). A token shows when
    it was made (Fernet specification); it never expires.
    """

    def encrypt(self, plaintext: bytes, scope: str, material: SecretBytes) -> str:
        """A Fernet token."""
        return _fernet(material, scope).encrypt(plaintext).decode()

    def decrypt(self, token: str, scope: str, materials: Sequence[SecretBytes]) -> bytes:
        """The plaintext, by whichever version made it. Raises CryptoError."""
        if token.isascii():  # Fernet raises a bare ValueError for other text
            for material in materials:
                try:
                    return _fernet(material, scope).decrypt(token)
                except InvalidToken:
                    continue
        raise CryptoError("the token does not open")


def _fernet(material: SecretBytes, scope: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(derive(material, Label.FERNET, scope)))
