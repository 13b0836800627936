"""The bitting: a fingerprint drawn as the cut of a key, eight notches of eight depths.

It derives from a fingerprint, which is an HMAC, never from material: the same cut is the same key.
"""

from __future__ import annotations

from typing import Final

_NOTCHES: Final = "▁▂▃▄▅▆▇█"


def depths(fingerprint: str) -> tuple[int, ...]:
    """Eight depths from 0 to 7, one per byte of a fingerprint of 16 hex digits."""
    return tuple(byte >> 5 for byte in bytes.fromhex(fingerprint[:16]))


def cut(fingerprint: str | None) -> str:
    """The cut as text, for Discord and the terminal; a flat blank where there is no fingerprint."""
    if fingerprint is None:
        return "▁" * 8
    return "".join(_NOTCHES[depth] for depth in depths(fingerprint))
