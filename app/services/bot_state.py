"""Facts that the bot must remember across restarts and processes."""

from __future__ import annotations

from typing import Final

from app.services.ports import Clock, Storage

_TREE: Final = "command_tree"


class BotStateService:
    """The state that was last sent to Discord. Every method may raise StorageError."""

    def __init__(self, *, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock

    async def synced_tree(self) -> str | None:
        """Return the digest of the commands after the last sync to Discord, None before the first one."""
        async with self._storage.read() as uow:
            return await uow.bot_state.get(_TREE)

    async def remember_tree(self, digest: str) -> None:
        """Store the digest of the commands that were synced to Discord."""
        async with self._storage.write() as uow:
            await uow.bot_state.put(_TREE, digest, self._clock.now())
