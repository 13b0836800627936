"""The bot itself: who asks is learned from the gateway's event alone, and every interaction is acknowledged first."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import discord
from discord import app_commands
from discord.ext import commands

from app.bot import errors
from app.bot.cogs.credentials import KeyCommands
from app.bot.cogs.messages import MessageCommands
from app.bot.sync import sync_tree
from app.bot.texts import CommandTexts
from app.bot.views import CUSTOM_ID
from app.domain.errors import ConfigInvalid, NotReady, StorageError
from app.domain.identity import GuildContext
from app.domain.secrets import SecretText
from app.services.identity import DiscordEvent

if TYPE_CHECKING:
    from app.bot.views import Interaction
    from app.domain.identity import Actor
    from app.services import Services

log = logging.getLogger(__name__)

_REMEMBERED_INTERACTIONS: Final = 4096
_GUILDS_ASKED: Final = 10
_ASK_WITHIN: Final = 5.0
_DRAIN_WITHIN: Final = 3.0
# How many disconnections within how many seconds make a loop.
_LOOP: Final = (10, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BotOptions:
    """What the operator decides about the bot; ``api_base`` and ``gateway_url`` only for another Discord (tests).

    ``guild_allowlist`` narrows the guilds whose members may register, from all that the bot is in. ``public_url`` is
    the web's address as others reach it, None if only this machine does. ``restart_after`` is the first pause in
    seconds before the client is started again; it doubles.
    """

    token: SecretText
    client_id: str | None = None
    api_base: str | None = None
    gateway_url: str | None = None
    message_content: bool = False
    shard_ids: tuple[int, ...] = ()
    shard_count: int | None = None
    extensions: tuple[str, ...] = ()
    public_url: str | None = None
    guild_allowlist: frozenset[str] = field(default_factory=frozenset)
    restart_after: float = 1.0


class KeyhallTree(app_commands.CommandTree["KeyhallBot"]):
    """The commands. A check and an error handler for all of them, so that no cog needs its own."""

    async def interaction_check(self, interaction: Interaction, /) -> bool:
        """Whether this call is to be served; Discord may deliver it twice."""
        return self.client.first_time(interaction)

    async def on_error(self, interaction: Interaction, error: app_commands.AppCommandError, /) -> None:
        """Whatever a command raised becomes a sentence."""
        await self.client.explain(interaction, error)


class KeyhallBot(commands.Bot):
    """One session with Discord. It is not used again after it ended: the supervisor makes a new one.

    Cogs of extensions reach the same ``services`` as Keyhall's own, and get their Actor from ``admit``.
    """

    def __init__(
        self,
        services: Services,
        options: BotOptions,
        *,
        message_content: bool = False,
        sync: bool = False,
        connected: Callable[[str], None] | None = None,
        **library_options: Any,
    ) -> None:
        super().__init__(
            commands.when_mentioned,
            help_command=None,
            tree_cls=KeyhallTree,
            allowed_mentions=discord.AllowedMentions.none(),
            allowed_contexts=app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=True),
            allowed_installs=app_commands.AppInstallationType(guild=True, user=True),
            intents=discord.Intents(guilds=True, guild_messages=message_content, message_content=message_content),
            chunk_guilds_at_startup=False,
            max_messages=None,
            max_ratelimit_timeout=30.0,
            **library_options,
        )
        self.services = services
        self.options = options
        self._force_sync = sync
        self._connected = connected
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._serving: set[asyncio.Task[Any]] = set()
        self._disconnects: deque[float] = deque(maxlen=_LOOP[0])
        self._leaving = False
        self.thrown_out: Callable[[], None] | None = None

    # -- start and end -------------------------------------------------------------------------------------------------

    async def setup_hook(self) -> None:
        """Logged in, not connected yet: load the commands and tell Discord of them where they changed.

        Raises ConfigInvalid for an extension that does not load, and PrivilegedIntentsRequired before Discord would.
        """
        flags = self.application_flags
        granted = flags.gateway_message_content or flags.gateway_message_content_limited
        if self.intents.message_content and not granted:
            raise discord.PrivilegedIntentsRequired(None)
        if self.options.client_id not in {None, str(self.application_id)}:
            log.warning(
                "DISCORD_CLIENT_ID names another application than the token, which is of %s", self.application_id
            )
        await self.tree.set_translator(CommandTexts())
        await self.add_cog(KeyCommands(self))
        await self.add_cog(MessageCommands(self))
        for extension in self.options.extensions:
            try:
                await self.load_extension(extension)
            except commands.ExtensionError as error:
                raise ConfigInvalid(
                    f"BOT_EXTENSIONS: {extension} does not load ({type(error).__name__})",
                    remedy=f"correct {extension} or take it out of BOT_EXTENSIONS",
                ) from error
        await sync_tree(self, force=self._force_sync)

    async def close(self) -> None:
        """Serve what was acknowledged to its end, for at most 3 s, then leave."""
        self._leaving = True
        if serving := self._serving - {asyncio.current_task()}:
            _, unfinished = await asyncio.wait(serving, timeout=_DRAIN_WITHIN)
            for task in unfinished:
                task.cancel()
        await super().close()

    @property
    def invite(self) -> str:
        """Where somebody adds the bot to a server, once logged in: it asks for no permission there."""
        return discord.utils.oauth_url(self.application_id or "", permissions=discord.Permissions.none())

    async def on_connect(self) -> None:
        """Tell once that the gateway let us in."""
        if self._connected is not None:
            self._connected(self.invite)

    async def on_disconnect(self) -> None:
        """Call ``thrown_out`` where Discord closes one connection after the other: the library would not even pause."""
        now = asyncio.get_running_loop().time()
        self._disconnects.append(now)
        times, seconds = _LOOP
        if len(self._disconnects) == times and now - self._disconnects[0] < seconds and self.thrown_out is not None:
            self.thrown_out()

    async def on_ready(self) -> None:
        """The servers are known: the first-run list ticks its line."""
        await self._note_guilds()

    async def on_guild_join(self, _: discord.Guild) -> None:
        """The bot was invited to another server."""
        await self._note_guilds()

    async def on_guild_remove(self, _: discord.Guild) -> None:
        """The bot was removed from a server."""
        await self._note_guilds()

    async def _note_guilds(self) -> None:
        try:
            await self.services.dashboard.note_guilds(len(self.guilds))
        except StorageError as error:  # worth a line in a list, not the session
            log.warning("could not note in how many servers the bot is: %s", error)

    # -- every interaction ---------------------------------------------------------------------------------------------

    def first_time(self, interaction: Interaction) -> bool:
        """Whether this interaction was not seen before; a resumed session may replay what was served already."""
        if interaction.id in self._seen:
            return False
        self._seen[interaction.id] = None
        if len(self._seen) > _REMEMBERED_INTERACTIONS:
            self._seen.popitem(last=False)
        return True

    async def admit(self, interaction: Interaction) -> Actor:
        """Acknowledge, within the three seconds that Discord waits, and then find out who asks.

        The answer will be ephemeral. What Discord does not let us acknowledge is not done: its user was told that it
        failed, or another process serves it. Raises NotReady, StorageError, Forbidden and discord.HTTPException.
        """
        await interaction.response.defer(
            ephemeral=True, thinking=interaction.type is not discord.InteractionType.component
        )
        return await self.identify(interaction)

    async def identify(self, interaction: Interaction) -> Actor:
        """Who asks. Of itself it answers nothing: for autocompletion, which has no acknowledgement."""
        if self._leaving:
            raise NotReady
        if (task := asyncio.current_task()) is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        await self.services.instances.catch_up()

        async def member_of_known_guild() -> bool:
            return await self._member_of_known_guild(interaction)

        return await self.services.identity.from_discord(
            DiscordEvent(
                discord_id=str(interaction.user.id),
                guild=_guild_context(interaction),
                member_of_known_guild=member_of_known_guild,
            )
        )

    async def _member_of_known_guild(self, interaction: Interaction) -> bool:
        """Whether the user is in a guild that the bot is in and that the allowlist, if there is one, names.

        Out of a direct message at most ten guilds are asked. What Discord cannot tell is raised, not guessed.
        """
        allowed = self.options.guild_allowlist
        known = [guild for guild in self.guilds if not allowed or str(guild.id) in allowed]
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

    async def explain(self, interaction: Interaction, error: Exception) -> None:
        """Answer an interaction that failed, with a sentence that only its user sees."""
        await errors.explain(interaction, error)

    async def on_interaction(self, interaction: Interaction) -> None:
        """Answer forms and buttons of ours that outlived their process or their time.

        A live one has been claimed by now: the library starts its task before this one.
        """
        custom_id = str(dict(interaction.data or {}).get("custom_id", ""))
        if custom_id.startswith(CUSTOM_ID) and self.first_time(interaction):
            await self.explain(interaction, errors.Outdated())

    async def on_error(self, event_method: str, /, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Log what a listener raised, without what it was called with."""
        log.exception("the listener %s failed", event_method)  # noqa: LOG004 - called where the exception is handled


class ShardedKeyhallBot(KeyhallBot, discord.AutoShardedClient):
    """The same over several shards, or over some of them where other processes serve the rest."""


def make_bot(
    services: Services,
    options: BotOptions,
    *,
    message_content: bool,
    sync: bool,
    connected: Callable[[str], None] | None,
) -> KeyhallBot:
    """A bot for one session, sharded where the options say so."""
    if options.shard_count is None:
        return KeyhallBot(services, options, message_content=message_content, sync=sync, connected=connected)
    return ShardedKeyhallBot(
        services,
        options,
        message_content=message_content,
        sync=sync,
        connected=connected,
        shard_ids=list(options.shard_ids) or None,
        shard_count=options.shard_count,
    )


def _guild_context(interaction: Interaction) -> GuildContext | None:
    if interaction.guild_id is None:
        return None
    roles = interaction.user.roles if isinstance(interaction.user, discord.Member) else []
    return GuildContext(
        guild_id=str(interaction.guild_id),
        role_ids=frozenset(str(role.id) for role in roles),
        manages_guild=interaction.permissions.manage_guild or interaction.permissions.administrator,
    )
