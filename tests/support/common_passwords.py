"""Passwords that many people chose, and passwords that nobody guesses: composed by rule, none picked by hand.

The common ones come from zxcvbn's list of frequent passwords, by the habits that studies of leaked passwords describe:
what is too short is doubled or gets a year, digits or a symbol; letters are substituted; fingers run along the keys.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice
from typing import Final

from zxcvbn.frequency_lists import FREQUENCY_LISTS

from app.domain.identity import PASSWORD_SHORTEST

USERNAME: Final = "olga.petrova"
CONTEXT: Final = ("keyhall", "keys.example.org", "openai", "anthropic")
_FREQUENT: Final = tuple(FREQUENCY_LISTS["passwords"])
_ROWS: Final = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_COLUMNS: Final = ("1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm", "8ik,", "9ol.", "0p;/")
_LEET: Final = str.maketrans("aeios", "@310$")
_SHIFT: Final = str.maketrans("1234567890", "!@#$%^&*()")
_YEARS: Final = tuple(map(str, range(1960, 2027)))
_TAILS: Final = ("123456", "12345", "1234567", "123456789", "654321", "111111")
_MARKS: Final = ("!", "!!", "!!!", "?", ".", "#")


def _words(shortest: int, longest: int) -> Iterator[str]:
    """Frequent passwords of letters alone, most frequent first."""
    return (each for each in _FREQUENT if shortest <= len(each) <= longest and each.isalpha() and each.isascii())


def _listed() -> Iterator[str]:
    return iter(_FREQUENT)


def _doubled() -> Iterator[str]:
    return (each * 2 for each in islice((each for each in _FREQUENT if len(each) >= 6), 500))


def _with_a_year() -> Iterator[str]:
    return (word + year for word, year in zip(islice(_words(8, 11), 300), cycle(_YEARS), strict=False))


def _with_digits() -> Iterator[str]:
    return (word + tail for word, tail in zip(islice(_words(6, 11), 300), cycle(_TAILS), strict=False))


def _capital_year_and_mark() -> Iterator[str]:
    pairs = zip(islice(_words(6, 9), 300), cycle(_YEARS), cycle(_MARKS), strict=False)
    return (word.capitalize() + year + mark for word, year, mark in pairs)


def _substituted() -> Iterator[str]:
    return (word.translate(_LEET) + tail for word, tail in zip(islice(_words(7, 11), 300), cycle(_TAILS), strict=False))


def _two_words() -> Iterator[str]:
    words = list(islice(_words(4, 10), 20))
    return (one + other for one in words for other in words if one != other)


def _runs() -> Iterator[str]:
    for lines in (_ROWS, _COLUMNS):
        keys = "".join(lines)
        for there in (keys, keys[::-1], "".join(line[::-1] for line in lines)):
            for start in range(0, len(keys) - 12, 2):
                for size in (12, 14, 16):
                    yield there[start : start + size]
    for start in range(7):
        for size in (3, 4):
            columns = "".join(_COLUMNS[start : start + size])
            yield columns
            yield columns.translate(_SHIFT)
            yield columns.upper()


def _sequences() -> Iterator[str]:
    for alphabet in (string.ascii_lowercase, string.ascii_uppercase, string.digits * 3):
        for there in (alphabet, alphabet[::-1]):
            for start in range(len(there) - 12):
                for size in (12, 13, 14):
                    yield there[start : start + size]


def _repetitions() -> Iterator[str]:
    for one in string.ascii_letters + string.digits + string.punctuation:
        yield one * PASSWORD_SHORTEST
        yield one * 64
    for pattern in ("ab", "abc", "xyz", "123", "121", "qwe", "asd", "0-", "12ab", "love", "test"):
        for size in (12, 20, 72, 73, 256):
            yield (pattern * size)[:size]


def _days() -> Iterator[str]:
    for year in _YEARS:
        for day, month in ((1, 1), (14, 2), (24, 12)):
            written = f"{day:02}{month:02}{year}"
            yield written * 2
            yield f"{written}{year}"


def _of_the_context() -> Iterator[str]:
    for word in ("olga.petrova", "olga", "petrova", "keyhall", "keys.example.org", "example", "openai", "anthropic"):
        for more in ("", "1", "123", "123456", "2026", "2026!", "!!", "-1", " password", "password", "admin"):
            yield word + more
            yield word.capitalize() + more
            yield word + word + more
            yield word.translate(_LEET) + more
    for one in ("keyhall", "openai", "anthropic"):
        for other in ("olga", "petrova", "example", "keyhall"):
            yield from (one + other, f"{one}-{other}", f"{other}.{one}", f"{one} {other}!", f"{one}{other}2026")


KINDS: Final[Mapping[str, Callable[[], Iterator[str]]]] = {
    "listed": _listed,
    "doubled": _doubled,
    "a word and a year": _with_a_year,
    "a word and digits": _with_digits,
    "a capital, a year and a mark": _capital_year_and_mark,
    "substituted letters": _substituted,
    "two words": _two_words,
    "runs on the keyboard": _runs,
    "sequences": _sequences,
    "repetitions": _repetitions,
    "days": _days,
    "words of the context": _of_the_context,
}


def common(kind: str) -> list[str]:
    """The common passwords of a kind that are long enough, each once."""
    return list(dict.fromkeys(each for each in KINDS[kind]() if len(each) >= PASSWORD_SHORTEST))


def passphrases(number: int) -> list[str]:
    """Sentences of four to six words of an English text, joined in several ways."""
    chance = random.Random(6)  # the same ones in every run
    words = [each for each in FREQUENCY_LISTS["english_wikipedia"][1000:9000] if 4 <= len(each) <= 9 and each.isalpha()]
    joints = (" ", "-", ".", "_", "")
    return [joints[turn % 5].join(chance.sample(words, 4 + turn % 3)) for turn in range(number)]


def made_by_managers(number: int) -> list[str]:
    """Random ones, as password managers make them: 12 to 64 characters of several alphabets."""
    chance = random.Random(7)
    letters = string.ascii_letters + string.digits
    alphabets = (letters, letters + "!@#$%^&*-_", letters + string.punctuation, string.hexdigits.lower()[:16])
    return [
        "".join(chance.choices(alphabets[turn % 4], k=(16, 20, 24, 32, 64, 12)[turn % 6 if turn % 4 < 3 else turn % 5]))
        for turn in range(number)
    ]
