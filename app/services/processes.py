"""Waiting for the other processes of the install."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from app.domain.instances import Instance
from app.services.ports import Clock, Storage

_LOOK_EVERY_SECONDS: Final = 0.1


async def wait_for_processes(
    storage: Storage,
    clock: Clock,
    done: Callable[[Instance], bool],
    *,
    within: float = math.inf,
    report: Callable[[int, Sequence[Instance]], Awaitable[None]],
) -> Sequence[Instance]:
    """Wait until ``done`` holds for every live process; the processes for which it does not when the time is over.

    ``report`` gets the number of live processes and those that lag behind, whenever the latter change. Raises
    StorageError, and the errors of ``report``.
    """
    deadline = clock.monotonic() + within
    reported: list[str] | None = None
    while True:
        async with storage.lookup() as uow:
            live = await uow.instances.live()
        behind = [each for each in live if not done(each)]
        if not behind or clock.monotonic() >= deadline:
            return behind
        if (names := [str(each) for each in behind]) != reported:
            await report(len(live), behind)
            reported = names
        await clock.sleep(_LOOK_EVERY_SECONDS)
