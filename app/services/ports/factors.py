"""Ports for second factors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from app.domain.second_factor import TotpFactor
from app.domain.secrets import SecretBytes, SecretText


class OneTimePasswords(Protocol):
    """One-time codes by time (RFC 6238) as authenticator apps make them: SHA-1, 6 digits, 30 seconds."""

    def matching_step(self, secret: SecretBytes, code: SecretText, steps: Sequence[int]) -> int | None:
        """Return the first of these time steps whose code it is, or None. How long it takes says nothing."""
        ...

    def typed(self, secret: SecretBytes) -> SecretText:
        """Return the secret as people type it into an app: base 32 without padding."""
        ...

    def uri(self, secret: SecretBytes, account: str) -> SecretText:
        """Return the `otpauth` address that an app reads from a QR code; ``account`` is shown there."""
        ...

    def qr_svg(self, uri: SecretText) -> SecretText:
        """Return an SVG element with the QR code, dark on white with its quiet zone."""
        ...


class FactorRepository(Protocol):
    """The second factors of users: at most one TOTP secret each, pending or confirmed, and their recovery codes.

    A caller who also ends sessions in the same unit of work does that first: in another order, on PostgreSQL, two units
    of work could wait for each other.
    """

    async def get(self, user_id: str) -> TotpFactor | None:
        """Return the TOTP secret of a user, pending or confirmed, or None."""
        ...

    async def locked(self, user_id: str) -> TotpFactor | None:
        """The same; others who call this for the user wait until the unit of work ends."""
        ...

    async def start(self, factor: TotpFactor) -> bool:
        """Store a pending secret of an existing user in place of another pending one; False where one is confirmed."""
        ...

    async def confirm(self, factor_id: str, step: int, at: datetime) -> bool:
        """Confirm a pending secret, with a code of that time step; False where there is none that is pending."""
        ...

    async def use_step(self, factor_id: str, step: int) -> bool:
        """Use up the code of a time step: of any number of simultaneous uses exactly one is True.

        False for a step that is not later than the last one, and for a secret that is gone or not confirmed.
        """
        ...

    async def put_codes(self, user_id: str, hashes: Collection[bytes], at: datetime) -> None:
        """Store the hashes of new recovery codes of an existing user; all former ones are deleted."""
        ...

    async def has_code(self, user_id: str, code_hash: bytes) -> bool:
        """Whether the user has that recovery code, not used yet."""
        ...

    async def use_code(self, user_id: str, code_hash: bytes) -> bool:
        """Use a recovery code up: of any number of simultaneous uses exactly one is True."""
        ...

    async def codes_left(self, user_id: str) -> int:
        """Return how many recovery codes the user has."""
        ...

    async def clear(self, user_id: str) -> bool:
        """Delete every second factor of a user; whether there was a confirmed one."""
        ...

    async def encrypted_by_others(self, key_versions: Sequence[int]) -> Sequence[str]:
        """Return the ids of the users whose confirmed secret none of these versions of AES_KEY encrypted, in order."""
        ...

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        """Delete secrets that were made before then and never confirmed, at most ``limit``; return how many."""
        ...
