"""`/privacy`: everything that is stored about a member, as a file, and its erasure."""

from __future__ import annotations

import io
from typing import Any, Final

import discord
import orjson
from discord import app_commands, ui
from discord.ext import commands

from app.bot import views
from app.bot.component_ids import ComponentId
from app.bot.layout import Notice
from app.bot.progress import ERASE, progress_of
from app.bot.router import Handler, form_values
from app.bot.session import BotSession, Interaction
from app.bot.texts import inert, say
from app.domain.identity import Actor
from app.localisation import mark

_FILE: Final = "keyhall-export.json"
_LARGEST_FILE: Final = 8 * 1024 * 1024
_NAME_LONGEST: Final = 64


class PrivacyCommands(
    commands.GroupCog, group_name="privacy", group_description=mark("Everything that is stored about you here")
):
    """The group `/privacy`, and the form that it opens. Discord has identified the member; no password is asked for."""

    def __init__(self, session: BotSession) -> None:
        super().__init__()
        self._session = session

    @property
    def handlers(self) -> dict[str, Handler]:
        """The handler of the form, by its action."""
        return {"erase": self.erase_typed}

    @app_commands.command(name="export", description=mark("Get everything that is stored about you, as a file"))
    async def export(self, interaction: Interaction) -> None:
        """Send the file, or the address of the page that has it where Discord does not take one of its size."""
        locale = interaction.locale
        actor = await self._session.admit(interaction)
        export = await self._session.services.personal_data.of_oneself(actor)
        content = orjson.dumps(export, option=orjson.OPT_UTC_Z | orjson.OPT_INDENT_2)
        if len(content) > min(interaction.filesize_limit, _LARGEST_FILE):
            answer = Notice(
                say(locale, "This is more than Discord takes as a file. The page /privacy on the web has it.")
            )
        else:
            attached: ui.File[Any] = ui.File(f"attachment://{_FILE}")
            answer = Notice(
                say(locale, "Everything that is stored about you, without the secrets of your keys."),
                attached,
                file=discord.File(io.BytesIO(content), _FILE),
            )
        await views.show(interaction, answer)

    @app_commands.command(name="delete", description=mark("Erase everything that is stored about you, for good"))
    async def delete(self, interaction: Interaction) -> None:
        """Open the form, which says what will be gone."""
        locale = interaction.locale
        progress_of(interaction).change = ERASE
        preview = await self._session.beforehand(interaction, self._session.services.erasure.preview)
        form = views.Form(locale, say(locale, "Erase everything"), views.form_id(interaction, "erase"))
        form.note(
            say(
                locale,
                "**This is gone for good, and nobody can restore it:** your account, your keys and their former "
                "versions, and the keys that you share with servers. Erasing does not revoke a key at its provider.",
            )
        )
        if preview is not None:
            form.note(say(locale, "-# Keys: {own}, shared: {shared}", own=preview.credentials, shared=preview.shared))
        name = interaction.user.name
        form.field(
            "name",
            say(locale, "Your name"),
            description=say(locale, "Type your Discord name, {name}", name=name)[:100],
            longest=_NAME_LONGEST,
        )
        await interaction.response.send_modal(form)

    async def erase_typed(self, interaction: Interaction, _: ComponentId) -> None:
        """Erase the member who typed their name."""
        progress = progress_of(interaction)
        progress.change = ERASE
        actor: Actor = await self._session.admit(interaction)
        progress.begun = True
        gone = await self._session.services.erasure.on_discord(
            actor, form_values(interaction).get("name", ""), discord_name=interaction.user.name
        )
        progress.done = True
        text = say(
            interaction.locale,
            "**Erased.** Keys: {own}, shared: {shared}. Nothing about {name} is stored here any more; a command that "
            "you use later begins a new account.",
            own=gone.credentials,
            shared=gone.shared,
            name=inert(interaction.user.name),
        )
        await views.show(interaction, Notice(text))
