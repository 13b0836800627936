"""Pending sign-ins: what a browser keeps between the password and the code, so that neither is typed twice.

It is signed, not stored, and signs nobody in: with it, a code is all that is missing. It ends after five minutes, with
every session of the user (a change of password or factor), and in the browser at the sign-in. A second sign-in with it
would need another code, since each counts once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from app.domain.identity import User
from app.domain.secrets import SecretText
from app.services.authentication.signing import Signatures, UserText, UserTexts
from app.services.ports import Clock, Randomness

PENDING_SIGN_IN_LASTS: Final = timedelta(minutes=5)


class PendingSignIns:
    """Makes and reads them. Both raise NotReady."""

    def __init__(self, *, signatures: Signatures, clock: Clock, randomness: Randomness) -> None:
        self._texts = UserTexts(
            signatures=signatures, clock=clock, label="pending-sign-in", prefix="khp_", lasts=PENDING_SIGN_IN_LASTS
        )
        self._randomness = randomness

    def issue(self, user: User, *, by_discord: bool = False) -> SecretText:
        """Return one for a user who has just proven the password, or a Discord account."""
        return self._texts.issue(user, f"{int(by_discord)}{self._randomness.token_bytes(16).hex()}")

    @staticmethod
    def by_discord(pending: UserText) -> bool:
        """Whether it was Discord that proved the user so far."""
        return pending.word.startswith("1")

    def read(self, text: str | None) -> UserText | None:
        """Return whose password was right a moment ago, or None for a text that is none, or none any more."""
        return self._texts.read(text)
