"""The master key at work: wraps application keys, authenticates rows, proves itself (docs/envelope.md)."""

from __future__ import annotations

import base64
import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.domain.errors import CryptoError
from app.domain.keys import MATERIAL_BYTES, KeyName
from app.domain.secrets import SecretBytes, SecretText
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.crypto.derive import Label, derive, encode_tuple
from app.services.ports import Randomness

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_SETUP_TOKEN_PREFIX: Final = "khs_"  # noqa: S105 - public by design: it lets scanners recognise a leaked token
_SETUP_TOKEN_BYTES: Final = 24


class MasterKeyWrapping:
    """Implements ``KeyWrapping`` with a master key of 32 bytes. Raises ValueError for any other length.

    A sub-key wraps a handful of versions in its life, far from the 2**32 random nonces that SP 800-38D allows per key.
    """

    __slots__ = ("_backup_key", "_canary_key", "_id", "_row_key", "_setup_key", "_token_bytes", "_wrap")

    def __init__(self, material: SecretBytes, randomness: Randomness | None = None) -> None:
        if len(material) != MATERIAL_BYTES:
            raise ValueError(f"a master key has {MATERIAL_BYTES} bytes, not {len(material)}")
        self._wrap = AESGCM(derive(material, Label.WRAP))
        self._row_key = SecretBytes(derive(material, Label.ROW_MAC))
        self._canary_key = SecretBytes(derive(material, Label.CANARY))
        self._setup_key = SecretBytes(derive(material, Label.SETUP_TOKEN))
        self._backup_key = SecretBytes(derive(material, Label.BACKUP_PASSPHRASE))
        self._id = derive(material, Label.MASTER_KEY_ID, length=8).hex()
        self._token_bytes = (randomness or SystemRandomness()).token_bytes

    @property
    def master_key_id(self) -> str:
        """16 hex digits that name this master key and reveal nothing of it."""
        return self._id

    def wrap(self, material: SecretBytes, *, install_id: str, name: KeyName, version: int) -> bytes:
        """12-byte nonce, then the AES-256-GCM ciphertext with its 16-byte tag."""
        nonce = self._token_bytes(_NONCE_BYTES)
        return nonce + self._wrap.encrypt(nonce, material.reveal(), _place(install_id, name, version))

    def unwrap(self, wrapped: bytes, *, install_id: str, name: KeyName, version: int) -> SecretBytes:
        """The material. Raises CryptoError for anything that was not wrapped for exactly this place."""
        if len(wrapped) <= _NONCE_BYTES + _TAG_BYTES:
            raise _refused()
        nonce, ciphertext = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        try:
            return SecretBytes(self._wrap.decrypt(nonce, ciphertext, _place(install_id, name, version)))
        except InvalidTag:
            raise _refused() from None

    def row_mac(self, row: str, install_id: str, value: bytes) -> bytes:
        """HMAC-SHA256 over row name, install id and value, each length-prefixed."""
        return _hmac(self._row_key, row, install_id, value)

    def canary(self, install_id: str) -> bytes:
        """32 bytes that only this master key can have made for this install."""
        return _hmac(self._canary_key, install_id)

    def opens_canary(self, canary: bytes, install_id: str) -> bool:
        """Whether this master key made that canary for this install."""
        return hmac.compare_digest(canary, self.canary(install_id))

    def setup_token(self, install_id: str) -> SecretText:
        """``khs_`` and 192 bits in base64url: the same in every process that holds this master key."""
        token = _hmac(self._setup_key, install_id)[:_SETUP_TOKEN_BYTES]
        return SecretText(_SETUP_TOKEN_PREFIX + base64.urlsafe_b64encode(token).decode())

    def backup_passphrase(self) -> SecretText:
        """256 bits in base64url, for backups that Keyhall makes when nobody is there to choose a key for them."""
        return SecretText(base64.urlsafe_b64encode(self._backup_key.reveal()).decode().rstrip("="))


def _place(install_id: str, name: KeyName, version: int) -> bytes:
    return encode_tuple(install_id, name.value, version.to_bytes(4, "big"))


def _hmac(key: SecretBytes, *parts: str | bytes) -> bytes:
    return hmac.digest(key.reveal(), encode_tuple(*parts), "sha256")


def _refused() -> CryptoError:
    return CryptoError("the wrapped key does not open")
