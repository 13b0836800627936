"""`/encrypt` and `/decrypt`: texts that only their author, or the members of one server, can open."""

from __future__ import annotations

from typing import Final

import discord
from discord import app_commands
from discord.ext import commands

from app.bot import layout, views
from app.bot.errors import OnlyInServers
from app.bot.session import BotSession, Interaction
from app.domain.errors import InvalidInput

_TEXT_LONGEST: Final = 2_800
"""UTF-8 bytes: their token, 4/3 as long and 80 more, fits the 4,000 characters of the form of `/decrypt`."""


class MessageCommands(commands.Cog):
    """Tokens of `ENCRYPTION_KEY`, keyed per member or per guild."""

    def __init__(self, session: BotSession) -> None:
        self._session = session

    @app_commands.command(name="encrypt", description="Encrypt a text so that only you or this server can open it")
    @app_commands.describe(for_server="Members of this server can open it, instead of only you")
    async def encrypt(
        self,
        interaction: Interaction,
        for_server: bool = False,  # noqa: FBT001, FBT002 - an option of a command
    ) -> None:
        """Open the form."""
        if for_server and interaction.guild_id is None:
            raise OnlyInServers
        await interaction.response.send_modal(EncryptForm(self._session, interaction.locale, for_server=for_server))

    @app_commands.command(name="decrypt", description="Open a token that /encrypt made")
    async def decrypt(self, interaction: Interaction) -> None:
        """Open the form."""
        await interaction.response.send_modal(DecryptForm(self._session, interaction.locale))


class EncryptForm(views.Form):
    """A text to encrypt."""

    def __init__(self, session: BotSession, locale: discord.Locale, *, for_server: bool) -> None:
        super().__init__(session, locale, "Encrypt a text")
        self._for_server = for_server
        self._text = self.field("text", "Text", longest=_TEXT_LONGEST, paragraph=True)

    async def on_submit(self, interaction: Interaction, /) -> None:
        """Encrypt it."""
        text = self._text.value
        actor = await self.session.admit(interaction)
        if len(text.encode("utf-8", "surrogatepass")) > _TEXT_LONGEST:
            raise InvalidInput("text", f"must be at most {_TEXT_LONGEST} bytes")
        token = await self.session.services.messages.encrypt(actor, text, for_guild=self._for_server)
        headline = (
            "Encrypted. Members of this server can open it here, with `/decrypt`."
            if self._for_server
            else "Encrypted. Only you can open it, with `/decrypt`."
        )
        await views.show(interaction, layout.verbatim(self.locale, headline, token))


class DecryptForm(views.Form):
    """A token to open."""

    def __init__(self, session: BotSession, locale: discord.Locale) -> None:
        super().__init__(session, locale, "Open a token")
        self._token = self.field("token", "Token", paragraph=True)

    async def on_submit(self, interaction: Interaction, /) -> None:
        """Open it."""
        actor = await self.session.admit(interaction)
        text = await self.session.services.messages.decrypt(actor, self._token.value.strip())
        await views.show(interaction, layout.verbatim(self.locale, "Opened. Only you see this.", text))
