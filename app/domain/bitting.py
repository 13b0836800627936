"""The bitting: a fingerprint drawn as the cut of a key, eight notches of eight depths.

It derives from a fingerprint, which is an HMAC, never from material: the same cut is the same key.
"""

from __future__ import annotations

from typing import Final

_NOTCHES: Final = "▁▂▃▄▅▆▇█"
_SPINE: Final = 22.0
_SHOULDER: Final = 6.0
_PITCH: Final = 10
_SLOPE: Final = 4


def depths(fingerprint: str) -> tuple[int, ...]:
    """Eight depths from 0 to 7, one per byte of a fingerprint of 16 hex digits."""
    return tuple(byte >> 5 for byte in bytes.fromhex(fingerprint[:16]))


def cut(fingerprint: str) -> str:
    """The cut as text, for Discord and the terminal. A secret without a fingerprint has no cut."""
    return "".join(_NOTCHES[depth] for depth in depths(fingerprint))


def blade(fingerprint: str | None) -> str:
    """The blade of a key as the data of an SVG path, to the right of a bow at 12, 14 in a box of 112 by 28.

    Its upper edge has eight notches whose heights are the bitting; without a fingerprint it is a blank.
    """
    heights = depths(fingerprint) if fingerprint else (7,) * 8
    x = 26
    points = [(21.5, _SPINE), (21.5, _SHOULDER), (x - 1.0, _SHOULDER)]
    for depth in heights:
        y = 18 - 1.6 * depth
        points += [(x + _SLOPE / 2, y), (x + _PITCH - _SLOPE / 2, y)]
        x += _PITCH
    points += [(x + 4.0, 18.0), (x + 4.0, 20.0), (x + 2.0, _SPINE)]
    return "M" + " L".join(f"{x:g} {y:g}" for x, y in points) + " Z"
