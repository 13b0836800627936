"""Ports for passkeys: where they are stored, and the judge of what authenticators answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.domain.passkeys import Passkey, RelyingParty


class PasskeyRepository(Protocol):
    """Passkeys. Changes of an unknown id are ignored."""

    async def add(self, passkey: Passkey, *, most: int) -> bool:
        """Store a passkey of an existing user; False where the user has ``most`` already, also of simultaneous ones.

        Raises UniqueViolation for a credential id that is stored already.
        """
        ...

    async def get(self, passkey_id: str) -> Passkey | None:
        """Return the passkey, or None."""
        ...

    async def by_credential(self, credential_id: bytes) -> Passkey | None:
        """Return the passkey of that credential id, or None."""
        ...

    async def of(self, user_id: str) -> Sequence[Passkey]:
        """Return the passkeys of a user in the order in which they were added."""
        ...

    async def use(self, passkey_id: str, sign_count: int, at: datetime, *, synced: bool) -> bool:
        """Record a use; False where the counter has not risen since, or the passkey is gone. See `Passkey.counts_on`.

        Of simultaneous uses with one counter, other than 0, exactly one is True.
        """
        ...

    async def remove(self, passkey_id: str) -> bool:
        """Delete a passkey; False where there is none."""
        ...

    async def clear(self, user_id: str) -> int:
        """Delete every passkey of a user; return how many."""
        ...


class AnswerRefused(Exception):
    """An answer of an authenticator is malformed, or not for us, or not true; the text is for the log alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The challenge, key and user that an answer names, before anything is verified."""

    challenge: bytes
    credential_id: bytes
    user_handle: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """The public key that an authenticator made; the members are those of `Passkey`."""

    credential_id: bytes
    public_key: bytes
    sign_count: int
    transports: tuple[str, ...]
    synced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """The signed facts: the authenticator's counter, and whether its key is backed up to other devices."""

    sign_count: int
    synced: bool


Answer = Mapping[str, object]
"""The result of ``PublicKeyCredential.toJSON()`` in a browser (WebAuthn Level 3, 5.1)."""
Options = Mapping[str, object]
"""The argument of ``PublicKeyCredential.parse…OptionsFromJSON()`` in a browser (WebAuthn Level 3, 5.1.8, 5.1.9)."""


class Authenticators(Protocol):
    """WebAuthn Level 3 on the side of the relying party. The person is always to be verified, by PIN or biometrics."""

    def creation_options(
        self, party: RelyingParty, challenge: bytes, *, handle: bytes, username: str, known: Sequence[Passkey]
    ) -> Options:
        """Return the options by which a browser makes a key; an authenticator with one of the ``known`` refuses."""
        ...

    def request_options(self, party: RelyingParty, challenge: bytes, *, allowed: Sequence[Passkey]) -> Options:
        """Return the options by which a browser signs: with an ``allowed`` key, or any of this host without one."""
        ...

    def claimed(self, answer: Answer) -> Claimed:
        """Return the challenge, key and user that an answer names. Raises AnswerRefused."""
        ...

    async def verify_creation(self, answer: Answer, party: RelyingParty, challenge: bytes) -> NewKey:
        """Return the key that was made for that challenge. Raises AnswerRefused."""
        ...

    async def verify_signature(
        self, answer: Answer, party: RelyingParty, challenge: bytes, *, public_key: bytes
    ) -> Signed:
        """Return the facts that were signed for that challenge; the caller judges the counter. Raises AnswerRefused."""
        ...
