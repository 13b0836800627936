"""Work on an event loop of its own, in a thread: the loop that serves goes on beside it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

_T = TypeVar("_T")


async def in_own_loop(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Return what the work returns. A cancellation cancels it there, and waits for its end."""
    begun = threading.Event()
    there: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def main() -> _T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        there.append((asyncio.get_running_loop(), task))
        begun.set()
        return await work()

    def run() -> _T:
        try:
            return asyncio.run(main())
        finally:
            begun.set()

    working = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.to_thread(begun.wait)
        for loop, task in there:
            with suppress(RuntimeError):  # it has ended by now
                loop.call_soon_threadsafe(task.cancel)
        await asyncio.wait({working})
        with suppress(asyncio.CancelledError, Exception):
            working.result()
        raise
