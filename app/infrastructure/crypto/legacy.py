"""Ciphertext of other programs, for imports alone: Fernet, and AES-GCM as nonce ‖ ciphertext ‖ tag."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.domain.errors import CryptoError
from app.domain.secrets import SecretBytes, SecretText

_KEY_BYTES: Final = 32
_NONCE: Final = 12
_TAG: Final = 16
_HEX_KEY: Final = re.compile(r"[0-9A-Fa-f]{64}")
_FERNET: Final = re.compile(r"gAAAA[\w-]+={0,2}", re.ASCII)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{38,}={0,2}", re.ASCII)


class LegacyCiphers:
    """See `app.services.ports.LegacyCipher`. ``settings_key`` is CREDENTIAL_ENCRYPTION_KEY."""

    def __init__(self, settings_key: SecretText | None) -> None:
        self._settings_key = settings_key

    def read_key(self, text: SecretText) -> SecretBytes:
        written = text.reveal().strip().removeprefix("\ufeff")
        material = bytes.fromhex(written) if _HEX_KEY.fullmatch(written) else _from_base64(written)
        if material is None or len(material) != _KEY_BYTES:
            raise CryptoError("holds no key of 32 bytes in hex or base64")
        return SecretBytes(material)

    def open(self, value: SecretText | SecretBytes, keys: Sequence[SecretBytes], *, encrypted: bool) -> SecretText:
        all_keys = [*keys, *([self.read_key(self._settings_key)] if self._settings_key else [])]
        text = _as_text(value)
        token = None if text is None else _fernet_token(text)
        if token is not None:
            return _decoded(_fernet(token, all_keys))
        for sealed in _possible(value, text):
            for key in all_keys:
                try:
                    opened = AESGCM(key.reveal()).decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
                except InvalidTag:
                    continue
                return _decoded(opened)
        if encrypted or text is None:
            raise CryptoError(_not_opened("", all_keys))
        return SecretText(text)


def _as_text(value: SecretText | SecretBytes) -> str | None:
    if isinstance(value, SecretText):
        return value.reveal().strip()
    try:
        text = value.reveal().decode("ascii").strip()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def _fernet_token(text: str) -> str | None:
    """The token, also where it was put into base64 once more."""
    if not _FERNET.fullmatch(text):
        inner = _from_base64(text) if text.startswith("Z0FBQUFB") else None
        text = inner.decode("ascii", "replace") if inner else ""
    return text if _FERNET.fullmatch(text) and len(text) >= 100 else None


def _fernet(token: str, keys: Sequence[SecretBytes]) -> bytes:
    for key in keys:
        try:
            return Fernet(base64.urlsafe_b64encode(key.reveal())).decrypt(token)
        except InvalidToken:
            continue
    raise CryptoError(_not_opened(" with Fernet", keys))


def _not_opened(how: str, keys: Sequence[SecretBytes]) -> str:
    if keys:
        return f"is encrypted{how}, and no given key opens it"
    return f"is encrypted{how}: give its key with --key-file, or as CREDENTIAL_ENCRYPTION_KEY"


def _possible(value: SecretText | SecretBytes, text: str | None) -> Iterator[bytes]:
    """The bytes that may be AES-GCM's; authentication decides."""
    if isinstance(value, SecretBytes) and len(value) > _NONCE + _TAG:
        yield value.reveal()
    decoded = _from_base64(text) if text and _BASE64.fullmatch(text) else None
    if decoded is not None and len(decoded) > _NONCE + _TAG:
        yield decoded


def _from_base64(text: str) -> bytes | None:
    try:
        padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
        return base64.b64decode(padded.translate(str.maketrans("-_", "+/")), validate=True)
    except (ValueError, binascii.Error):
        return None


def _decoded(opened: bytes) -> SecretText:
    try:
        return SecretText(opened.decode())
    except UnicodeDecodeError:
        pass
    raise CryptoError("decrypts to bytes that are no text")
