"""Signals that end a command: what it has begun is put away first."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer

_T = TypeVar("_T")


async def ending_on_signals(work: Coroutine[Any, Any, _T]) -> _T:
    """Return what the work returns. SIGTERM and SIGHUP cancel it; then the command exits with 128 and the number.

    A signal that the command was started to ignore, as by nohup(1), stays ignored.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    came: list[int] = []

    def cancel(number: int) -> None:
        came.append(number)
        task.cancel()

    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    for number in numbers:
        loop.add_signal_handler(number, cancel, number)
    try:
        return await task
    except asyncio.CancelledError:
        if came:
            raise typer.Exit(128 + came[0]) from None
        raise
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
