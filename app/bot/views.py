"""Forms, buttons and selects. They only show: what serves them is found by their id, see ``router``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import discord
from discord import ui

from app.bot.component_ids import ComponentId
from app.bot.errors import UNANSWERED
from app.bot.layout import Notice
from app.bot.progress import progress_of
from app.bot.session import Interaction
from app.bot.texts import say

log = logging.getLogger(__name__)


class Form(ui.Modal):
    """A form. The ids of its fields are fixed; its own says what its submission is for."""

    def __init__(self, locale: discord.Locale, title: str, custom_id: ComponentId) -> None:
        super().__init__(title=title, custom_id=str(custom_id))
        self.locale = locale
        self.stop()  # the library need not remember it

    def note(self, text: str) -> None:
        """Add a paragraph."""
        self.add_item(ui.TextDisplay(text))

    def field(
        self,
        custom_id: str,
        label: str,
        *,
        description: str | None = None,
        default: str | None = None,
        placeholder: str | None = None,
        required: bool = True,
        longest: int = 4000,
        paragraph: bool = False,
    ) -> None:
        """Add a labelled text field; its texts are in the reader's language. Never give a secret as its ``default``."""
        field: ui.TextInput[Any] = ui.TextInput(
            custom_id=custom_id,
            style=discord.TextStyle.paragraph if paragraph else discord.TextStyle.short,
            default=default,
            placeholder=placeholder,
            required=required,
            max_length=longest,
        )
        self.add_item(ui.Label(text=label, description=description, component=field))


def button(
    locale: discord.Locale, label: str, custom_id: ComponentId, *, danger: bool = False, disabled: bool = False
) -> ui.Button[Any]:
    """A button for an action; one that destroys is red and stands last."""
    style = discord.ButtonStyle.danger if danger else discord.ButtonStyle.secondary
    return ui.Button(label=say(locale, label), custom_id=str(custom_id), style=style, disabled=disabled)


def select(placeholder: str, custom_id: ComponentId, options: Sequence[discord.SelectOption]) -> ui.Select[Any]:
    """A menu of which one thing is chosen."""
    return ui.Select(custom_id=str(custom_id), placeholder=placeholder, options=[*options])


def form_id(interaction: Interaction, action: str, **named: Any) -> ComponentId:
    """The id of a form that this interaction opens; no two are alike, also for clients that keep old ones."""
    return ComponentId(action=action, text=str(interaction.id), **named)


async def show(interaction: Interaction, answer: Notice) -> None:
    """Put the answer in the place of the acknowledgement.

    After a change is committed nothing is answered as a failure: an answer that Discord does not take is sent again as
    a message of its own, and if that fails, the user's next answer says what was done.
    """
    session, progress = interaction.client.session, progress_of(interaction)
    if (lost := session.lost_answer(interaction.user.id)) is not None:
        answer.put_first(say(interaction.locale, lost.done, list=session.command("key list")))
    files = [answer.file] if answer.file else []
    try:
        await interaction.edit_original_response(view=answer, attachments=files)
    except UNANSWERED as error:
        if lost is not None:
            session.answer_lost(interaction.user.id, lost)
        if progress.change is None or not progress.done:
            raise
        log.warning("Discord did not take the answer to interaction %s: %s", interaction.id, type(error).__name__)
        try:
            await interaction.followup.send(view=answer, ephemeral=True)
        except UNANSWERED as again:
            session.answer_lost(interaction.user.id, progress.change)
            log.warning(
                "Discord took neither the answer to interaction %s nor a message of its own: %s",
                interaction.id,
                type(again).__name__,
            )
