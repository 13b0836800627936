"""Codes by which a person in Discord proves an account on the web: drawn, read as people type them, and hashed."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from app.domain.errors import LinkCodeRefused
from app.domain.keys import KeyName
from app.domain.links import LinkPurpose, OneTimeLink
from app.domain.secrets import SecretText
from app.services.keys import KeyManagementService
from app.services.ports import KeyDerivation, Randomness

CODE_LASTS: Final = timedelta(minutes=10)
"""How long a code can be used."""
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: nothing in it is taken for something else."""
_READ_AS: Final = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})
_CHARACTERS: Final = 10
"""50 bits, of which somebody may guess ten times in a quarter of an hour."""


class LinkCodes:
    """Draws and hashes codes. Both methods raise NotReady."""

    def __init__(self, *, keys: KeyManagementService, derivation: KeyDerivation, randomness: Randomness) -> None:
        self._keys = keys
        self._derivation = derivation
        self._randomness = randomness

    def draw(self, user_id: str, now: datetime) -> tuple[SecretText, OneTimeLink]:
        """Return a new code, in two groups as it is shown, and the link of the account that it proves."""
        drawn = int.from_bytes(self._randomness.token_bytes(8), "big")
        code = "".join(_ALPHABET[drawn >> 5 * place & 31] for place in range(_CHARACTERS))
        link = OneTimeLink(
            id=self._randomness.new_id(),
            purpose=LinkPurpose.DISCORD,
            user_id=user_id,
            created_at=now,
            expires_at=now + CODE_LASTS,
        )
        half = _CHARACTERS // 2
        return SecretText(f"{code[:half]}-{code[half:]}"), link

    def digest(self, typed: str) -> bytes:
        """Return the form of a code in the database: under a key, since all codes can be tried against a plain hash.

        Raises LinkCodeRefused for a text that can be no code.
        """
        code = typed[:64].strip().upper().translate(_READ_AS)
        if len(code) != _CHARACTERS or not set(code) <= set(_ALPHABET):
            raise LinkCodeRefused
        # Under the one key that no rotation replaces, so that a code outlives a rotation.
        secret = self._keys.primary(KeyName.AUDIT_SEAL_KEY).material
        return self._derivation.mac(secret, "link-code", code.encode())
