"""API tokens: what a program sends in the place of a session, with the rights that its scopes name."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from app.domain.errors import InvalidInput
from app.domain.identity import User
from app.domain.key_shapes import looks_like_key
from app.domain.text import line

TOKEN_PREFIX: Final = "kh_"  # noqa: S105 - how every token begins
"""By it, secret scanners find a token (docs/security.md, "API tokens")."""
NAME_LONGEST: Final = 64
MOST_TOKENS: Final = 50
"""Tokens of one user that have not expired."""
RANDOM_BYTES: Final = 32
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY: Final = 43
"""Digits of base 62 that 32 bytes need."""
_CHECKSUM: Final = 6
"""Digits of base 62 that a CRC-32 needs."""
_SHOWN: Final = len(TOKEN_PREFIX) + 6
_FORM: Final = re.compile(rf"{TOKEN_PREFIX}([0-9A-Za-z]{{{_BODY}}})([0-9A-Za-z]{{{_CHECKSUM}}})", re.ASCII)


class TokenStatus(StrEnum):
    """Whether a token serves. ``ENDED``: the version of API_SECRET_KEY that it was made with was revoked."""

    ACTIVE = "active"
    EXPIRED = "expired"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """One row. The database holds a MAC of the token under that version of API_SECRET_KEY, never the token.

    ``prefix`` are the first characters of the token, by which a person recognises it. ``guild_id`` is the guild whose
    credentials are the only ones that it reaches.
    """

    id: str
    user_id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    guild_id: str | None
    key_version: int
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = None

    def expired(self, now: datetime) -> bool:
        """Whether its time has passed."""
        return self.expires_at is not None and now >= self.expires_at

    def alive(self, user: User, now: datetime) -> bool:
        """Whether it still stands for its owner."""
        return user.id == self.user_id and user.disabled_at is None and not self.expired(now)


def token_of(random: bytes) -> str:
    """The token of 32 random bytes: prefix, 43 digits of base 62, and their CRC-32 in 6 digits, as GitHub has it."""
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"a token is made of {RANDOM_BYTES} bytes")
    body = _digits(int.from_bytes(random, "big"), _BODY)
    return TOKEN_PREFIX + body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Whether it has the form of a token and its checksum is right: a slip or a made-up one is found without a look."""
    found = _FORM.fullmatch(text)
    return found is not None and _checksum(found[1]) == found[2]


def shown_prefix(token: str) -> str:
    """The beginning of a token that may be shown."""
    return token[:_SHOWN]


def new_name(value: object) -> str:
    """The name of a token, in its owner's words: a line of 64 characters. Raises InvalidInput."""
    text = line(value, "name", longest=NAME_LONGEST)
    if looks_like_key(text):
        raise InvalidInput("name", "must not hold a key")
    return text


def _checksum(body: str) -> str:
    return _digits(zlib.crc32(body.encode("ascii")), _CHECKSUM)


def _digits(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
