"""The time limit for an answer of a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

_MOMENT: Final = 0.1


class AnswerTimeout:
    """Ends a connection whose next answer does not come in time, so that nobody waits for it any longer.

    A time limit of asyncio would do so by a cancellation, after which the driver waits for the silent server again.
    Used around each message; the first one shares its time with getting the connection.
    """

    __slots__ = ("_end", "_handle", "_seconds", "_until")

    def __init__(self, seconds: float | None, end: Callable[[], None], began: float) -> None:
        self._seconds = seconds
        self._until: float | None = None if seconds is None else began + seconds
        self._end = end
        self._handle: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        if self._seconds is not None:
            loop = asyncio.get_running_loop()
            self._handle = loop.call_at(self._until or loop.time() + self._seconds, self._late)

    def _late(self) -> None:
        """End it a moment later: to a process that was stopped meanwhile the answer may have come already."""
        self._handle = asyncio.get_running_loop().call_later(_MOMENT, self._end)

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._until = None

    def at_most(self, seconds: float) -> AnswerTimeout:
        """Less of it, for the end of a connection."""
        now = asyncio.get_running_loop().time()
        return AnswerTimeout(None if self._seconds is None else seconds, self._end, now)
