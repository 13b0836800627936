"""Pending sign-ins: what a browser keeps between the password and the code, so that neither is typed twice.

It is signed, not stored, and signs nobody in: with it, a code is all that is missing. It ends after five minutes, with
every session of the user (a change of password or factor), and in the browser at the sign-in. A second sign-in with it
would need another code, since each counts once.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from app.domain.identity import User
from app.domain.keys import KeyName
from app.domain.secrets import SecretBytes, SecretText
from app.domain.text import whole_number
from app.services.keys import KeyManagementService
from app.services.ports import Clock, KeyDerivation, Randomness

PENDING_SIGN_IN_LASTS: Final = timedelta(minutes=5)
_PREFIX: Final = "khp_"
_LONGEST: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSignIn:
    """A user whose password was right a moment ago."""

    user_id: str
    token_version: int

    def of(self, user: User) -> bool:
        """Whether it still is that user's, who is not disabled and whose sessions have not all been ended since."""
        return self.user_id == user.id and self.token_version == user.token_version and user.disabled_at is None


class PendingSignIns:
    """Makes and reads them. Both raise NotReady."""

    def __init__(
        self, *, keys: KeyManagementService, derivation: KeyDerivation, clock: Clock, randomness: Randomness
    ) -> None:
        self._keys = keys
        self._derivation = derivation
        self._clock = clock
        self._randomness = randomness

    def issue(self, user: User) -> SecretText:
        """Return one for a user who has just proven the password."""
        nonce, issued = self._randomness.token_bytes(16).hex(), str(int(self._clock.now().timestamp()))
        parts = (user.id, str(user.token_version), nonce, issued)
        mac = self._mac(self._keys.primary(KeyName.API_SECRET_KEY).material, parts)
        return SecretText(_PREFIX + ".".join((*parts, mac)))

    def read(self, text: str | None) -> PendingSignIn | None:
        """Return it, or None for a text that is none, or none any more."""
        if text is None or not text.startswith(_PREFIX) or len(text) > _LONGEST or not text.isascii():
            return None
        *parts, mac = text.removeprefix(_PREFIX).split(".")
        if len(parts) != 4:
            return None
        materials = self._keys.usable_materials(KeyName.API_SECRET_KEY).values()
        if not any(hmac.compare_digest(self._mac(each, parts), mac) for each in materials):
            return None
        version, issued = whole_number(parts[1]), whole_number(parts[3])
        if version is None or issued is None:
            return None
        if self._clock.now() - datetime.fromtimestamp(issued, UTC) > PENDING_SIGN_IN_LASTS:
            return None
        return PendingSignIn(user_id=parts[0], token_version=version)

    def _mac(self, material: SecretBytes, parts: list[str] | tuple[str, ...]) -> str:
        signed = self._derivation.mac(material, "pending-sign-in", *(part.encode() for part in parts))
        return urlsafe_b64encode(signed).decode().rstrip("=")
