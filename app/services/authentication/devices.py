"""Device claims: what a browser keeps to show that it signed in to an account before.

A claim signs nobody in. It gives the browser a budget of wrong passwords of its own, which no stranger can fill
(OWASP, "Slow Down Online Guessing Attacks with Device Cookies"). Claims are signed, not stored.
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

DEVICE_REMEMBERED_FOR: Final = timedelta(days=180)
_PREFIX: Final = "khd_"
_LONGEST: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceClaim:
    """A claim whose signature is right and whose time has not passed."""

    user_id: str
    token_version: int
    device_id: str

    def of(self, user: User) -> bool:
        """Whether it was made for that user, whose sessions have not all been ended since."""
        return self.user_id == user.id and self.token_version == user.token_version


class DeviceClaims:
    """Makes and reads claims. Both raise NotReady."""

    def __init__(
        self, *, keys: KeyManagementService, derivation: KeyDerivation, clock: Clock, randomness: Randomness
    ) -> None:
        self._keys = keys
        self._derivation = derivation
        self._clock = clock
        self._randomness = randomness

    def issue(self, user: User, former: DeviceClaim | None) -> SecretText:
        """Return a claim for a user who has just signed in; the device keeps the id of its former claim."""
        kept = former is not None and former.of(user)
        device_id = former.device_id if former is not None and kept else self._randomness.token_bytes(16).hex()
        parts = (user.id, str(user.token_version), device_id, str(int(self._clock.now().timestamp())))
        mac = self._mac(self._keys.primary(KeyName.API_SECRET_KEY).material, parts)
        return SecretText(_PREFIX + ".".join((*parts, mac)))

    def read(self, text: str | None) -> DeviceClaim | None:
        """Return the claim, or None for a text that is none, or none any more."""
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
        if self._clock.now() - datetime.fromtimestamp(issued, UTC) > DEVICE_REMEMBERED_FOR:
            return None
        return DeviceClaim(user_id=parts[0], token_version=version, device_id=parts[2])

    def _mac(self, material: SecretBytes, parts: list[str] | tuple[str, ...]) -> str:
        signed = self._derivation.mac(material, "device", *(part.encode() for part in parts))
        return urlsafe_b64encode(signed).decode().rstrip("=")
