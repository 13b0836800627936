"""Buttons and forms. Each is served once, and what it raises becomes a sentence."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import discord
from discord import ui

from app.bot.errors import explain
from app.bot.layout import CUSTOM_ID, Notice
from app.bot.session import BotSession, Interaction
from app.bot.texts import say

# A form may stay open while its user fetches a key.
_FORM_LASTS: Final = 60 * 60.0


class AnswerView(Notice):
    """An answer with buttons in its last row."""

    def __init__(self, session: BotSession, *parts: str, buttons: Sequence[ui.Button[Any]]) -> None:
        super().__init__(*parts, *([ui.ActionRow(*buttons)] if buttons else []))
        self._session = session

    async def interaction_check(self, interaction: Interaction, /) -> bool:
        """Whether to serve this press; Discord may deliver it twice."""
        return self._session.first_time(interaction)

    async def on_error(self, interaction: Interaction, error: Exception, item: ui.Item[Any], /) -> None:  # noqa: ARG002
        """Answer with a sentence when a button failed."""
        await explain(interaction, error)


class Form(ui.Modal):
    """A form. Its own id is random, so that no two people's forms are confused; the ids of its fields are fixed."""

    def __init__(self, session: BotSession, locale: discord.Locale, title: str) -> None:
        super().__init__(title=say(locale, title), timeout=_FORM_LASTS)
        self.custom_id = CUSTOM_ID + self.custom_id
        self.session = session
        self.locale = locale

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
    ) -> ui.TextInput[Any]:
        """Add a labelled text field. Never give a secret as its ``default``."""
        field: ui.TextInput[Any] = ui.TextInput(
            custom_id=custom_id,
            style=discord.TextStyle.paragraph if paragraph else discord.TextStyle.short,
            default=default,
            placeholder=placeholder,
            required=required,
            max_length=longest,
        )
        self.add_item(
            ui.Label(
                text=say(self.locale, label),
                description=say(self.locale, description) if description else None,
                component=field,
            )
        )
        return field

    async def interaction_check(self, interaction: Interaction, /) -> bool:
        """Whether to serve this form; Discord may deliver it twice."""
        return self.session.first_time(interaction)

    async def on_error(self, interaction: Interaction, error: Exception, /) -> None:  # type: ignore[override]
        """Answer with a sentence when the form failed."""
        await explain(interaction, error)


class ActionButton(ui.Button[Any]):
    """A button that calls ``act`` when pressed; ``name`` is its fixed id."""

    def __init__(
        self,
        name: str,
        label: str,
        act: Callable[[Interaction], Coroutine[Any, Any, None]],
        *,
        danger: bool = False,
    ) -> None:
        style = discord.ButtonStyle.danger if danger else discord.ButtonStyle.secondary
        super().__init__(custom_id=CUSTOM_ID + name, label=label, style=style)
        self._act = act

    async def callback(self, interaction: Interaction) -> None:
        """Call ``act``."""
        await self._act(interaction)


async def show(interaction: Interaction, answer: Notice) -> None:
    """Put the answer in the place of the acknowledgement."""
    files = [answer.file] if answer.file else []
    await interaction.edit_original_response(view=answer, attachments=files)
