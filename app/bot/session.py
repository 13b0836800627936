"""The services, and the Actor behind an interaction, for every command, form and button of a connected bot."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

import aiohttp
import discord

from app.bot.acknowledgements import Acknowledgements
from app.bot.component_ids import ComponentId
from app.bot.options import BotOptions
from app.bot.progress import Change, progress_of
from app.domain.errors import AppError, Forbidden, NotFound, NotReady
from app.domain.identity import Actor, Client, GuildContext, Source
from app.services import Services
from app.services.identity import DiscordEvent

log = logging.getLogger(__name__)

Interaction: TypeAlias = discord.Interaction[Any]
"""The library's handlers take an Interaction of any client."""

_T = TypeVar("_T")

UNKNOWN_INTERACTION: Final = 10062
ALREADY_ACKNOWLEDGED: Final = 40060
"""Discord's JSON error codes for an interaction that is over (3 s passed), or that has an acknowledgement."""

_ACTOR: Final = "keyhall.actor"
_REMEMBERED_INTERACTIONS: Final = 4096
_REMEMBERED_LOSSES: Final = 1024
_REMEMBERED_STRANGERS: Final = 1024
_STRANGER_FOR: Final = 30.0
_GUILDS_ASKED: Final = 40
_ASKED_AT_ONCE: Final = 10
_ASK_WITHIN: Final = 5.0
_DRAIN_WITHIN: Final = 3.0
_NOTIFY_WITHIN: Final = 1.5
# Discord waits three seconds for a form to open, network included.
_CHECK_WITHIN: Final = 1.5


class OnlyInServers(AppError):
    """An option for this server was used outside of a server."""

    code = "only_in_servers"
    title = "This only works in a server"


class NotServed(AppError):
    """An option for this server was used in one that the bot is not in, or that the operator does not allow."""

    code = "not_served"
    title = "This server is not served"


class BotSession:
    """One connection to Discord, as commands see it. Extensions reach it as ``bot.session``.

    ``guilds`` returns the guilds that the bot is in. Who acts is read from the gateway's event and from nothing else.
    """

    def __init__(self, services: Services, options: BotOptions, guilds: Callable[[], Sequence[discord.Guild]]) -> None:
        self.services = services
        self.options = options
        self.acknowledgements = Acknowledgements()
        self.command_ids: dict[str, int] = {}
        """The ids of the registered commands by their first name, once Discord has sent them."""
        self._guilds = guilds
        self._served: OrderedDict[int, None] = OrderedDict()
        self._serving: dict[asyncio.Task[Any], Interaction] = {}
        self._strangers: OrderedDict[int, tuple[float, int]] = OrderedDict()
        self._lost: OrderedDict[int, Change] = OrderedDict()
        self._leaving = False

    def first_time(self, interaction: Interaction) -> bool:
        """Whether this interaction is new; a resumed gateway session may deliver again what was served already."""
        if interaction.id in self._served:
            return False
        self._served[interaction.id] = None
        if len(self._served) > _REMEMBERED_INTERACTIONS:
            self._served.popitem(last=False)
        return True

    def command(self, name: str) -> str:
        """A command as text: one that can be clicked where its id is known."""
        number = self.command_ids.get(name.partition(" ")[0])
        return f"`/{name}`" if number is None else f"</{name}:{number}>"

    # -- who asks ------------------------------------------------------------------------------------------------------

    async def admit(self, interaction: Interaction) -> Actor:
        """Acknowledge, within the three seconds that Discord waits, and then identify the user.

        The answer will be ephemeral. Where Discord refuses the acknowledgement nothing is done: it has shown the user
        a failure, or another process serves the interaction. Raises NotReady, StorageError, Forbidden and
        discord.HTTPException.
        """
        await self._acknowledge(interaction)
        return await self.identify(interaction)

    async def _acknowledge(self, interaction: Interaction) -> None:
        # The answer to a button, or to a form that a button opened, takes the place of the message with the button.
        try:
            await interaction.response.defer(ephemeral=True, thinking=interaction.message is None)
        except (discord.HTTPException, aiohttp.ClientError, OSError) as error:
            if not await self._taken_nevertheless(interaction, error):
                raise
            log.warning(
                "Discord took the acknowledgement of interaction %s and answered with a failure", interaction.id
            )
        progress_of(interaction).acknowledged = True

    async def _taken_nevertheless(self, interaction: Interaction, error: Exception) -> bool:
        """Whether Discord has our acknowledgement although it gave no clear answer to it."""
        if not self.acknowledgements.unclear(interaction.id):
            return False
        if isinstance(error, discord.HTTPException) and error.status < 500:
            return error.code == ALREADY_ACKNOWLEDGED
        try:
            await interaction.original_response()
        except (discord.DiscordException, aiohttp.ClientError, OSError):
            return False
        return True

    async def identify(self, interaction: Interaction) -> Actor:
        """The Actor, without an acknowledgement: for autocompletion, which has none. Raises as ``admit`` does."""
        await self._begin_serving(interaction)

        async def member_of_known_guild() -> bool:
            return await self._member_of_known_guild(interaction)

        event = DiscordEvent(
            discord_id=str(interaction.user.id),
            guild=self._guild_context(interaction),
            member_of_known_guild=member_of_known_guild,
        )
        try:
            actor = interaction.extras[_ACTOR] = await self.services.identity.from_discord(event)
        except Forbidden as refused:
            await self.record_refusal(interaction, refused)
            raise
        return actor

    async def sender(self, interaction: Interaction) -> str:
        """Acknowledge, and return the Discord id of the sender, who needs no account: for linking one.

        Raises as ``admit`` does, but for Forbidden.
        """
        await self._acknowledge(interaction)
        await self._begin_serving(interaction)
        return str(interaction.user.id)

    async def _begin_serving(self, interaction: Interaction) -> None:
        if self._leaving:
            raise NotReady
        if (task := asyncio.current_task()) is not None:
            self._serving[task] = interaction
            task.add_done_callback(lambda done: self._serving.pop(done, None))
            end_span = self.services.tracer.begin(_span_name(interaction))
            task.add_done_callback(lambda _: end_span())
        await self.services.instances.catch_up()

    async def record_refusal(self, interaction: Interaction, error: AppError) -> None:
        """Record in the audit trail that somebody may not do this, unless a service has recorded it."""
        if isinstance(error, Forbidden | NotServed) and not error.recorded:
            who = interaction.extras.get(_ACTOR) or Client(source=Source.DISCORD)
            command = interaction.command
            await self.services.refusals.refuse(who, error, f"/{command.qualified_name}" if command else "a button")

    async def beforehand(self, interaction: Interaction, check: Callable[[Actor], Awaitable[_T]]) -> _T | None:
        """The result of a check before a form opens, so that nobody types a secret in vain.

        None if it is not known within 1.5 s: the check goes on, and the form's submission is judged again. Raises what
        the check raises, and as ``identify`` does.
        """

        async def judge() -> _T:
            return await check(await self.identify(interaction))

        judging = asyncio.create_task(judge(), name="check before a form")
        await asyncio.wait({judging}, timeout=_CHECK_WITHIN)
        if judging.done():
            return judging.result()
        # Not cancelled: it may be about to commit the user's account, or a refusal.
        judging.add_done_callback(lambda done: done.cancelled() or done.exception())
        return None

    async def _member_of_known_guild(self, interaction: Interaction) -> bool:
        """Whether the user is in a guild that the bot is in and that the allowlist, if there is one, names.

        For a direct message at most 40 guilds are asked, ten at once, and for the same stranger at most every 30 s. A
        failure of Discord is raised, not guessed around.
        """
        user, now = interaction.user.id, asyncio.get_running_loop().time()
        if self.serves(interaction.guild_id):
            return True
        served = [guild for guild in self._guilds() if self.serves(guild.id)]
        until, of = self._strangers.get(user, (0.0, 0))
        if interaction.type is discord.InteractionType.autocomplete or (now < until and of == len(served)):
            return False
        asked = served[:_GUILDS_ASKED]
        async with asyncio.timeout(_ASK_WITHIN):
            for begin in range(0, len(asked), _ASKED_AT_ONCE):
                if await _member_of_any(asked[begin : begin + _ASKED_AT_ONCE], user):
                    return True
        self._strangers[user] = now + _STRANGER_FOR, len(served)
        if len(self._strangers) > _REMEMBERED_STRANGERS:
            self._strangers.popitem(last=False)
        return False

    def serves(self, guild_id: int | None) -> bool:
        """Whether the bot is in this guild, and the allowlist, if there is one, names it."""
        allowed = self.options.guild_allowlist
        if guild_id is None or (allowed and str(guild_id) not in allowed):
            return False
        return any(guild.id == guild_id for guild in self._guilds())

    def guild_id(self, interaction: Interaction, *, for_server: bool) -> str | None:
        """The guild of the event, if the interaction is about the guild's own. Raises OnlyInServers, NotServed."""
        if not for_server:
            return None
        if interaction.guild_id is None:
            raise OnlyInServers
        if not self.serves(interaction.guild_id):
            raise NotServed
        return str(interaction.guild_id)

    def _guild_context(self, interaction: Interaction) -> GuildContext | None:
        """The guild of the event. One that is not served is none: nobody manages its credentials, nobody uses them."""
        if not self.serves(interaction.guild_id):
            return None
        roles = interaction.user.roles if isinstance(interaction.user, discord.Member) else []
        return GuildContext(
            guild_id=str(interaction.guild_id),
            role_ids=frozenset(str(role.id) for role in roles),
            manages_guild=interaction.permissions.manage_guild or interaction.permissions.administrator,
        )

    def whose(self, interaction: Interaction, named: ComponentId) -> str | None:
        """The guild whose credentials a component is about, None for the member's own.

        Raises OnlyInServers, NotServed, NotFound. The guild is that of the event: what the id says must agree with it.
        """
        guild_id = self.guild_id(interaction, for_server=named.guild_id is not None)
        if guild_id != named.guild_id:
            raise NotFound
        return guild_id

    # -- answers that Discord lost -------------------------------------------------------------------------------------

    def answer_lost(self, user_id: int, change: Change) -> None:
        """Remember that this user has not learned of a change, so that their next answer says so."""
        self._lost[user_id] = change
        if len(self._lost) > _REMEMBERED_LOSSES:
            self._lost.popitem(last=False)

    def lost_answer(self, user_id: int) -> Change | None:
        """The change that this user has not learned of, once."""
        return self._lost.pop(user_id, None)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def drain(self, notify: Callable[[Interaction], Awaitable[None]]) -> None:
        """Refuse new interactions and let those that are served finish, for at most 3 s; then cancel them.

        The users of those are notified, for at most 1.5 s: they would wait for an answer that nobody gives.
        """
        self._leaving = True
        serving = {task: self._serving[task] for task in self._serving if task is not asyncio.current_task()}
        if not serving:
            return
        _, unfinished = await asyncio.wait(serving, timeout=_DRAIN_WITHIN)
        for task in unfinished:  # first, so that none of them begins or answers anything after its user was notified
            task.cancel()
        waiting = {serving[task].id: serving[task] for task in unfinished}
        with suppress(TimeoutError):
            async with asyncio.timeout(_NOTIFY_WITHIN):
                await asyncio.gather(
                    *(
                        notify(interaction)
                        for interaction in waiting.values()
                        if interaction.type is not discord.InteractionType.autocomplete
                    ),
                    return_exceptions=True,  # nothing keeps the bot from leaving
                )


async def _member_of_any(guilds: Sequence[discord.Guild], user_id: int) -> bool:
    """Whether the user is a member of one of them. Raises what Discord fails with, unless another guild says yes."""
    answers = await asyncio.gather(*(guild.fetch_member(user_id) for guild in guilds), return_exceptions=True)
    if any(isinstance(answer, discord.Member) for answer in answers):
        return True
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, discord.NotFound):
            raise answer
    return False


def _span_name(interaction: Interaction) -> str:
    """The command by its name; of a press or a form its kind alone, since anybody can make up an id."""
    command = interaction.command
    return interaction.type.name if command is None else f"{interaction.type.name} /{command.qualified_name}"
