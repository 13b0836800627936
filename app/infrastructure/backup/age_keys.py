"""The keys of age files: X25519 recipients and identities, identity files, passphrases."""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from app.domain import bech32
from app.domain.backup import RECIPIENT, recipient_key
from app.domain.errors import BackupLocked
from app.domain.secrets import SecretBytes, SecretText
from app.infrastructure.backup.stanzas import SCRYPT, X25519, Stanza, damaged_header, decoded, encoded
from app.infrastructure.crypto.derive import hkdf_sha256
from app.services.ports import Randomness

_ZERO_NONCE: Final = bytes(12)
_X25519_LABEL: Final = b"age-encryption.org/v1/X25519"
_SCRYPT_LABEL: Final = b"age-encryption.org/v1/scrypt"
_WORK_FACTOR: Final = 16
"""N is 2**16: 64 MiB for a moment. age takes 2**18; what a passphrase guards here is encrypted a second time inside."""
_LARGEST_WORK_FACTOR: Final = 20
"""1 GiB: a file that asks for more is refused, for it would take the machine's memory."""
_IDENTITY: Final = "age-secret-key-"
_ENCRYPTED: Final = ("age-encryption.org/", "-----BEGIN AGE")


class Recipient(Protocol):
    """Whom a file is encrypted to."""

    def wrap(self, file_key: bytes, randomness: Randomness) -> Stanza:
        """Return the stanza that holds the file key for this recipient."""
        ...


class Identity(Protocol):
    """Who opens a file."""

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Return the file key, or None where the stanza is not for this identity. Raises BackupDamaged."""
        ...


class X25519Recipient:
    """A public key, ``age1…``."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def parse(cls, text: str) -> X25519Recipient:
        """Read ``age1…``. Raises ValueError, which says what is wrong with it."""
        return cls(recipient_key(text))

    def __str__(self) -> str:
        return bech32.encode(RECIPIENT, self._key)

    def wrap(self, file_key: bytes, randomness: Randomness) -> Stanza:
        """See `Recipient`."""
        secret = X25519PrivateKey.from_private_bytes(randomness.token_bytes(32))
        share = secret.public_key().public_bytes_raw()
        shared = secret.exchange(X25519PublicKey.from_public_bytes(self._key))
        key = hkdf_sha256(shared, salt=share + self._key, info=_X25519_LABEL, length=32)
        return Stanza(X25519, (encoded(share),), ChaCha20Poly1305(key).encrypt(_ZERO_NONCE, file_key, None))


class X25519Identity:
    """A secret key, ``AGE-SECRET-KEY-1…``."""

    def __init__(self, key: SecretBytes) -> None:
        self._key = key

    @classmethod
    def parse(cls, text: str) -> X25519Identity:
        """Read ``AGE-SECRET-KEY-1…``. Raises ValueError, which quotes nothing of it."""
        key = bech32.decode(text, _IDENTITY)
        if len(key) != 32:
            raise ValueError("is not the length of an age identity")
        return cls(SecretBytes(key))

    @property
    def recipient(self) -> X25519Recipient:
        """The public key."""
        return X25519Recipient(X25519PrivateKey.from_private_bytes(self._key.reveal()).public_key().public_bytes_raw())

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """See `Identity`."""
        if stanza.kind != X25519:
            return None
        share = decoded(stanza.arguments[0])
        secret = X25519PrivateKey.from_private_bytes(self._key.reveal())
        try:
            shared = secret.exchange(X25519PublicKey.from_public_bytes(share))
        except ValueError:  # a point of low order: the shared secret would be known to all
            raise damaged_header("a key share is not valid") from None
        salt = share + secret.public_key().public_bytes_raw()
        return _opened(hkdf_sha256(shared, salt=salt, info=_X25519_LABEL, length=32), stanza.body)


class Passphrase:
    """A passphrase, to encrypt to and to open with."""

    def __init__(self, text: SecretText, *, work_factor: int = _WORK_FACTOR) -> None:
        if not text:
            raise ValueError("the passphrase is empty")
        self._text = text
        self._work_factor = work_factor

    def wrap(self, file_key: bytes, randomness: Randomness) -> Stanza:
        """See `Recipient`."""
        salt = randomness.token_bytes(16)
        body = ChaCha20Poly1305(self._key(salt, self._work_factor)).encrypt(_ZERO_NONCE, file_key, None)
        return Stanza(SCRYPT, (encoded(salt), str(self._work_factor)), body)

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """See `Identity`."""
        if stanza.kind != SCRYPT:
            return None
        salt, work_factor = decoded(stanza.arguments[0]), int(stanza.arguments[1])
        if work_factor > _LARGEST_WORK_FACTOR:
            raise BackupLocked(
                f"the passphrase is protected with a work factor of {work_factor}, which takes "
                f"{2 ** (work_factor - 20)} GiB of memory; Keyhall reads up to {_LARGEST_WORK_FACTOR}: decrypt the "
                "file with `age -d` and encrypt it to a recipient"
            )
        return _opened(self._key(salt, work_factor), stanza.body)

    def _key(self, salt: bytes, work_factor: int) -> bytes:
        # hashlib's, because it releases the GIL while it works.
        return hashlib.scrypt(
            self._text.reveal().encode(),
            salt=_SCRYPT_LABEL + salt,
            n=1 << work_factor,
            r=8,
            p=1,
            maxmem=2**31 - 1,
            dklen=32,
        )


def identities(text: str) -> list[X25519Identity]:
    """The identities of an identity file, one a line; comments and empty lines are passed over.

    Raises ValueError, which names the line and quotes nothing of it.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.startswith(_ENCRYPTED):
            raise ValueError("is encrypted itself: decrypt it with `age -d` and give the result")
        if stripped.startswith("-----BEGIN") or stripped.upper().startswith(("AGE-PLUGIN-", "AGE-SECRET-KEY-PQ-")):
            raise ValueError(
                f"line {number}: only identities AGE-SECRET-KEY-1… can be used here; open the backup with `age -d` "
                "where it was encrypted to an SSH key, a plugin or a post-quantum key"
            )
        try:
            found.append(X25519Identity.parse(stripped))
        except ValueError as refused:
            raise ValueError(f"line {number}: {refused}") from None
    if not found:
        raise ValueError("holds no identity: it should have a line AGE-SECRET-KEY-1…")
    return found


def _opened(key: bytes, body: bytes) -> bytes | None:
    try:
        return ChaCha20Poly1305(key).decrypt(_ZERO_NONCE, body, None)
    except InvalidTag:
        return None
