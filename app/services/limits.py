"""Limits on guessing passwords, by the rule of `app.domain.attempts`.

An attempt is admitted by a read and counted only when it was judged and was wrong, in the unit of work that records the
refusal. Those that are being judged occupy room, so that a budget is exact in this process: an attempt that finds
all room occupied waits for a verdict. Of one session, device, or account and network, one is judged after the other.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, NoReturn

from app.domain.attempts import NETWORKS, Counts, Terms, account_prefix, minute_of
from app.domain.errors import Overloaded, TooManyAttempts
from app.services.ports import Clock, Storage, UnitOfWork

STRANGERS_AT_ONCE: Final = 48
"""Attempts of strangers that one process judges or keeps waiting; the 16 others for which the password hasher has room
are for sessions and devices that are known."""
_QUEUE: Final = 64
"""Attempts of one session, device, or account and network that wait for each other."""
_LOOKS_AT_ONCE: Final = 8
"""Reads of counters at once: a flood of them must not keep the database from everybody else."""
PROMPT_REFUSALS: Final = 20
"""Refusals in a second that are answered at once; the others wait, or a flood would occupy the whole process."""
_HELD_SECONDS: Final = 0.5
_HELD_AT_ONCE: Final = 1000
_REMEMBERED_SECONDS: Final = 1.0
_REMEMBERED_REFUSALS: Final = 10_000

AtHome = Callable[[UnitOfWork], Awaitable[bool]]
"""Whether the account has signed in from that network before."""


class _Turns:
    """The attempts that are judged one after the other."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class AttemptLimiter:
    """Admits attempts while their budgets have room. Every method may raise StorageError."""

    def __init__(self, *, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._pending: Counter[str] = Counter()
        self._strangers = 0
        self._turns: dict[str, _Turns] = {}
        self._looking = asyncio.Semaphore(_LOOKS_AT_ONCE)
        self._verdict = asyncio.Event()  # set, and replaced, when one of those being judged is done
        self._refused: dict[str, tuple[float, datetime]] = {}
        self._prompt, self._paced_at, self._held = float(PROMPT_REFUSALS), float("-inf"), 0

    @asynccontextmanager
    async def admitted(self, terms: Terms, at_home: AtHome) -> AsyncIterator[None]:
        """Judge one password inside; count it with ``count`` there if it was wrong.

        Raises TooManyAttempts, without a write; Overloaded when too many strangers are being judged.
        """
        self._raise_if_refused_lately(terms)
        key = terms.keys[0]
        turns = self._turns.setdefault(key, _Turns())
        if turns.waiting >= _QUEUE:
            raise Overloaded
        turns.waiting += 1
        try:
            async with turns.lock:
                strange = await self._take_room(terms, at_home)
                try:
                    yield
                finally:
                    self._strangers -= strange
                    self._pending.subtract(terms.keys)
                    self._pending = +self._pending  # forgets keys of which nothing is pending
                    self._verdict.set()
                    self._verdict = asyncio.Event()
        finally:
            turns.waiting -= 1
            if not turns.waiting:
                self._turns.pop(key, None)

    async def hold(self) -> None:
        """Keep a refusal back for half a second where more than twenty a second are answered."""
        now = self._clock.monotonic()
        self._prompt = min(PROMPT_REFUSALS, self._prompt + max(0.0, now - self._paced_at) * PROMPT_REFUSALS)
        self._paced_at = now
        if self._prompt >= 1:
            self._prompt -= 1
        elif self._held < _HELD_AT_ONCE:
            self._held += 1
            try:
                await self._clock.sleep(_HELD_SECONDS)
            finally:
                self._held -= 1

    async def require_room(self, uow: UnitOfWork, terms: Terms) -> None:
        """Raise TooManyAttempts unless these terms have room, by the counts in this unit of work.

        Exact in all processes where every attempt is judged and counted in a unit of work that the others wait for.
        """
        now = self._clock.now()
        admitted_at = terms.admitted_at(await uow.attempts.counts(terms.since(now)), {}, now)
        if admitted_at is not None and admitted_at != now:
            raise TooManyAttempts(_seconds(admitted_at, now))

    async def count(self, uow: UnitOfWork, *terms: Terms) -> None:
        """Count a wrong password or code, in this unit of work; a key of several terms once."""
        await uow.attempts.hit({key for each in terms for key in each.keys}, minute_of(self._clock.now()))

    async def forget(self, uow: UnitOfWork, account: str) -> None:
        """Forget every wrong password for an account, and what networks have used of the budgets of their own."""
        self._refused.clear()
        await uow.attempts.forget([account_prefix(account), NETWORKS])

    async def _take_room(self, terms: Terms, at_home: AtHome) -> bool:
        """Return once the attempt may be judged, with its room taken: True where it has the place of a stranger.

        Raises TooManyAttempts; Overloaded where there are too many strangers.
        """
        strange = False
        try:
            while True:
                verdict = self._verdict
                async with self._looking:
                    now = self._clock.now()
                    needed, counts = await self._look(terms, at_home, now)
                if verdict is not self._verdict:  # somebody was judged meanwhile: the counts may lack it
                    continue
                admitted_at = needed.admitted_at(counts, self._pending, now)
                if admitted_at is not None and admitted_at != now:
                    self._refuse(terms, admitted_at, now)
                # Only now, so that attempts that are refused take no place from others.
                if not (strange or terms.own or needed is not terms):
                    self._take_place()
                    strange = True
                if admitted_at == now:
                    self._pending.update(terms.keys)
                    return strange
                await verdict.wait()
        except BaseException:
            self._strangers -= strange
            raise

    def _take_place(self) -> None:
        if self._strangers >= STRANGERS_AT_ONCE:
            raise Overloaded
        self._strangers += 1

    async def _look(self, terms: Terms, at_home: AtHome, now: datetime) -> tuple[Terms, Counts]:
        """Read the counters, and which terms apply: those of a network where the account is at home, or these."""
        async with self._storage.lookup() as uow:
            counts = await uow.attempts.counts(terms.since(now))
        full = terms.admitted_at(counts, self._pending, now) != now or self._strangers >= STRANGERS_AT_ONCE
        if terms.alone is not None and full:
            async with self._storage.lookup(large=True) as uow:  # an account may have any number of sessions
                if await at_home(uow):
                    return terms.alone, counts
        return terms, counts

    def _refuse(self, terms: Terms, admitted_at: datetime, now: datetime) -> NoReturn:
        if len(self._refused) >= _REMEMBERED_REFUSALS:
            self._refused.clear()
        self._refused[terms.keys[0]] = (self._clock.monotonic() + _REMEMBERED_SECONDS, admitted_at)
        raise TooManyAttempts(_seconds(admitted_at, now))

    def _raise_if_refused_lately(self, terms: Terms) -> None:
        """Refuse again what the database refused within the last second: a flood must not keep it busy."""
        until, admitted_at = self._refused.get(terms.keys[0], (0.0, None))
        now = self._clock.now()
        if admitted_at is not None and self._clock.monotonic() < until and now < admitted_at:
            raise TooManyAttempts(_seconds(admitted_at, now))


def _seconds(until: datetime, now: datetime) -> int:
    return max(1, math.ceil((until - now).total_seconds()))
