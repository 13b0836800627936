"""The real time and the real randomness; tests bring their own."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

log = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS: Final = 1.0
_STOPPED_SECONDS: Final = 2.0
"""From when on a process that was late counts as stopped."""

# CLOCK_MONOTONIC stops while a Linux machine sleeps, and a lease must not: a process that wakes up has lost its own.
_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


class SystemClock:
    """The port ``Clock`` on the machine's clocks."""

    def now(self) -> datetime:
        """The time of day, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment; they never step back, and on Linux a suspended machine counts."""
        return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Come back after that time."""
        await asyncio.sleep(seconds)


@asynccontextmanager
async def noticing_stops(clock: SystemClock) -> AsyncIterator[None]:
    """Log how long this process did not run, whenever it was stopped for seconds; what expired meanwhile follows."""
    noticing = asyncio.create_task(_notice_stops(clock), name="noticing stops")
    try:
        yield
    finally:
        noticing.cancel()
        await asyncio.wait({noticing})


async def _notice_stops(clock: SystemClock) -> None:
    while True:
        before = clock.monotonic()
        await clock.sleep(_LOOK_EVERY_SECONDS)
        missing = clock.monotonic() - before - _LOOK_EVERY_SECONDS
        if missing > _STOPPED_SECONDS:
            log.warning(
                "this process was stopped for %.0f s: by a signal, with its machine, or for want of processor time",
                missing,
            )


class SystemRandomness:
    """The port ``Randomness`` on the operating system's CSPRNG."""

    def token_bytes(self, size: int) -> bytes:
        """That many unpredictable bytes."""
        return secrets.token_bytes(size)

    def new_id(self) -> str:
        """A UUID version 7 (RFC 9562, 5.7): milliseconds, then 74 random bits, so that new rows sort last."""
        milliseconds = time.time_ns() // 1_000_000
        bits = (milliseconds & (1 << 48) - 1) << 80 | secrets.randbits(80)
        bits = bits & ~(0xF << 76) | 7 << 76  # version
        bits = bits & ~(0b11 << 62) | 0b10 << 62  # variant
        return str(uuid.UUID(int=bits))
