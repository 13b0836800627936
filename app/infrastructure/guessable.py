"""Judges whether few guesses find a password, by the score of zxcvbn (ASVS 5.0, 6.2.4 and 6.2.11)."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

_GUESSES_LOG10: Final = 8.0
"""zxcvbn's score 3, "safely unguessable": a hundred million guesses, each of which costs an Argon2id hash."""
_READ: Final = 40
"""Characters of each end of a password that are judged: enough for the score of any password, and a bounded time."""
_MOST_WORK: Final = 6_000
"""Bound on (readings of substituted letters) x (characters read) squared: about 0.1 s."""
_SHORTEST_WORD: Final = 4
"""Context words of fewer characters occur in too many others to be taken out of a password."""
_WORD_COSTS_LOG10: Final = 2.0
"""The guesses for a context word, beside those for the rest of the password: there are dozens, in some spellings."""
_RUN_COSTS_LOG10: Final = 2.0
"""The guesses for a run of keys, beside those for the rest: where it begins, how long it is and which way it goes."""
_PIECE: Final = 4
"""A run has at least so many keys."""
_LATE_YEAR: Final = re.compile(r"20[2-4]\d")
"""zxcvbn recognises years until 2019; any later one is as good as one of those."""
_LETTERS: Final = str.maketrans("@4301$5", "aaeoiss")
_SYMBOLS: Final = re.compile(r"[\W_]+")
_SUBSTITUTES: Final = {
    "a": "4@",
    "c": "([{<",
    "g": "69",
    "i": "1!|",
    "l": "1|7",
    "s": "$5",
    "t": "+7",
}
"""The letters for which zxcvbn reads more than one symbol. It tries every choice of one symbol per letter."""
_NO_LETTERS: Final = {ord(symbol): 0x2460 + number for number, symbol in enumerate("([{<@!|$+")}
"""Circled numbers in the place of the symbols that zxcvbn could read as letters."""
_UNSHIFTED: Final = str.maketrans("!@#$%^&*()", "1234567890")
"""The row of digits of a keyboard, by what it types with Shift."""


def is_guessable(password: str, context: Sequence[str]) -> bool:
    """Whether few guesses find it: a frequent password or word, with or without a year, substituted letters or a tail
    of digits and symbols, a repetition, a sequence, a run on the keyboard, or little more than words of ``context``.

    ``password`` is in NFKC. A long one is as good as the better one of its ends.
    """
    words = _words(context)
    return any(
        all(_guesses_log10(end, words) + cost < _GUESSES_LOG10 for end in {text[:_READ], text[-_READ:]})
        for written in dict.fromkeys((password, _LATE_YEAR.sub("2015", password)))
        for text, cost in _readings(written, words)
    )


def _readings(text: str, words: Sequence[str]) -> Iterator[tuple[str, float]]:
    """The text as zxcvbn reads it best, and what each way of reading adds to the guesses (log10).

    It takes for random what people type with Shift held on a run of keys, between words, behind a word, and from one
    row of keys into the next.
    """
    yield text, 0.0
    typed = text.translate(_UNSHIFTED).lower()
    if typed != text.lower():
        yield typed, 1.0
    folded, runs = _folded(typed)
    if runs:
        yield folded, runs * _RUN_COSTS_LOG10
    plain = _SYMBOLS.sub("", text)
    if plain != text:
        # Ten for each run of symbols: one that is repeated, such as "!!", or each of several different ones.
        yield plain, float(sum(len(set(run)) for run in _SYMBOLS.findall(text)))
    rest = _without(text, words)
    if rest != text:
        yield rest, _WORD_COSTS_LOG10


def _guesses_log10(text: str, words: Sequence[str]) -> float:
    if not text:
        return 0.0
    # Here, because its dictionaries take 14 MB and few processes ever store a new password.
    from zxcvbn import zxcvbn  # noqa: PLC0415

    return float(zxcvbn(_bounded(text), user_inputs=words)["guesses_log10"])


def _bounded(text: str) -> str:
    """The text, in which symbols that could be letters are other characters where all readings would take too long.

    zxcvbn takes 20 s for 72 characters that are chosen for it. A text of so many different symbols is no common
    password with some of its letters substituted, and gets the same score without them.
    """
    readings = 1
    for symbols in _SUBSTITUTES.values():
        readings *= max(1, sum(symbol in text for symbol in symbols))
    if readings * len(text) ** 2 <= _MOST_WORK:
        return text
    return text.translate(_NO_LETTERS)


def _words(context: Iterable[str]) -> list[str]:
    """Each text of the context and the words in it, in lower case, without duplicates."""
    found: dict[str, None] = {}
    for text in context:
        lowered = text.casefold()
        for word in (lowered, *_SYMBOLS.split(lowered)):
            if len(word) > 1:
                found[word] = None
    return list(found)


def _without(text: str, words: Iterable[str]) -> str:
    """The text without the context words in it, and then without what only joined them; itself if it has none."""
    long = sorted((word for word in words if len(word) >= _SHORTEST_WORD), key=len, reverse=True)
    if not long:
        return text
    # Where they are, is looked up in a form of the same length in which substituted letters are letters again.
    found = re.finditer("|".join(map(re.escape, long)), text.translate(_LETTERS), re.IGNORECASE)
    spans = [each.span() for each in found]
    kept = (text[end:begin] for (_, end), (begin, _) in pairwise([(0, 0), *spans, (len(text), len(text))]))
    return _SYMBOLS.sub("", "".join(kept)) if spans else text


def _folded(text: str) -> tuple[str, int]:
    """The text with one character in the place of each run of keys, and how many runs there are."""
    found, at, runs = "", 0, 0
    while at < len(text):
        end = at
        while text[end : end + _PIECE] in _PIECES:
            end += 1
        if end > at:
            end, runs = end + _PIECE - 1, runs + 1
        found += "\N{CIRCLED DIGIT ZERO}" if end > at else text[at]
        at = max(end, at + 1)
    return found, runs


def _lines() -> Iterator[str]:
    """Keys in the order in which fingers run along them: rows, columns and alphabets, there and back."""
    rows = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
    columns = ("1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm", "8ik,", "9ol.", "0p;/")
    lines = [string.digits * 2, string.ascii_lowercase]
    for keys in (rows, columns):
        lines += ["".join(keys), "".join(each[::-1] for each in keys)]
    for line in lines:
        yield line
        yield line[::-1]


_PIECES: Final = frozenset(line[at : at + _PIECE] for line in _lines() for at in range(len(line) - _PIECE + 1))
