"""Ids and owners that only an edited SQLite file holds: a column of any type can hold bytes, numbers or nothing.

Such a row does not open, and it must not keep a walk over all rows from the others.
"""

from __future__ import annotations

import re
from typing import Any, Final

from app.domain.credentials import Owner, OwnerKind

_KINDS: Final = frozenset(OwnerKind)
_NOBODY: Final = Owner(OwnerKind.USER, "")
_BYTES: Final = re.compile(r"x'[0-9a-f]*'", re.ASCII)


def id_of(value: Any) -> str:
    """The id itself, or a text that stands for the bytes in its place; no code has stored such a text as an id."""
    if isinstance(value, str):
        return value
    return f"x'{value.hex()}'" if isinstance(value, bytes) else ""  # numbers and NULL sort before all text


def is_end(after: str | None) -> bool:
    """Whether a walk that has come to this id is over: bytes sort behind all text, and no page begins after them."""
    return after is not None and _BYTES.fullmatch(after) is not None


def owner_of(kind: Any, owner_id: Any) -> Owner:
    """The owner, or nobody in the place of one that no code has stored."""
    return Owner(OwnerKind(kind), owner_id) if kind in _KINDS and isinstance(owner_id, str) else _NOBODY
