"""The services, and the Actor behind an interaction, for every command, form and button of a connected bot."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import discord

from app.bot.options import BotOptions
from app.domain.errors import Forbidden, NotReady
from app.domain.identity import Actor, Client, GuildContext, Source
from app.services import Services
from app.services.identity import DiscordEvent

Interaction: TypeAlias = discord.Interaction[Any]
"""The library's handlers take an Interaction of any client."""

_REMEMBERED_INTERACTIONS: Final = 4096
_GUILDS_ASKED: Final = 10
_ASK_WITHIN: Final = 5.0
_DRAIN_WITHIN: Final = 3.0


class BotSession:
    """One connection to Discord, as commands see it. Extensions reach it as ``bot.session``.

    ``guilds`` returns the guilds that the bot is in. Who acts is read from the gateway's event and from nothing else.
    """

    def __init__(self, services: Services, options: BotOptions, guilds: Callable[[], Sequence[discord.Guild]]) -> None:
        self.services = services
        self.options = options
        self._guilds = guilds
        self._served: OrderedDict[int, None] = OrderedDict()
        self._serving: set[asyncio.Task[Any]] = set()
        self._leaving = False

    def first_time(self, interaction: Interaction) -> bool:
        """Whether this interaction is new; a resumed gateway session may deliver again what was served already."""
        if interaction.id in self._served:
            return False
        self._served[interaction.id] = None
        if len(self._served) > _REMEMBERED_INTERACTIONS:
            self._served.popitem(last=False)
        return True

    async def admit(self, interaction: Interaction) -> Actor:
        """Acknowledge, within the three seconds that Discord waits, and then identify the user.

        The answer will be ephemeral. Where Discord refuses the acknowledgement nothing is done: it has shown the user
        a failure, or another process serves the interaction. Raises NotReady, StorageError, Forbidden and
        discord.HTTPException.
        """
        await interaction.response.defer(
            ephemeral=True, thinking=interaction.type is not discord.InteractionType.component
        )
        return await self.identify(interaction)

    async def identify(self, interaction: Interaction) -> Actor:
        """The Actor, without an acknowledgement: for autocompletion, which has none. Raises as ``admit`` does."""
        if self._leaving:
            raise NotReady
        if (task := asyncio.current_task()) is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        await self.services.instances.catch_up()

        async def member_of_known_guild() -> bool:
            return await self._member_of_known_guild(interaction)

        event = DiscordEvent(
            discord_id=str(interaction.user.id),
            guild=_guild_context(interaction),
            member_of_known_guild=member_of_known_guild,
        )
        try:
            return await self.services.identity.from_discord(event)
        except Forbidden as refused:
            await self.services.refusals.refuse(Client(source=Source.DISCORD), refused, "discord")
            raise

    async def _member_of_known_guild(self, interaction: Interaction) -> bool:
        """Whether the user is in a guild that the bot is in and that the allowlist, if there is one, names.

        For a direct message at most ten guilds are asked. A failure of Discord is raised, not guessed around.
        """
        allowed = self.options.guild_allowlist
        known = [guild for guild in self._guilds() if not allowed or str(guild.id) in allowed]
        if any(guild.id == interaction.guild_id for guild in known):
            return True
        async with asyncio.timeout(_ASK_WITHIN):
            for guild in known[:_GUILDS_ASKED]:
                try:
                    await guild.fetch_member(interaction.user.id)
                except discord.NotFound:
                    continue
                return True
        return False

    async def drain(self) -> None:
        """Refuse new interactions and let those that were acknowledged finish, for at most 3 s; then cancel them."""
        self._leaving = True
        if serving := self._serving - {asyncio.current_task()}:
            _, unfinished = await asyncio.wait(serving, timeout=_DRAIN_WITHIN)
            for task in unfinished:
                task.cancel()


def _guild_context(interaction: Interaction) -> GuildContext | None:
    if interaction.guild_id is None:
        return None
    roles = interaction.user.roles if isinstance(interaction.user, discord.Member) else []
    return GuildContext(
        guild_id=str(interaction.guild_id),
        role_ids=frozenset(str(role.id) for role in roles),
        manages_guild=interaction.permissions.manage_guild or interaction.permissions.administrator,
    )
