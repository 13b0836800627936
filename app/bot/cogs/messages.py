"""`/encrypt` and `/decrypt`: texts that only their author, or the members of one server, can open."""

from __future__ import annotations

from typing import Final

from discord import app_commands
from discord.ext import commands

from app.bot import layout, views
from app.bot.component_ids import ComponentId
from app.bot.router import Handler, form_values
from app.bot.session import BotSession, Interaction
from app.bot.texts import say
from app.domain.errors import InvalidInput
from app.domain.identity import Actor
from app.localisation import mark

_TEXT_LONGEST: Final = 2_800
"""UTF-8 bytes: their token, 4/3 as long and 80 more, fits the 4,000 characters of the form of `/decrypt`."""


class MessageCommands(commands.Cog):
    """Tokens of `ENCRYPTION_KEY`, keyed per member or per guild."""

    def __init__(self, session: BotSession) -> None:
        self._session = session

    @property
    def handlers(self) -> dict[str, Handler]:
        """The handler of every form, by its action."""
        return {"encrypt": self.encrypt_typed, "decrypt": self.decrypt_typed}

    @app_commands.command(
        name="encrypt", description=mark("Encrypt a text so that only you or this server can open it")
    )
    @app_commands.describe(for_server=mark("Members of this server can open it, instead of only you"))
    async def encrypt(
        self,
        interaction: Interaction,
        for_server: bool = False,  # noqa: FBT001, FBT002 - an option of a command
    ) -> None:
        """Open the form."""
        locale, guild_id = interaction.locale, self._session.guild_id(interaction, for_server=for_server)
        await self._session.beforehand(interaction, _nothing_more)
        form = views.Form(
            locale, say(locale, "Encrypt a text"), views.form_id(interaction, "encrypt", guild_id=guild_id)
        )
        form.field("text", say(locale, "Text"), longest=_TEXT_LONGEST, paragraph=True)
        await interaction.response.send_modal(form)

    async def encrypt_typed(self, interaction: Interaction, named: ComponentId) -> None:
        """Encrypt what was typed."""
        for_server = self._session.whose(interaction, named) is not None
        actor = await self._session.admit(interaction)
        text = form_values(interaction).get("text", "")
        if len(text.encode("utf-8", "surrogatepass")) > _TEXT_LONGEST:
            raise InvalidInput("text", f"must be at most {_TEXT_LONGEST} bytes")
        token = await self._session.services.messages.encrypt(actor, text, for_guild=for_server)
        headline = (
            mark("Encrypted. Members of this server can open it here, with `/decrypt`.")
            if for_server
            else mark("Encrypted. Only you can open it, with `/decrypt`.")
        )
        await views.show(interaction, layout.verbatim(interaction.locale, headline, token))

    @app_commands.command(name="decrypt", description=mark("Open a token that /encrypt made"))
    async def decrypt(self, interaction: Interaction) -> None:
        """Open the form."""
        locale = interaction.locale
        await self._session.beforehand(interaction, _nothing_more)
        form = views.Form(locale, say(locale, "Open a token"), views.form_id(interaction, "decrypt"))
        form.field("token", say(locale, "Token"), paragraph=True)
        await interaction.response.send_modal(form)

    async def decrypt_typed(self, interaction: Interaction, _: ComponentId) -> None:
        """Open what was typed."""
        actor = await self._session.admit(interaction)
        token = form_values(interaction).get("token", "").strip()
        text = await self._session.services.messages.decrypt(actor, token)
        await views.show(interaction, layout.verbatim(interaction.locale, mark("Opened. Only you see this."), text))


async def _nothing_more(_: Actor) -> None:
    """Everybody who is admitted may encrypt and open."""
