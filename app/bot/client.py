"""The bot itself, composed of its parts: the commands, the session that serves them, and the events of the gateway."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import discord
from discord import app_commands
from discord.ext import commands

from app.bot import errors
from app.bot.cogs.credentials import KeyCommands
from app.bot.cogs.linking import LinkCommand
from app.bot.cogs.messages import MessageCommands
from app.bot.cogs.privacy import PrivacyCommands
from app.bot.options import BotOptions
from app.bot.router import Router
from app.bot.session import BotSession, Interaction
from app.bot.sync import sync_tree
from app.bot.texts import CommandTexts
from app.domain.errors import ConfigInvalid, StorageError, with_cause
from app.services import Services

log = logging.getLogger(__name__)

# How many disconnections within how many seconds make a loop.
_LOOP: Final = (10, 60.0)


class KeyhallTree(app_commands.CommandTree["KeyhallBot"]):
    """The commands, with one check and one error handler for all of them, so that no cog needs its own."""

    async def interaction_check(self, interaction: Interaction, /) -> bool:
        """Whether to serve this call; Discord may deliver it twice."""
        return self.client.session.first_time(interaction)

    async def on_error(self, interaction: Interaction, error: app_commands.AppCommandError, /) -> None:
        """Answer with a sentence when a command failed."""
        await errors.explain(interaction, error)


class KeyhallBot(commands.Bot):
    """One connection to Discord. It is not used again once it ended: the supervisor makes a new one.

    ``session`` gives the cogs of extensions what Keyhall's own get: the services, and the Actor from ``admit``.
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
        session = BotSession(services, options, lambda: self.guilds)
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
            http_trace=session.acknowledgements.trace,
            **library_options,
        )
        self.services = services
        """For the cogs of extensions."""
        self.session = session
        self.router = Router(session)
        self._force_sync = sync
        self._connected = connected
        self._disconnects: deque[float] = deque(maxlen=_LOOP[0])
        self.thrown_out: Callable[[], None] | None = None

    # -- start and end -------------------------------------------------------------------------------------------------

    async def setup_hook(self) -> None:
        """Load the commands after the login and before the connection; register them with Discord if they changed.

        Raises ConfigInvalid for an extension that does not load, and PrivilegedIntentsRequired before Discord would.
        """
        flags = self.application_flags
        granted = flags.gateway_message_content or flags.gateway_message_content_limited
        if self.intents.message_content and not granted:
            raise discord.PrivilegedIntentsRequired(None)
        if self.session.options.client_id not in {None, str(self.application_id)}:
            log.warning(
                "DISCORD_CLIENT_ID names another application than the token, which is of %s", self.application_id
            )
        await self.tree.set_translator(CommandTexts())
        keys = KeyCommands(self.session)
        self.router.outdated = keys.outdated
        for cog in (
            keys,
            MessageCommands(self.session),
            LinkCommand(self.session),
            PrivacyCommands(self.session),
        ):
            await self.add_cog(cog)
            self.router.add(cog.handlers)
        for extension in self.session.options.extensions:
            try:
                await self.load_extension(extension)
            except commands.ExtensionError as error:
                raise ConfigInvalid(
                    f"BOT_EXTENSIONS: {extension} does not load ({type(error).__name__})",
                    remedy=f"correct {extension} or take it out of BOT_EXTENSIONS",
                ) from error
        bot_state = self.session.services.bot_state
        try:
            await bot_state.logged_in(self.invite)
        except StorageError as error:  # worth a line on the web, not the session
            log.warning("could not note that Discord accepted the token: %s", error)
        self.session.command_ids = await sync_tree(self.tree, self.application_id, bot_state, force=self._force_sync)

    async def close(self) -> None:
        """Finish the interactions that are served, for at most 3 s, notify the users of the others, then leave."""
        await self.session.drain(errors.notify_interrupted)
        await super().close()

    @property
    def invite(self) -> str:
        """The address that adds the bot to a server, once logged in; it asks for no permission there."""
        return discord.utils.oauth_url(self.application_id or "", permissions=discord.Permissions.none())

    async def on_connect(self) -> None:
        """Report that the gateway accepted the bot."""
        if self._connected is not None:
            self._connected(self.invite)

    async def on_disconnect(self) -> None:
        """Call ``thrown_out`` if Discord closes connection after connection; the library would not even pause."""
        now = asyncio.get_running_loop().time()
        self._disconnects.append(now)
        times, seconds = _LOOP
        if len(self._disconnects) == times and now - self._disconnects[0] < seconds and self.thrown_out is not None:
            self.thrown_out()

    async def on_ready(self) -> None:
        """Update the first-run list, and note servers that changed meanwhile: they are complete now."""
        present = {str(each.id) for each in self.guilds}
        await self._note_guilds(self.session.services.bot_guilds.compare(present, self._serves))

    async def on_guild_join(self, guild: discord.Guild) -> None:
        """The bot was invited to another server."""
        await self._note_guilds(self.session.services.bot_guilds.joined(str(guild.id)))

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        """The bot was removed from a server. An outage of a server is another event."""
        await self._note_guilds(self.session.services.bot_guilds.left(str(guild.id)))

    def _serves(self, guild_id: str) -> bool:
        """Whether the events of a server come to this process's shard."""
        return self.shard_id in {None, (int(guild_id) >> 22) % (self.shard_count or 1)}

    async def _note_guilds(self, change: Awaitable[None]) -> None:
        try:
            await change
            await self.session.services.dashboard.note_guilds(len(self.guilds))
        except StorageError as error:  # worth a line in a list, not the session
            log.warning("could not note in how many servers the bot is: %s", with_cause(error))

    async def on_interaction(self, interaction: Interaction) -> None:
        """Serve Keyhall's buttons, menus and forms: of this process or another one, of today or of before a restart."""
        if interaction.type in {discord.InteractionType.component, discord.InteractionType.modal_submit}:
            await self.router.serve(interaction)

    async def on_error(self, event_method: str, /, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Log the error of a listener, without its arguments."""
        log.exception("the listener %s failed", event_method)  # noqa: LOG004 - called where the exception is handled


class ShardedKeyhallBot(KeyhallBot, discord.AutoShardedClient):
    """The same over several shards, or over some of them if other processes serve the rest."""


def make_bot(
    services: Services,
    options: BotOptions,
    *,
    message_content: bool,
    sync: bool,
    connected: Callable[[str], None] | None,
) -> KeyhallBot:
    """A bot for one connection, sharded if the options say so."""
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
