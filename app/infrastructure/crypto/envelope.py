"""A value at rest: AES-256-GCM under a key of its own, committed to it and bound to its context (docs/envelope.md).

A key per value, derived from a 32-byte salt, lifts the limit of 2**32 random nonces per key (SP 800-38D, 8.3). AES-GCM
alone does not commit to its key, so the derivation also yields a commitment: one envelope opens under one key only.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.hmac import HMAC

from app.domain.encrypted_columns import EncryptedColumn, EncryptedRow
from app.domain.errors import CryptoError
from app.domain.secrets import SecretBytes
from app.infrastructure.crypto.derive import encode_tuple
from app.services.ports import EncryptionContext, Randomness

FORMAT: Final = 1
AES_256_GCM: Final = 1

_SCHEME: Final = "keyhall/v1/envelope"
_SHA512: Final = SHA512()
_ONLY_BLOCK: Final = b"\x01"
_SALT_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_COMMITMENT_BYTES: Final = 32
_TAG_BYTES: Final = 16
_RANDOM_BYTES: Final = _SALT_BYTES + _NONCE_BYTES
# Format version, algorithm, key version, salt, nonce, commitment.
_HEADER: Final = struct.Struct(f">BBI{_SALT_BYTES}s{_NONCE_BYTES}s{_COMMITMENT_BYTES}s")
_VERSION: Final = struct.Struct(">II")
_LENGTH: Final = struct.Struct(">I").pack
_UTF_8: Final = ("utf-8", "surrogatepass")


class AesGcmEnvelope:
    """Implements ``Envelope``: an overhead of 98 bytes."""

    __slots__ = ("_randomness",)

    def __init__(self, randomness: Randomness) -> None:
        self._randomness = randomness

    def encrypt(
        self, plaintext: bytes, context: EncryptionContext, *, key_version: int, material: SecretBytes
    ) -> bytes:
        random = self._randomness.token_bytes(_RANDOM_BYTES)
        return _encrypt(plaintext, _encode(context), random, key_version, _keyed(material))

    def key_version(self, envelope: bytes) -> int:
        return _parse(envelope)[0]

    def decrypt(self, envelope: bytes, context: EncryptionContext, *, material: SecretBytes) -> bytes:
        return _decrypt(envelope, _encode(context), lambda _: _keyed(material))[1]

    def opened_by(
        self,
        rows: Sequence[EncryptedRow],
        column: EncryptedColumn,
        *,
        install_id: str,
        materials: Mapping[int, SecretBytes],
    ) -> list[int | None]:
        opened = _decrypted(rows, column, install_id, materials)
        return [None if found is None else found[1] for found in opened]

    def reencrypt(
        self,
        rows: Sequence[EncryptedRow],
        column: EncryptedColumn,
        *,
        install_id: str,
        materials: Mapping[int, SecretBytes],
        key_version: int,
        material: SecretBytes,
    ) -> list[bytes | None]:
        random = self._randomness.token_bytes(_RANDOM_BYTES * len(rows))  # one system call for all of them
        keyed = _keyed(material)
        reencrypted: list[bytes | None] = []
        opened = _decrypted(rows, column, install_id, materials)
        for start, found in zip(range(0, len(random), _RANDOM_BYTES), opened, strict=True):
            if found is None:
                reencrypted.append(None)
            else:
                encoded, _, plaintext = found
                fresh = random[start : start + _RANDOM_BYTES]
                reencrypted.append(_encrypt(plaintext, encoded, fresh, key_version, keyed))
        return reencrypted


def _decrypted(
    rows: Sequence[EncryptedRow], column: EncryptedColumn, install_id: str, materials: Mapping[int, SecretBytes]
) -> Iterable[tuple[bytes, int, bytes] | None]:
    """Of each row its encoded context, the key version that opens it and the plaintext; None where it does not open.

    The keyed HMACs, which end with this call, and the column's part of the context are made once for all rows.
    """
    keyed = {version: _keyed(material) for version, material in materials.items()}
    before, after = _before_row(install_id, column.table), _after_row(column.field, column.key_name)
    for row in rows:
        try:
            encoded = before + _of_row(row.id, row.owner_kind, row.owner_id) + after
            key_version, plaintext = _decrypt(row.value, encoded, keyed.get)
        except CryptoError:
            yield None
        else:
            yield encoded, key_version, plaintext


def _encrypt(plaintext: bytes, encoded: bytes, random: bytes, key_version: int, keyed: HMAC) -> bytes:
    salt, nonce = random[:_SALT_BYTES], random[_SALT_BYTES:]
    context = _context(encoded, key_version)
    record_key, commitment = _derive(keyed, context, salt)
    header = _HEADER.pack(FORMAT, AES_256_GCM, key_version, salt, nonce, commitment)
    return header + AESGCM(record_key).encrypt(nonce, plaintext, context)


def _decrypt(envelope: bytes, encoded: bytes, keyed_of: Callable[[int], HMAC | None]) -> tuple[int, bytes]:
    """Key version and plaintext."""
    key_version, salt, nonce, commitment = _parse(envelope)
    keyed = keyed_of(key_version)
    if keyed is None:
        raise _refused()
    context = _context(encoded, key_version)
    record_key, expected = _derive(keyed, context, salt)
    if not hmac.compare_digest(commitment, expected):
        raise _refused()
    try:
        return key_version, AESGCM(record_key).decrypt(nonce, envelope[_HEADER.size :], context)
    except InvalidTag:
        raise _refused() from None


def _parse(envelope: bytes) -> tuple[int, bytes, bytes, bytes]:
    """Key version, salt, nonce and commitment. Raises CryptoError if it is no envelope of this format."""
    if len(envelope) < _HEADER.size + _TAG_BYTES:
        raise _refused()
    form, algorithm, key_version, salt, nonce, commitment = _HEADER.unpack_from(envelope)
    if form != FORMAT or algorithm != AES_256_GCM:
        raise _refused()
    return key_version, salt, nonce, commitment


def _context(encoded: bytes, key_version: int) -> bytes:
    """With the key version: what the record key depends on, and the AAD.

    Another algorithm must take another scheme, as the record key would be shared.
    """
    return encoded + _VERSION.pack(4, key_version)  # its length and itself, as encode_tuple has it


def _encode(context: EncryptionContext) -> bytes:
    row = _of_row(context.row_id, context.owner_kind, context.owner_id)
    return _before_row(context.install_id, context.table) + row + _after_row(context.field, context.key_name)


def _before_row(install_id: str, table: str) -> bytes:
    return encode_tuple(_SCHEME, FORMAT.to_bytes(1, "big"), install_id, table)


def _of_row(row_id: str, owner_kind: str, owner_id: str) -> bytes:
    """As ``encode_tuple``, in half the time: a re-encryption calls it for every row."""
    try:
        row, kind, owner = row_id.encode(*_UTF_8), owner_kind.encode(*_UTF_8), owner_id.encode(*_UTF_8)
    except AttributeError:  # an SQLite file that somebody edited can hold something else than text there
        raise _refused() from None
    return b"".join((_LENGTH(len(row)), row, _LENGTH(len(kind)), kind, _LENGTH(len(owner)), owner))


def _after_row(field: str, key_name: str) -> bytes:
    return encode_tuple(field, key_name)


def _keyed(material: SecretBytes) -> HMAC:
    """HMAC-SHA-512 with a key version in it. It is as secret as that: no one keeps it for longer than one call."""
    return HMAC(material.reveal(), _SHA512)


def _derive(keyed: HMAC, context: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """Record key and commitment: HKDF-Expand with SHA-512 (RFC 5869, 2.3), info = context || salt, 64 bytes.

    So many bytes are one block. Nothing is extracted, because a key version is uniformly random (RFC 5869, 3.3).
    """
    block = keyed.copy()
    block.update(context + salt + _ONLY_BLOCK)
    derived = block.finalize()
    return derived[:_KEY_BYTES], derived[_KEY_BYTES:]


def _refused() -> CryptoError:
    return CryptoError("the envelope does not open")
