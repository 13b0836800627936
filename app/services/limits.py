"""Limits on attempts: counted before the attempt is checked, in a unit of work of their own, so nothing undoes a count.

The count slides: the previous window is weighted by how much of it lies in the last fifteen minutes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from app.domain.errors import TooManyAttempts
from app.services.ports import Clock, Storage

WINDOW: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``most`` attempts under this key within the window."""

    key: str
    most: int


class AttemptLimiter:
    """Exact under concurrency and across processes, because the database counts."""

    def __init__(self, *, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock

    async def reserve(self, limits: Sequence[Limit]) -> None:
        """Count one attempt under each key. Raises TooManyAttempts over a limit; the attempt stays counted."""
        now = self._clock.now()
        window, passed = _window(now)
        over = False
        async with self._storage.write() as uow:
            for limit in limits:
                before = await uow.attempts.count(limit.key, window - WINDOW)
                # Over the first limit the others are not counted: invented names must not fill the table.
                over = await uow.attempts.hit(limit.key, window) + before * (1 - passed) > limit.most
                if over:
                    break
        if over:
            raise TooManyAttempts(math.ceil(WINDOW.total_seconds() * (1 - passed)) or 1)

    async def forgive(self, limits: Sequence[Limit]) -> None:
        """Count one attempt less under each key: it succeeded."""
        window, _ = _window(self._clock.now())
        async with self._storage.write() as uow:
            for limit in limits:
                await uow.attempts.take_back(limit.key, window)


def _window(now: datetime) -> tuple[datetime, float]:
    """Return when the present window began, and which part of it has passed."""
    seconds = WINDOW.total_seconds()
    began = now.timestamp() // seconds * seconds
    return datetime.fromtimestamp(began, UTC), (now.timestamp() - began) / seconds
