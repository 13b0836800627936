"""Bech32 (BIP 173) as age uses it: 32 bytes behind a prefix, without its limit of 90 characters."""

from __future__ import annotations

from typing import Final

_ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM: Final = 6


def encode(prefix: str, data: bytes) -> str:
    """The text for these bytes, in lower case."""
    bits = int.from_bytes(data, "big") << (-8 * len(data) % 5)
    count = (8 * len(data) + 4) // 5
    values = [bits >> 5 * (count - 1 - place) & 31 for place in range(count)]
    check = _polymod([*_expanded(prefix), *values, *[0] * _CHECKSUM]) ^ 1
    values += [check >> 5 * (_CHECKSUM - 1 - place) & 31 for place in range(_CHECKSUM)]
    return f"{prefix}1{''.join(_ALPHABET[value] for value in values)}"


def decode(text: str, prefix: str) -> bytes:
    """The bytes of a text in one case, behind that prefix in lower case. Raises ValueError, which quotes nothing."""
    if text not in {text.lower(), text.upper()}:
        raise ValueError("mixes upper and lower case")
    lowered = text.lower()
    found, separator, coded = lowered.rpartition("1")
    if found != prefix or not separator:
        raise ValueError(f"does not begin with {prefix}1")
    if len(coded) < _CHECKSUM or not set(coded) <= set(_ALPHABET):
        raise ValueError("holds a character that it cannot have")
    values = [_ALPHABET.index(character) for character in coded]
    if _polymod([*_expanded(prefix), *values]) != 1:
        raise ValueError("is mistyped: its checksum does not fit")
    values = values[:-_CHECKSUM]
    bits = 0
    for value in values:
        bits = bits << 5 | value
    surplus = 5 * len(values) % 8
    if surplus > 4 or bits & (1 << surplus) - 1:
        raise ValueError("is not in canonical form")
    return (bits >> surplus).to_bytes(5 * len(values) // 8, "big")


def _expanded(prefix: str) -> list[int]:
    return [*(ord(character) >> 5 for character in prefix), 0, *(ord(character) & 31 for character in prefix)]


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate(_GENERATOR):
            check ^= generator if top >> place & 1 else 0
    return check
