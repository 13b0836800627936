"""The text that is accepted from outside.

SQLite stores NUL and PostgreSQL refuses it, lone surrogates cannot be encoded, and control or direction-changing
characters let one name pass for another in a log, a terminal or a page. All are refused here.
"""

from __future__ import annotations

import unicodedata

from app.domain.errors import InvalidInput

_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Co", "Cn"})
# Bidirectional controls (UAX #9) and the invisible characters that make two labels look the same.
_REFUSED_CHARACTERS = frozenset(
    "\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)


def line(value: object, field: str, *, longest: int, shortest: int = 1) -> str:
    """One line of text for people: NFC, trimmed, ``shortest`` to ``longest`` characters.

    Raises InvalidInput for anything else; the value is never repeated.
    """
    if not isinstance(value, str):
        raise InvalidInput(field, "must be text")
    if len(value) > 4 * longest + 64:
        raise InvalidInput(field, f"must be at most {longest} characters")
    text = unicodedata.normalize("NFC", value).strip()
    if not shortest <= len(text) <= longest:
        raise InvalidInput(field, f"must be {shortest} to {longest} characters")
    for character in text:
        if character in _REFUSED_CHARACTERS or unicodedata.category(character) in _REFUSED_CATEGORIES:
            raise InvalidInput(field, "must not hold control, invisible or unassigned characters")
    return text


def whole_number(text: str) -> int | None:
    """Return the number that 1 to 18 ASCII digits write, so that it fits 64 bits; None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def opaque(value: object, field: str, *, longest: int, shortest: int = 1) -> str:
    """Text that is kept unchanged, such as a secret or a password: ``shortest`` to ``longest`` UTF-8 bytes.

    Line breaks and tabs are allowed (a PEM key has them); NUL and lone surrogates are not.
    """
    if not isinstance(value, str):
        raise InvalidInput(field, "must be text")
    if len(value) > longest:
        raise InvalidInput(field, f"must be at most {longest} bytes")
    if "\0" in value:
        raise InvalidInput(field, "must not hold NUL")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidInput(field, "must be valid Unicode") from None
    if not shortest <= size <= longest:
        raise InvalidInput(field, f"must be {shortest} to {longest} bytes")
    return value
