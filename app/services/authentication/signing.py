"""Texts that browsers and authenticators keep for Keyhall: signed, not stored, so that many of them fill nothing."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from app.domain.identity import User
from app.domain.keys import KeyName
from app.domain.secrets import SecretBytes, SecretText
from app.domain.text import whole_number
from app.services.keys import KeyManagementService
from app.services.ports import Clock, KeyDerivation

_LONGEST: Final = 256


class Signatures:
    """MACs under API_SECRET_KEY, which outlive its rotation. Both methods raise NotReady."""

    def __init__(self, *, keys: KeyManagementService, derivation: KeyDerivation) -> None:
        self._keys = keys
        self._derivation = derivation

    def sign(self, label: str, *parts: bytes) -> bytes:
        """Return the MAC of these parts for that use, 32 bytes, under the primary version."""
        return self._signed(self._keys.primary(KeyName.API_SECRET_KEY).material, label, parts)

    def made(self, mac: bytes, label: str, *parts: bytes) -> bool:
        """Whether that is a MAC of these parts for that use, under any version that may still be used."""
        materials = self._keys.usable_materials(KeyName.API_SECRET_KEY).values()
        return any(hmac.compare_digest(self._signed(each, label, parts), mac) for each in materials)

    def _signed(self, material: SecretBytes, label: str, parts: Sequence[bytes]) -> bytes:
        return self._derivation.mac(material, label, *parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserText:
    """A text about a user, whose signature is right and whose time has not passed."""

    user_id: str
    token_version: int
    word: str

    def of(self, user: User) -> bool:
        """Whether it was made for that user, whose sessions have not all been ended since."""
        return self.user_id == user.id and self.token_version == user.token_version


class UserTexts:
    """Texts of one use about users, for cookies; ``word`` is a text of hexadecimal digits that goes with each."""

    def __init__(self, *, signatures: Signatures, clock: Clock, label: str, prefix: str, lasts: timedelta) -> None:
        self._signatures = signatures
        self._clock = clock
        self._label = label
        self._prefix = prefix
        self._lasts = lasts

    def issue(self, user: User, word: str) -> SecretText:
        """Return a text that ends with all sessions of the user, and after its time. Raises NotReady."""
        parts = (user.id, str(user.token_version), word, str(int(self._clock.now().timestamp())))
        mac = self._signatures.sign(self._label, *(part.encode() for part in parts))
        return SecretText(self._prefix + ".".join((*parts, base64url(mac))))

    def read(self, text: str | None) -> UserText | None:
        """Return what a text says, or None for one that is none, or none any more. Raises NotReady."""
        if text is None or not text.startswith(self._prefix) or len(text) > _LONGEST or not text.isascii():
            return None
        *parts, mac = text.removeprefix(self._prefix).split(".")
        if len(parts) != 4:
            return None
        if not self._signatures.made(decoded(mac), self._label, *(part.encode() for part in parts)):
            return None
        version, issued = whole_number(parts[1]), whole_number(parts[3])
        if version is None or issued is None:
            return None
        if self._clock.now() - datetime.fromtimestamp(issued, UTC) > self._lasts:
            return None
        return UserText(user_id=parts[0], token_version=version, word=parts[2])


def base64url(data: bytes) -> str:
    """Base 64 for addresses and cookies, without padding (RFC 4648, 5)."""
    return urlsafe_b64encode(data).decode().rstrip("=")


def decoded(text: str) -> bytes:
    """The bytes of such a text; none for a text that `base64url` does not make of any."""
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""
    return data if base64url(data) == text else b""
