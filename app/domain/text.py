"""The text that is accepted from outside.

SQLite stores NUL and PostgreSQL refuses it, lone surrogates cannot be encoded, and control, invisible or
direction-changing characters let one name pass for another in a log, a terminal or a page. All are refused here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from app.domain.errors import InvalidInput

# Default_Ignorable_Code_Point (Unicode 16, DerivedCoreProperties.txt), the line and paragraph separators, and the
# characters that draw nothing although they count as letters or symbols.
_INVISIBLE: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U00016fe4\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_ANY_INVISIBLE: Final = re.compile(f"[{_INVISIBLE}]")
# "Cn" also holds what a later Unicode will assign, and Python's table is as old as Python: so only those code points
# are refused that no version ever assigns.
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cs", "Co"})
_JOINERS: Final = "\u200c\u200d"
_VIRAMA: Final = 9  # its canonical combining class


def line(value: object, field: str, *, longest: int, shortest: int = 1) -> str:
    """One line of text for people: NFC, trimmed, ``shortest`` to ``longest`` characters.

    Raises InvalidInput for anything else; the value is never repeated.
    """
    if not isinstance(value, str):
        raise InvalidInput(field, "must be text")
    if len(value) > 4 * longest + 64:
        raise InvalidInput(field, f"must be at most {longest} characters")
    text = unicodedata.normalize("NFC", without_byte_order_mark(value)).strip()
    if not shortest <= len(text) <= longest:
        raise InvalidInput(field, f"must be {shortest} to {longest} characters")
    if any(_never_text(character) for character in text):
        raise InvalidInput(field, "must not hold control, private-use or other characters that are no text")
    if next(invisible(text), None) is not None:
        raise InvalidInput(field, "must not hold invisible characters")
    if any(character.isspace() and character != " " for character in text):
        raise InvalidInput(field, "must not hold other blanks than the ordinary space")
    return text


def invisible(text: str) -> Iterator[int]:
    """The places of characters that nobody sees.

    Not counted are those with a purpose: the joiners and the variation selector within an emoji, the tags of a flag,
    and joiners where the spelling of Arabic or Indic scripts needs them (UAX #31, 2.3).
    """
    for found in _ANY_INVISIBLE.finditer(text):
        place = found.start()
        if not _serves(text, place):
            yield place


def without_invisible(text: str) -> str:
    """The text without every character that nobody sees, also those with a purpose: for comparing."""
    return _ANY_INVISIBLE.sub("", text)


def without_byte_order_mark(text: str) -> str:
    """The text without the mark with which editors of Windows begin a file."""
    return text.removeprefix("\ufeff")


def trimmed(text: str) -> str:
    """The text without the blanks, line ends and invisible characters around it."""
    hidden = set(invisible(text))
    begin, end = 0, len(text)
    while begin < end and (begin in hidden or text[begin].isspace()):
        begin += 1
    while end > begin and (end - 1 in hidden or text[end - 1].isspace()):
        end -= 1
    return text[begin:end]


def _serves(text: str, place: int) -> bool:
    character, before, after = text[place], text[place - 1 : place], text[place + 1 : place + 2]
    if character == "\ufe0f":
        return _is_symbol(before) or (before in set("#*0123456789") and after == "\u20e3")
    if "\U000e0020" <= character <= "\U000e007f":
        return before == "\U0001f3f4" or "\U000e0020" <= before <= "\U000e007e"
    if character not in _JOINERS or not before:
        return False
    if character == "\u200d" and (_is_symbol(before) or before == "\ufe0f") and _is_symbol(after):
        return True
    if unicodedata.combining(before) == _VIRAMA:
        return True
    return bool(after) and unicodedata.bidirectional(before) == unicodedata.bidirectional(after) == "AL"


def _is_symbol(character: str) -> bool:
    if not character:
        return False
    pictograph = character >= "\U0001f000" and unicodedata.category(character) in {"So", "Sk", "Cn"}
    return pictograph or unicodedata.category(character) in {"So", "Sm"} or character in {"\u203c", "\u2049", "\u3030"}


def _never_text(character: str) -> bool:
    code = ord(character)
    noncharacter = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    return noncharacter or unicodedata.category(character) in _REFUSED_CATEGORIES


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
