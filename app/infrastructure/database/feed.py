"""The port `ChangeFeed` on a database: one listener per process, any number of waiters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from app.infrastructure.database.engine import Database

log = logging.getLogger(__name__)

_SETTLE_SECONDS: Final = 0.1
"""No subscription is woken more often, because its reader then reads the database."""


class DatabaseFeed:
    """See `app.services.ports.ChangeFeed`. It receives changes inside `listening` only."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changes = 0
        self.prompt = False
        self._next = asyncio.Event()

    def subscribe(self) -> DatabaseSubscription:
        """Changes from now on, for one waiter."""
        return DatabaseSubscription(self, self._changes)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen in the background."""
        listener = asyncio.create_task(self._listen(), name="change feed")
        try:
            yield
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener

    async def past(self, seen: int) -> int:
        """Wait until there were other than that many changes; returns how many."""
        while self._changes == seen:
            await self._next.wait()
        return self._changes

    async def _listen(self) -> None:
        try:
            await self._database.dialect.listen(self._tell, self._note_prompt)
        except Exception:  # a bug must not end the process: every waiter also looks by itself, only later
            log.exception("nobody listens for changes any more, they are noticed by polling alone")
        self.prompt = False

    def _note_prompt(self, prompt: bool) -> None:  # noqa: FBT001 - called with nothing else
        self.prompt = prompt

    def _tell(self) -> None:
        self._changes += 1
        self._next.set()
        self._next = asyncio.Event()


class DatabaseSubscription:
    """See `app.services.ports.Subscription`."""

    def __init__(self, feed: DatabaseFeed, seen: int) -> None:
        self._feed = feed
        self._seen = seen
        self._again_at = float("-inf")

    async def changed(self, within: float) -> bool:
        """Whether somebody may have changed something since the last call; waits for it for that many seconds."""
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(within):
                if (pause := self._again_at - clock()) > 0:
                    await asyncio.sleep(pause)
                self._seen = await self._feed.past(self._seen)
        except TimeoutError:
            return False
        self._again_at = clock() + _SETTLE_SECONDS
        return True
