"""Rows in memory that are never older than the database: strictly fresh, across processes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

MOST_ROWS: Final = 10_000
MOST_BYTES: Final = 32 * 1024 * 1024
_OVERHEAD: Final = 64
"""Bytes that an object takes besides its content; an estimate."""


class RowCache:
    """Least recently used rows go first. Rows of one position are valid for that position only.

    A *position* is a number that changes with every commit. The caller asks for the position before it loads a row,
    and returns it with the row: if the cache has moved on meanwhile, the row may be older than that and is not kept.
    """

    def __init__(self, *, most_rows: int = MOST_ROWS, most_bytes: int = MOST_BYTES) -> None:
        self._rows: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()
        self._position: int | None = None
        self._bytes = 0
        self._most_rows = most_rows
        self._most_bytes = most_bytes
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._rows)

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self._bytes = 0

    def get(self, kind: str, key: str, position: int) -> Any | None:
        """The row, or None where it is not known at that position; every row of another position is forgotten."""
        if position != self._position:
            self.clear()
            self._position = position
        found = self._rows.get((kind, key))
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._rows.move_to_end((kind, key))
        return found[0]

    def put(self, kind: str, key: str, position: int, row: Any) -> None:
        """Keep a row whose loading began at that position."""
        if position != self._position:
            return
        weight = _weight(row) + _weight(key)
        if weight > self._most_bytes:
            return
        _, replaced = self._rows.pop((kind, key), (None, 0))
        self._rows[kind, key] = (row, weight)
        self._bytes += weight - replaced
        while len(self._rows) > self._most_rows or self._bytes > self._most_bytes:
            _, (_, dropped) = self._rows.popitem(last=False)
            self._bytes -= dropped


def _weight(value: Any) -> int:
    """About how many bytes a value holds on to."""
    if isinstance(value, (str, bytes)):
        return _OVERHEAD + len(value)
    if is_dataclass(value):
        return _OVERHEAD + sum(_weight(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return _OVERHEAD + sum(_weight(key) + _weight(each) for key, each in value.items())
    if isinstance(value, (tuple, list, frozenset, set)):
        return _OVERHEAD + sum(_weight(each) for each in value)
    return _OVERHEAD
