"""Challenges of passkeys: signed, not stored, so that a flood of questions fills nothing. An answered one is stored.

A challenge holds the second in which it expires, 16 random bytes, and a MAC over both, its ceremony and for whom it is.
Any process can judge it. The SHA-256 of an answered one is kept until it would have expired: it serves once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from app.domain.passkeys import CHALLENGE_LASTS, Ceremony
from app.services.authentication.signing import Signatures
from app.services.ports import Clock, Randomness, UnitOfWork

_TIME, _NONCE, _MAC = 8, 16, 32
"""The bytes of its parts."""


class PasskeyChallenges:
    """Makes challenges, judges them and uses them up. ``issue`` and ``stands`` raise NotReady."""

    def __init__(self, *, signatures: Signatures, clock: Clock, randomness: Randomness) -> None:
        self._signatures = signatures
        self._clock = clock
        self._randomness = randomness

    def issue(self, ceremony: Ceremony, *recipient: str) -> bytes:
        """Return a challenge for five minutes, for that recipient alone, such as a user in a session."""
        until = int((self._clock.now() + CHALLENGE_LASTS).timestamp()).to_bytes(_TIME, "big")
        signed = until + self._randomness.token_bytes(_NONCE)
        return signed + self._signatures.sign("passkey challenge", *_parts(ceremony, signed, recipient))

    def stands(self, challenge: bytes, ceremony: Ceremony, *recipient: str) -> bool:
        """Whether it was made here, for that ceremony and recipient, within the last five minutes."""
        if len(challenge) != _TIME + _NONCE + _MAC:
            return False
        signed, mac = challenge[:-_MAC], challenge[-_MAC:]
        ours = self._signatures.made(mac, "passkey challenge", *_parts(ceremony, signed, recipient))
        return ours and self._clock.now() < _until(challenge)

    async def spend(self, uow: UnitOfWork, challenge: bytes) -> bool:
        """Use a challenge up that ``stands``; of any number of simultaneous uses exactly one is True."""
        return await uow.tickets.spend(_digest(challenge), _until(challenge))

    async def spent(self, uow: UnitOfWork, challenge: bytes) -> bool:
        """Whether it was used up."""
        return await uow.tickets.spent(_digest(challenge))


def _parts(ceremony: Ceremony, signed: bytes, recipient: Sequence[str]) -> Sequence[bytes]:
    return (ceremony.value.encode(), signed, *(each.encode() for each in recipient))


def _digest(challenge: bytes) -> bytes:
    return hashlib.sha256(challenge).digest()


def _until(challenge: bytes) -> datetime:
    return datetime.fromtimestamp(int.from_bytes(challenge[:_TIME], "big"), UTC)
