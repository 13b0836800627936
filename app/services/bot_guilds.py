"""The servers that the bot was removed from: their credentials rest, and are deleted 30 days later.

A credential of a server is used through Discord, from that server alone: without the bot it rests by itself. Where the
bot is invited again in time, everything is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Final

from app.domain.audit import Action
from app.domain.credentials import Owner, OwnerKind
from app.services.audit import SYSTEM, AuditTrail
from app.services.ports import Clock, Storage, UnitOfWork

KEPT_WITHOUT_THE_BOT: Final = timedelta(days=30)
"""How long the credentials of a server stay after the bot was removed from it."""
_LEFT: Final = "left/"
_AT_ONCE: Final = 1000


class BotGuilds:
    """Remembers since when the bot is not in a server any more. Every method may raise StorageError."""

    def __init__(self, *, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._trail = AuditTrail(clock)

    async def left(self, guild_id: str) -> None:
        """Note that the bot was removed from a server; an earlier note stays."""
        async with self._storage.write() as uow:
            await self._note(uow, guild_id)

    async def joined(self, guild_id: str) -> None:
        """Note that the bot is in a server: its credentials stay."""
        async with self._storage.write() as uow:
            await uow.bot_state.delete(_LEFT + guild_id)

    async def compare(self, present: Collection[str], ours: Callable[[str], bool]) -> None:
        """Note the servers that the bot was removed from, or invited to, while no process of it ran.

        ``present`` are those of this process, whole; ``ours`` says whether it would serve a server, as several
        processes may share the servers.
        """
        async with self._storage.lookup() as uow:
            noted = {key.removeprefix(_LEFT) for key in await uow.bot_state.starting_with(_LEFT, limit=_AT_ONCE)}
        for guild_id in noted & set(present):
            await self.joined(guild_id)
        after: str | None = ""
        while after is not None:
            async with self._storage.lookup() as uow:
                having = await uow.credentials.guilds(after=after, limit=_AT_ONCE)
            after = having[-1] if len(having) == _AT_ONCE else None
            for guild_id in having:
                if ours(guild_id) and guild_id not in present and guild_id not in noted:
                    await self.left(guild_id)

    async def purge(self, uow: UnitOfWork, limit: int) -> int:
        """Delete credentials of servers without the bot since 30 days, at most ``limit``; return how many."""
        purged, until = 0, self._clock.now() - KEPT_WITHOUT_THE_BOT
        for key, since in (await uow.bot_state.starting_with(_LEFT, limit=_AT_ONCE)).items():
            if datetime.fromisoformat(since) > until:
                continue
            guild_id = key.removeprefix(_LEFT)
            gone = await uow.credentials.purge_of(Owner(OwnerKind.GUILD, guild_id), limit=limit - purged)
            if gone:
                about = ("guild", guild_id)
                await self._trail.record(uow, SYSTEM, Action.CREDENTIAL_PURGED, about=about, count=gone)
            purged += gone
            if purged >= limit:
                break
            await uow.bot_state.delete(key)
        return purged

    async def _note(self, uow: UnitOfWork, guild_id: str) -> None:
        now = self._clock.now()
        if await uow.bot_state.get(_LEFT + guild_id) is None:
            await uow.bot_state.put(_LEFT + guild_id, now.isoformat(), now)
