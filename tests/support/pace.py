"""Seconds of a machine that has nothing else to do."""

from __future__ import annotations

import os
import time

_SPIN_SECONDS = 0.02


def within(took: float, quiet: float) -> bool:
    """Whether what took so many seconds would have taken less than ``quiet`` seconds on a quiet machine.

    For promises about time: a machine with ten times more to do may take ten times longer to keep them.
    """
    return took < quiet or took < quiet * _slowdown()


def _slowdown() -> float:
    began, used = time.monotonic(), time.thread_time()
    while time.thread_time() - used < _SPIN_SECONDS:
        pass
    waited = (time.monotonic() - began) / (time.thread_time() - used)
    waiting = os.getloadavg()[0] / (os.cpu_count() or 1)
    return max(1.0, waited, waiting)
