"""Refusals in the audit trail: the first of a kind at once, the others of five minutes as one sum.

So every refusal is in the audit trail, while a flood of them costs neither a write each nor a row each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from app.domain.attempts import Network
from app.domain.audit import Action, Result
from app.domain.errors import AppError, KeyhallError
from app.domain.identity import Actor, Client
from app.services.audit import AuditTrail
from app.services.deadlines import regardless_of_deadline
from app.services.ports import Clock, Storage

log = logging.getLogger(__name__)

PERIOD_SECONDS: Final = 300.0
KINDS: Final = 200
"""How many kinds have rows of their own within a period, of people who are signed in and of others each."""
KINDS_OF_ONE: Final = 10
"""How many of them may be of one person, or of one network: nobody can hide the refusals of others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One refusal: ``about`` is the kind and the id of the object; ``detail`` never holds what was typed."""

    who: Actor | Client
    action: Action
    about: tuple[str, str] | None = None
    detail: tuple[tuple[str, str], ...] = ()
    at_once: int = 3
    """How many of a kind have rows of their own within a period."""

    @property
    def signed_in(self) -> bool:
        """Whether it is known who was refused."""
        return isinstance(self.who, Actor)

    @property
    def source(self) -> object:
        """The person; where nobody is signed in, the network: of IPv6 the /48, since one may be one person's."""
        if isinstance(self.who, Actor):
            return self.who.subject_id
        network = Network.of(self.who.address, "")
        return network.site or network.name

    @property
    def kind(self) -> object:
        """Equal for refusals that differ in nothing but their time."""
        client = self.who.client if isinstance(self.who, Actor) else self.who
        return self.source, client.source, Network.of(client.address, "").name, self.action, self.about, self.detail

    def of_source(self) -> Refusal:
        """The kind that stands for all further ones of its action and source."""
        if isinstance(self.who, Actor):
            return replace(self, who=replace(self.who, client=_nowhere(self.who.client)), about=None)
        site = Network.of(self.who.address, "").site
        return replace(self, who=replace(_nowhere(self.who), address=site or self.who.address))

    def of_many(self) -> Refusal:
        """The kind that stands for all further ones of its action: no network; an account that is attacked stays."""
        if isinstance(self.who, Actor):
            return self.of_source()
        return replace(self, who=_nowhere(self.who))


def _nowhere(client: Client) -> Client:
    return replace(client, address=None, device=None, claim=None)


@dataclass(slots=True)
class _Sum:
    refusal: Refusal
    since: datetime
    times: int = 0
    rows: int = 1


class Refusals:
    """Records refusals. The sums of a process that is killed are lost."""

    def __init__(self, *, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._trail = AuditTrail(clock)
        self._sums: dict[object, _Sum] = {}
        self._kinds: Counter[object] = Counter()  # how many sums there are, of each side and of each source
        self._ends = float("-inf")
        self._something = asyncio.Event()

    async def record(self, refusal: Refusal) -> None:
        """Commit a refusal, or add it to a sum. A database that takes no writes does not change the answer."""
        if not self.first(refusal):
            return
        try:
            with regardless_of_deadline():
                await self._commit(refusal)
        except KeyhallError as error:
            log.warning("a refusal could not be recorded in the audit trail yet: %s", error)
            self._add(refusal)

    async def _commit(self, refusal: Refusal) -> None:
        async with self._storage.write() as uow:
            await self._trail.record(
                uow,
                refusal.who,
                refusal.action,
                about=refusal.about,
                result=Result.DENIED,
                **dict(refusal.detail),
            )

    async def refuse(self, who: Actor | Client, error: AppError, where: str) -> None:
        """Record that an edge refused a request with that error; ``where`` names the route or the command."""
        if error.recorded:
            return
        detail = (("code", error.code), ("where", where))
        await self.record(Refusal(who=who, action=Action.ACCESS_REFUSED, detail=detail))
        error.as_recorded()

    def first(self, refusal: Refusal) -> bool:
        """Whether the caller has to record it now; otherwise it was added to a sum."""
        now = self._clock.monotonic()
        if now >= self._ends and not any(each.times for each in self._sums.values()):
            self._sums.clear()
            self._kinds.clear()
            self._ends = now + PERIOD_SECONDS
        found = self._sums.get(refusal.kind)
        if found is not None:
            if found.times == 0 and found.rows < refusal.at_once:
                found.rows += 1
                return True
            self._add(refusal)
            return False
        side, source = refusal.signed_in, (refusal.signed_in, refusal.source)
        if self._kinds[source] >= KINDS_OF_ONE:
            self._add(refusal.of_source() if self._kinds[side] < 2 * KINDS else refusal.of_many())
            return False
        if self._kinds[side] >= KINDS:
            self._add(refusal.of_many())
            return False
        self._kinds.update((side, source))
        self._sums[refusal.kind] = _Sum(refusal, self._clock.now())
        return True

    def _add(self, refusal: Refusal) -> None:
        found = self._sums.get(refusal.kind)
        if found is None:
            found = self._sums[refusal.kind] = _Sum(refusal, self._clock.now())
            self._kinds[refusal.signed_in] += 1
        found.times += 1
        self._something.set()

    async def flush(self) -> None:
        """Record every sum, in one unit of work, and begin again. Raises StorageError: then the sums are kept."""
        sums = {kind: replace(each) for kind, each in self._sums.items() if each.times}
        if sums:
            async with self._storage.write() as uow:
                for each in sums.values():
                    await self._trail.record(
                        uow,
                        each.refusal.who,
                        each.refusal.action,
                        about=each.refusal.about,
                        result=Result.DENIED,
                        **dict(each.refusal.detail),
                        times=each.times,
                        since=each.since.isoformat(timespec="seconds"),
                    )
        for kind, recorded in sums.items():
            self._sums[kind].times -= recorded.times
        self._ends = float("-inf")
        if not any(each.times for each in self._sums.values()):
            self._something.clear()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Record sums every five minutes while there are any, and at the end."""
        keeper = asyncio.create_task(self._keep_going(), name="refusals")
        try:
            yield
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
            await self._try_to_flush()

    async def _keep_going(self) -> None:
        while True:
            await self._something.wait()
            await asyncio.sleep(PERIOD_SECONDS)
            await self._try_to_flush()

    async def _try_to_flush(self) -> None:
        try:
            await self.flush()
        except KeyhallError as error:
            log.warning("sums of refusals could not be recorded in the audit trail: %s", error)
        except Exception:  # a bug here must not end the process
            log.exception("sums of refusals could not be recorded in the audit trail")
