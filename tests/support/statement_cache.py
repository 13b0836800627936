"""Compiled statements, shared by all engines of this process.

An engine compiles each statement once, and keeps it under its own dialect. A process of Keyhall opens one database;
tests open thousands, and a quarter of their processor time went into compiling the same statements again. All engines
of one driver are configured alike here, so that what one has compiled serves the others.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.util import LRUCache

_STATEMENTS: Final = 5000


class SharedCache(LRUCache[Any, Any]):
    """Keeps statements by driver, whatever instance of its dialect compiled them."""

    def get(self, key: Any, default: Any = None) -> Any:
        """See `LRUCache`."""
        return super().get(_of_driver(key), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_of_driver(key), value)


def _of_driver(key: tuple[Any, ...]) -> tuple[Any, ...]:
    dialect, *rest = key
    return type(dialect), *rest


_SHARED: Final[SharedCache] = SharedCache(_STATEMENTS)


def share_compiled_statements() -> None:
    """From now on, for every engine."""
    # Each engine sets the attribute to a cache of its own, when it is made.
    Engine._compiled_cache = property(lambda _: _SHARED, lambda _self, _own: None)  # type: ignore[assignment]
