"""Facts about the bot that outlive its process, and that other processes show."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from app.domain.errors import StorageError
from app.services.ports import Clock, Storage

_TREE: Final = "command_tree"
_CONNECTION: Final = "connection"


@dataclass(frozen=True, slots=True, kw_only=True)
class BotConnection:
    """``invite`` adds the bot to a server, None before its first login.

    ``happened`` and ``remedy`` say why it gave up and how it runs again, None unless it has.
    """

    invite: str | None = None
    happened: str | None = None
    remedy: str | None = None

    @property
    def state(self) -> str:
        """`logged_in`, `stopped`, or `off` where no bot has started yet."""
        if self.happened is not None:
            return "stopped"
        return "off" if self.invite is None else "logged_in"


class BotStateService:
    """The state that was last sent to Discord, and the outcome of the last login.

    A bot that ends because its process does leaves no trace here. Every method but ``shown`` may raise StorageError.
    """

    def __init__(self, *, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock

    async def synced_tree(self) -> str | None:
        """Return the digest of the commands after the last sync to Discord, None before the first one."""
        async with self._storage.lookup() as uow:
            return await uow.bot_state.get(_TREE)

    async def remember_tree(self, digest: str) -> None:
        """Store the digest of the commands that were synced to Discord."""
        async with self._storage.write() as uow:
            await uow.bot_state.put(_TREE, digest, self._clock.now())

    async def connection(self) -> BotConnection:
        """Return the outcome of the last login."""
        async with self._storage.lookup() as uow:
            stored = await uow.bot_state.get(_CONNECTION)
        return BotConnection() if stored is None else BotConnection(**json.loads(stored))

    async def shown(self) -> BotConnection:
        """Return the same for a page or probe that has to answer; nothing where the database does not."""
        try:
            return await self.connection()
        except StorageError:
            return BotConnection()

    async def logged_in(self, invite: str) -> None:
        """Store that Discord accepted the token."""
        await self._store(BotConnection(invite=invite))

    async def stopped(self, happened: str, remedy: str) -> None:
        """Store that the bot gave up, and why."""
        invite = (await self.connection()).invite
        await self._store(BotConnection(invite=invite, happened=happened, remedy=remedy))

    async def switched_off(self) -> None:
        """Store that there is no bot any more: an earlier failure of it is of no interest."""
        await self._store(BotConnection())

    async def _store(self, connection: BotConnection) -> None:
        if connection == await self.connection():
            return
        async with self._storage.write() as uow:
            await uow.bot_state.put(_CONNECTION, json.dumps(asdict(connection)), self._clock.now())
