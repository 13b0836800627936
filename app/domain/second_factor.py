"""Second factors: one-time codes by time (TOTP, RFC 6238), and recovery codes for when the authenticator is lost."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from app.domain.secrets import SecretText
from app.domain.text import opaque, without_invisible

STEP_SECONDS: Final = 30
DIGITS: Final = 6
SECRET_BYTES: Final = 20
"""160 bits, as RFC 4226 recommends (section 4, R6)."""
PENDING_FOR: Final = timedelta(minutes=10)
"""How long a new secret can be confirmed."""
RECOVERY_CODES: Final = 10
RECOVERY_CODE_BYTES: Final = 15
"""120 bits: so many cannot be found by trial, so that SHA-256 is enough to store them (ASVS 5.0, 6.5.2)."""

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no letter that is easily taken for a digit."""
_READ_AS: Final = str.maketrans("OIL", "011")
_RECOVERY_CODE_LENGTH: Final = RECOVERY_CODE_BYTES * 8 // 5
_GROUP: Final = 4
_MINUS: Final = "\u2212"


@dataclass(frozen=True, slots=True, kw_only=True)
class TotpFactor:
    """The secret that an authenticator app shares with an account, pending until a code of it was entered.

    ``last_step`` is the latest time step of which a code was accepted: no code of it, or of an earlier one, is again.
    """

    id: str
    user_id: str
    encrypted_secret: bytes = field(repr=False)
    key_version: int
    created_at: datetime
    confirmed_at: datetime | None = None
    last_step: int | None = None
    version: int = 1

    def pending(self, now: datetime) -> bool:
        """Whether it can be confirmed."""
        return self.confirmed_at is None and now - self.created_at < PENDING_FOR


@dataclass(frozen=True, slots=True)
class TypedCode:
    """A code as a person typed it: a one-time code, or the hash of a recovery code; neither where it can be none."""

    one_time: SecretText | None = None
    recovery_hash: bytes | None = field(default=None, repr=False)


def typed_code(value: object) -> TypedCode | None:
    """Read a code; blanks, dashes and full-width forms make no difference. None for no code at all.

    Raises InvalidInput for a value that is no text of at most 1024 bytes.
    """
    if value is None:
        return None
    text = unicodedata.normalize("NFKC", opaque(value, "otp", longest=1024, shortest=0))
    text = "".join(each for each in without_invisible(text) if not _separates(each)).upper()
    if not text:
        return None
    if len(text) == DIGITS and text.isascii() and text.isdigit():
        return TypedCode(one_time=SecretText(text))
    if len(text) == _RECOVERY_CODE_LENGTH:
        read = text.translate(_READ_AS)
        if all(each in _ALPHABET for each in read):
            return TypedCode(recovery_hash=_hash(read))
    return TypedCode()


def _separates(character: str) -> bool:
    return character.isspace() or character == _MINUS or unicodedata.category(character) == "Pd"


def recovery_code(random: bytes) -> SecretText:
    """Return a recovery code in groups of four characters, of 15 random bytes."""
    number = int.from_bytes(random, "big")
    characters = [_ALPHABET[number >> shift & 31] for shift in range(len(random) * 8 - 5, -1, -5)]
    groups = range(0, len(characters), _GROUP)
    return SecretText("-".join("".join(characters[begin : begin + _GROUP]) for begin in groups))


def recovery_hash(code: SecretText) -> bytes:
    """Return the hash under which a recovery code is stored."""
    return _hash(code.reveal().replace("-", ""))


def _hash(canonical: str) -> bytes:
    return hashlib.sha256(canonical.encode()).digest()


def step_of(now: datetime) -> int:
    """The number of the time step (RFC 6238, 4.2)."""
    return int(now.timestamp()) // STEP_SECONDS


def accepted_steps(now: datetime, last_step: int | None) -> Sequence[int]:
    """The time steps of which a code is accepted: the present one and its neighbours, but none that was used.

    The neighbours are for a clock that is half a minute off and for the time that typing takes (RFC 6238, 5.2 and 6).
    """
    present = step_of(now)
    return [each for each in (present, present - 1, present + 1) if last_step is None or each > last_step]
