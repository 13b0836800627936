"""New secrets for authenticator apps: drawn, encrypted, and shown to their owner."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.identity import Actor
from app.domain.keys import KeyName
from app.domain.second_factor import SECRET_BYTES, TotpFactor
from app.domain.secrets import SecretBytes, SecretText
from app.services.credentials.cipher import CredentialCipher
from app.services.keys import KeyManagementService
from app.services.ports import Clock, OneTimePasswords, Randomness, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """A new secret for an authenticator app, to be typed, opened or scanned. It is shown once."""

    secret: SecretText
    uri: SecretText
    qr_svg: SecretText


class Enrolments:
    """Makes them. ``pending`` raises NotReady."""

    def __init__(
        self,
        *,
        keys: KeyManagementService,
        cipher: CredentialCipher,
        codes: OneTimePasswords,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._keys = keys
        self._cipher = cipher
        self._codes = codes
        self._clock = clock
        self._randomness = randomness

    def draw(self) -> SecretBytes:
        """Return a new secret."""
        return SecretBytes(self._randomness.token_bytes(SECRET_BYTES))

    async def pending(self, uow: UnitOfWork, actor: Actor, secret: SecretBytes) -> TotpFactor:
        """Return the secret, encrypted for the actor, as a factor that waits for its first code."""
        primary = (await self._keys.ring_under_lock(uow)).primary(KeyName.AES_KEY)
        factor_id = self._randomness.new_id()
        return TotpFactor(
            id=factor_id,
            user_id=actor.user_id,
            encrypted_secret=self._cipher.encrypt_totp(secret, factor_id, actor.user_id, primary),
            key_version=primary.version,
            created_at=self._clock.now(),
        )

    def shown(self, secret: SecretBytes, actor: Actor) -> Enrolment:
        """Return a secret as its owner sees it."""
        uri = self._codes.uri(secret, actor.username)
        return Enrolment(secret=self._codes.typed(secret), uri=uri, qr_svg=self._codes.qr_svg(uri))
