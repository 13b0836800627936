"""The age file format, version 1 (https://age-encryption.org/v1, C2SP), streamed: 64 KiB are in memory at a time.

Recipients are X25519 keys (``age1…``) or a passphrase (scrypt). Stanzas of other kinds (SSH, plugins, post-quantum) are
passed over where another opens the file, and named where none does. The reader is as strict as the specification:
one encoding for each value, a passphrase alone, no byte behind the end. Why not the library: decision record 33.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from app.domain.errors import BackupDamaged, BackupLocked, NotABackup
from app.domain.secrets import SecretBytes
from app.infrastructure.backup.age_keys import Identity, Passphrase, Recipient
from app.infrastructure.backup.stanzas import (
    FILE_KEY_BYTES,
    LARGEST_HEADER,
    SCRYPT,
    TAG_BYTES,
    X25519,
    Stanza,
    checked,
    damaged_header,
    decoded,
    encoded,
    read_body,
    read_line,
    text_of,
)
from app.infrastructure.crypto.derive import hkdf_sha256
from app.services.ports import Randomness

CHUNK: Final = 64 * 1024
"""The bytes of plaintext in a chunk; every chunk but the last has as many."""
BEGINNING: Final = b"age-encryption.org/v1"
"""The first bytes of every age file of this version."""
_ARMOR: Final = b"-----BEGIN AGE"


class FileKey:
    """An identity that has the key of one file already: the process that wrote it can read it back."""

    def __init__(self, key: SecretBytes) -> None:
        self._key = key

    def unwrap(self, _stanza: Stanza) -> bytes | None:
        """See `Identity`."""
        return self._key.reveal()


class EncryptingWriter:
    """Encrypts what is written to it, chunk by chunk; `finish` writes the last one. The file below stays open."""

    def __init__(self, file: BinaryIO, recipients: Sequence[Recipient], randomness: Randomness) -> None:
        if not recipients or (len(recipients) > 1 and any(isinstance(each, Passphrase) for each in recipients)):
            raise ValueError("a file is for recipients or for one passphrase alone")
        file_key = randomness.token_bytes(FILE_KEY_BYTES)
        stanzas = (each.wrap(file_key, randomness).lines() for each in recipients)
        authenticated = b"".join((BEGINNING + b"\n", *stanzas, b"---"))
        nonce = randomness.token_bytes(16)
        file.write(authenticated + b" " + encoded(_header_mac(file_key, authenticated)).encode() + b"\n" + nonce)
        self._file = file
        self._payload = _Payload(file_key, nonce)
        self._waiting = bytearray()
        self.file_key = FileKey(SecretBytes(file_key))

    def write(self, data: bytes) -> None:
        """Take more plaintext. Raises OSError."""
        self._waiting += data
        # One chunk is kept back, full as it may be: it could be the last.
        while len(self._waiting) > CHUNK:
            self._file.write(self._payload.encrypt(bytes(self._waiting[:CHUNK]), last=False))
            del self._waiting[:CHUNK]

    def finish(self) -> None:
        """Write what is left as the last chunk. Raises OSError."""
        self._file.write(self._payload.encrypt(bytes(self._waiting), last=True))
        self._waiting.clear()


@dataclass(frozen=True, slots=True)
class Header:
    """The part before the payload, which can be read without a key: the stanzas and their MAC."""

    stanzas: tuple[Stanza, ...]
    authenticated: bytes
    mac: bytes

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the stanzas in their order, such as X25519, scrypt, ssh-ed25519."""
        return tuple(stanza.kind for stanza in self.stanzas)

    def file_key(self, by: Sequence[Identity]) -> bytes:
        """The file key, for one of these. Raises BackupLocked, BackupDamaged."""
        for stanza in self.stanzas:
            for identity in by:
                key = identity.unwrap(stanza)
                if key is None:
                    continue
                if not hmac.compare_digest(_header_mac(key, self.authenticated), self.mac):
                    raise damaged_header("it was changed after it was written")
                return key
        raise BackupLocked(self._why_locked(by))

    def _why_locked(self, by: Sequence[Identity]) -> str:
        passphrase = any(isinstance(each, Passphrase) for each in by)
        if self.kinds == (SCRYPT,):
            if passphrase:
                return "the passphrase does not open this backup: give the one that it was made with"
            return "this backup was made with a passphrase: give it with --passphrase-file"
        others = sorted(set(self.kinds) - {X25519})
        also = f" (it is also for keys of the kinds {', '.join(others)}: `age -d` may open it)" if others else ""
        if X25519 in self.kinds:
            if passphrase or not by:
                return f"this backup is for an age recipient: give its identity with --identity-file{also}"
            return f"the identity does not open this backup: give that of the recipient it was made for{also}"
        return f"this backup is for keys that Keyhall cannot use ({', '.join(others)}): decrypt it with `age -d`"


def read_header(file: BinaryIO) -> Header:
    """Read the header; the file is at its payload then. Raises NotABackup, BackupDamaged, OSError."""
    first = _first_line(file)
    authenticated = [first]
    stanzas: list[Stanza] = []
    size = 0
    while (line := read_line(file)).startswith(b"-> "):
        kind, *arguments = text_of(line[3:-1]).split(" ")
        if not all((kind, *arguments)):
            raise damaged_header("a line is malformed")
        body, lines = read_body(file)
        authenticated += (line, *lines)
        stanzas.append(Stanza(kind, tuple(arguments), body))
        size += len(line) + sum(map(len, lines))
        if size > LARGEST_HEADER:
            raise damaged_header("it is longer than any header")
    mac = decoded(text_of(line[4:-1])) if line.startswith(b"--- ") else b""
    if len(mac) != 32 or not stanzas:
        raise damaged_header("a line is malformed")
    return Header(checked(stanzas), b"".join((*authenticated, b"---")), mac)


def _first_line(file: BinaryIO) -> bytes:
    first = file.readline(len(BEGINNING) + 1)
    if first.startswith(_ARMOR):
        raise NotABackup("it is an age file in text form (age -a): decrypt it with `age -d`, encrypt it without -a")
    if first != BEGINNING + b"\n":
        if first.startswith(b"age-encryption.org/") and first.endswith(b"\n"):
            raise NotABackup("it is an age file of another version than v1")
        raise NotABackup("it is not an age file, so no backup of Keyhall")
    return first


def decrypted(file: BinaryIO, by: Sequence[Identity]) -> Iterator[bytes]:
    """The plaintext of a whole file, chunk by chunk; a chunk is given out once it was authenticated.

    Raises NotABackup, BackupLocked, BackupDamaged, OSError.
    """
    file_key = read_header(file).file_key(by)
    nonce = file.read(16)
    if len(nonce) != 16:
        raise BackupDamaged("the backup ends after its header: it was cut")
    payload = _Payload(file_key, nonce)
    size = CHUNK + TAG_BYTES
    chunk = file.read(size)
    while True:
        following = file.read(size) if len(chunk) == size else b""
        plain = payload.decrypt(chunk, last=not following)
        if not plain and payload.number > 1:
            raise BackupDamaged("the last part of the backup is empty, which no writer makes it")
        yield plain
        if not following:
            return
        chunk = following


class _Payload:
    """STREAM: each chunk under a nonce of its number and whether it is the last."""

    def __init__(self, file_key: bytes, nonce: bytes) -> None:
        self._cipher = ChaCha20Poly1305(hkdf_sha256(file_key, salt=nonce, info=b"payload", length=32))
        self.number = 0

    def _nonce(self, *, last: bool) -> bytes:
        return self.number.to_bytes(11, "big") + bytes([last])

    def encrypt(self, plain: bytes, *, last: bool) -> bytes:
        chunk = self._cipher.encrypt(self._nonce(last=last), plain, None)
        self.number += 1
        return chunk

    def decrypt(self, chunk: bytes, *, last: bool) -> bytes:
        try:
            plain = self._cipher.decrypt(self._nonce(last=last), chunk, None)
        except InvalidTag:
            raise self._damage(chunk, last=last) from None
        self.number += 1
        return plain

    def _damage(self, chunk: bytes, *, last: bool) -> BackupDamaged:
        at = self.number * CHUNK
        try:
            self._cipher.decrypt(self._nonce(last=not last), chunk, None)
        except InvalidTag:
            return BackupDamaged(f"the backup is damaged or was cut, in the 64 KiB from byte {at} of its content on")
        happened = "it was cut" if last else "something was added at its end"
        return BackupDamaged(f"the backup does not end where it should, at byte {at} of its content: {happened}")


def _header_mac(file_key: bytes, authenticated: bytes) -> bytes:
    return hmac.digest(hkdf_sha256(file_key, salt=None, info=b"header", length=32), authenticated, "sha256")
