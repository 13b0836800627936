"""Device claims: what a browser keeps to show that it signed in to an account before.

A claim signs nobody in. It gives the browser a budget of wrong passwords of its own, which no stranger can fill
(OWASP, "Slow Down Online Guessing Attacks with Device Cookies"). Claims are signed, not stored.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from app.domain.identity import User
from app.domain.secrets import SecretText
from app.services.authentication.signing import Signatures, UserText, UserTexts
from app.services.ports import Clock, Randomness

DEVICE_REMEMBERED_FOR: Final = timedelta(days=180)


class DeviceClaims:
    """Makes and reads claims, whose ``word`` is the id of the device. Both raise NotReady."""

    def __init__(self, *, signatures: Signatures, clock: Clock, randomness: Randomness) -> None:
        self._texts = UserTexts(
            signatures=signatures, clock=clock, label="device", prefix="khd_", lasts=DEVICE_REMEMBERED_FOR
        )
        self._randomness = randomness

    def issue(self, user: User, former: UserText | None) -> SecretText:
        """Return a claim for a user who has just signed in; the device keeps the id of its former claim."""
        kept = former is not None and former.of(user)
        return self._texts.issue(
            user, former.word if former is not None and kept else self._randomness.token_bytes(16).hex()
        )

    def read(self, text: str | None) -> UserText | None:
        """Return the claim, or None for a text that is none, or none any more."""
        return self._texts.read(text)
