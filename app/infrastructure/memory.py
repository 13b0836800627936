"""Memory that glibc's allocator keeps although it was freed; with another C library nothing here has an effect."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

_M_ARENA_MAX: Final = -8
"""malloc.h of glibc."""


@cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def share_one_arena() -> None:
    """Let all threads allocate from one arena, before any is started: memory freed in another is never given back.

    Python's lock lets one thread allocate at a time anyway.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_M_ARENA_MAX, 1)


def give_back_freed() -> None:
    """Give freed memory back to the system: about 2 ms, in which other threads may have to wait to allocate."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(ctypes.c_size_t(0))
