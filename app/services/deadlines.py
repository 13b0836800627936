"""Whether a request may still take effect: judged before each of its commits, since it may be delayed anywhere.

A process that was stopped must not carry out, when it goes on, what its clients have given up and done elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Final

from app.domain.errors import RequestExpired
from app.services.ports import Clock

REQUEST_SECONDS: Final = 15.0
"""From the arrival of a request, or of its body, to its commit; longer than a writer of SQLite waits."""


class Deadline:
    """Of one request: everything inside ``with`` belongs to it. ``gone`` says whether its client has left."""

    __slots__ = ("_clock", "_gone", "_outer", "_until")

    def __init__(self, clock: Clock, gone: Callable[[], bool]) -> None:
        self._clock = clock
        self._gone = gone
        self._outer: Token[Deadline | None]
        self.restart()

    def restart(self) -> None:
        """Count from now on: the client was slow, not this process."""
        self._until = self._clock.monotonic() + REQUEST_SECONDS

    def check(self) -> None:
        """Raises RequestExpired. Time in which the process was stopped or its machine asleep counts."""
        if self._gone() or self._clock.monotonic() > self._until:
            raise RequestExpired

    def __enter__(self) -> None:
        self._outer = _CURRENT.set(self)

    def __exit__(self, *_: object) -> None:
        """The request was answered: a task that it started goes on by itself."""
        _CURRENT.reset(self._outer)
        self._until = math.inf
        self._gone = _never


def _never() -> bool:
    return False


_CURRENT: ContextVar[Deadline | None] = ContextVar("keyhall.deadline", default=None)


class Deadlines:
    """Gives requests their deadlines."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def request(self, gone: Callable[[], bool]) -> Deadline:
        """The deadline of a request that arrives now, to be entered."""
        return Deadline(self._clock, gone)


def check_deadline() -> None:
    """Before a commit. Raises RequestExpired; outside a request nothing."""
    deadline = _CURRENT.get()
    if deadline is not None:
        deadline.check()


@contextmanager
def regardless_of_deadline() -> Iterator[None]:
    """For the record of something that has happened already: a wrong password, a refusal, the outcome of a use.

    It must be written, whether or not the client of the request still waits.
    """
    token = _CURRENT.set(None)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def restart_deadline() -> None:
    """After the body of a request has arrived."""
    deadline = _CURRENT.get()
    if deadline is not None:
        deadline.restart()
