"""The health of this install as its pages show it: the checks of ``keyhall doctor`` that a running process can make."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.domain.diagnosis import Diagnosis
from app.domain.identity import Actor, Permission
from app.services.ports import Clock

FRESH_SECONDS: Final = 10.0
"""A report is shown again for this long: the checks read files, and ask Discord."""


@dataclass(frozen=True, slots=True)
class InstallReport:
    """The checks, and when they were made."""

    at: datetime
    diagnosis: Diagnosis


class InstallHealth:
    """Makes the checks for one reader at a time."""

    def __init__(self, *, examine: Callable[[], Awaitable[Diagnosis]], clock: Clock) -> None:
        self._examine = examine
        self._clock = clock
        self._turn = asyncio.Lock()
        self._latest: InstallReport | None = None
        self._fresh_until = 0.0

    async def report(self, actor: Actor) -> InstallReport:
        """Return the checks, made within the last ten seconds. Raises Forbidden."""
        actor.require(Permission.SEE_KEYS)
        async with self._turn:
            if self._latest is None or self._clock.monotonic() > self._fresh_until:
                diagnosis = await self._examine()
                self._latest = InstallReport(self._clock.now(), diagnosis)
                self._fresh_until = self._clock.monotonic() + FRESH_SECONDS
            return self._latest
