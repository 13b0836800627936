"""A value at rest: AES-256-GCM under a key of its own, committed to it and bound to its context (docs/envelope.md).

A key per value, derived from a 32-byte salt, lifts the limit of 2**32 random nonces per key (SP 800-38D, 8.3). AES-GCM
alone does not commit to its key, so HKDF also yields a commitment: one envelope opens under one key only.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.domain.errors import CryptoError
from app.domain.secrets import SecretBytes
from app.infrastructure.crypto.derive import encode_tuple, hkdf_sha256
from app.services.ports import EncryptionContext, Randomness

FORMAT: Final = 1
AES_256_GCM: Final = 1

_SCHEME: Final = "keyhall/v1/envelope"
_SALT_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_COMMITMENT_BYTES: Final = 32
_TAG_BYTES: Final = 16
_RANDOM_BYTES: Final = _SALT_BYTES + _NONCE_BYTES
# Format version, algorithm, key version, salt, nonce, commitment.
_HEADER: Final = struct.Struct(f">BBI{_SALT_BYTES}s{_NONCE_BYTES}s{_COMMITMENT_BYTES}s")
_VERSION: Final = struct.Struct(">II")


class AesGcmEnvelope:
    """Implements ``Envelope``: an overhead of 98 bytes."""

    __slots__ = ("_randomness",)

    def __init__(self, randomness: Randomness) -> None:
        self._randomness = randomness

    def encrypt(
        self, plaintext: bytes, context: EncryptionContext, *, key_version: int, material: SecretBytes
    ) -> bytes:
        return _encrypt(plaintext, _encode(context), self._randomness.token_bytes(_RANDOM_BYTES), key_version, material)

    def key_version(self, envelope: bytes) -> int:
        return _parse(envelope)[0]

    def decrypt(self, envelope: bytes, context: EncryptionContext, *, material: SecretBytes) -> bytes:
        return _decrypt(envelope, _encode(context), lambda _: material)

    def verify(
        self, items: Sequence[tuple[bytes, EncryptionContext]], *, materials: Mapping[int, SecretBytes]
    ) -> list[bool]:
        return [_decrypted(envelope, _encode(context), materials) is not None for envelope, context in items]

    def reencrypt(
        self,
        items: Sequence[tuple[bytes, EncryptionContext]],
        *,
        materials: Mapping[int, SecretBytes],
        key_version: int,
        material: SecretBytes,
    ) -> list[bytes | None]:
        random = self._randomness.token_bytes(_RANDOM_BYTES * len(items))  # one system call for all of them
        reencrypted: list[bytes | None] = []
        for start, (envelope, context) in zip(range(0, len(random), _RANDOM_BYTES), items, strict=True):
            encoded = _encode(context)
            plaintext = _decrypted(envelope, encoded, materials)
            if plaintext is None:
                reencrypted.append(None)
            else:
                fresh = random[start : start + _RANDOM_BYTES]
                reencrypted.append(_encrypt(plaintext, encoded, fresh, key_version, material))
        return reencrypted


def _encrypt(plaintext: bytes, encoded: bytes, random: bytes, key_version: int, material: SecretBytes) -> bytes:
    salt, nonce = random[:_SALT_BYTES], random[_SALT_BYTES:]
    info = _info(encoded, key_version)
    record_key, commitment = _derive(material, salt, info)
    header = _HEADER.pack(FORMAT, AES_256_GCM, key_version, salt, nonce, commitment)
    return header + AESGCM(record_key).encrypt(nonce, plaintext, info)


def _decrypt(envelope: bytes, encoded: bytes, material_of: Callable[[int], SecretBytes | None]) -> bytes:
    key_version, salt, nonce, commitment = _parse(envelope)
    material = material_of(key_version)
    if material is None:
        raise _refused()
    info = _info(encoded, key_version)
    record_key, expected = _derive(material, salt, info)
    if not hmac.compare_digest(commitment, expected):
        raise _refused()
    try:
        return AESGCM(record_key).decrypt(nonce, envelope[_HEADER.size :], info)
    except InvalidTag:
        raise _refused() from None


def _decrypted(envelope: bytes, encoded: bytes, materials: Mapping[int, SecretBytes]) -> bytes | None:
    try:
        return _decrypt(envelope, encoded, materials.get)
    except CryptoError:
        return None


def _parse(envelope: bytes) -> tuple[int, bytes, bytes, bytes]:
    """Key version, salt, nonce and commitment. Raises CryptoError if it is no envelope of this format."""
    if len(envelope) < _HEADER.size + _TAG_BYTES:
        raise _refused()
    form, algorithm, key_version, salt, nonce, commitment = _HEADER.unpack_from(envelope)
    if form != FORMAT or algorithm != AES_256_GCM:
        raise _refused()
    return key_version, salt, nonce, commitment


def _info(encoded: bytes, key_version: int) -> bytes:
    """Both the HKDF info and the AAD. Another algorithm must take another scheme, as the record key would be shared."""
    return encoded + _VERSION.pack(4, key_version)  # its length and itself, as encode_tuple has it


def _encode(context: EncryptionContext) -> bytes:
    """Encode a context; the parts that all rows of a column share are encoded once."""
    row = encode_tuple(context.row_id, context.owner_kind, context.owner_id)
    return _before_row(context.install_id, context.table) + row + _after_row(context.field, context.key_name)


@lru_cache(maxsize=16)
def _before_row(install_id: str, table: str) -> bytes:
    return encode_tuple(_SCHEME, FORMAT.to_bytes(1, "big"), install_id, table)


@lru_cache(maxsize=16)
def _after_row(field: str, key_name: str) -> bytes:
    return encode_tuple(field, key_name)


def _derive(material: SecretBytes, salt: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Record key and commitment."""
    derived = hkdf_sha256(material.reveal(), salt=salt, info=info, length=_KEY_BYTES + _COMMITMENT_BYTES)
    return derived[:_KEY_BYTES], derived[_KEY_BYTES:]


def _refused() -> CryptoError:
    return CryptoError("the envelope does not open")
