"""`/key`: a member's commands for stored credentials. Secrets come in through forms only and are never shown again."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import discord
from discord import app_commands
from discord.ext import commands

from app.bot import layout, views
from app.bot.errors import OnlyInServers, or_none
from app.bot.session import BotSession, Interaction
from app.bot.texts import say
from app.domain.credentials import CredentialView, label_name, provider_name
from app.domain.errors import InvalidInput, NotFound
from app.domain.identity import Actor
from app.domain.text import whole_number
from app.services.credentials import UNSET, LabelChoice

_PAGE: Final = 8
_LONGEST_EXPIRY: Final = 3650

_WHO_COULD_READ: Final = (
    "**Who could read this key?** Everything that you type here passes through Discord. Keyhall keeps it encrypted; "
    "the person who runs this Keyhall could technically read it. Nobody else can, and it is never shown again.\n"
    "**Safer:** make a key only for this at your provider, with a spending limit and no more rights than needed."
)


class KeyCommands(commands.GroupCog, group_name="key", group_description="Keep API keys where nobody reads them"):
    """The group `/key`."""

    def __init__(self, session: BotSession) -> None:
        super().__init__()
        self._session = session

    @app_commands.command(name="add", description="Store an API key; you type it into a private form")
    @app_commands.describe(
        provider="The service that the key is for, such as openai",
        label="A name for the key, shown openly",
        for_server="For this server instead of for you (server managers)",
    )
    async def add(
        self,
        interaction: Interaction,
        provider: app_commands.Range[str, 1, 32] | None = None,
        label: app_commands.Range[str, 1, 64] | None = None,
        for_server: bool = False,  # noqa: FBT001, FBT002 - an option of a command
    ) -> None:
        """Open the form. The options are checked first, so that a secret given as one is not echoed into the form."""
        form = AddForm(
            self._session,
            interaction.locale,
            provider=provider_name(provider) if provider else None,
            label=label_name(label) if label else None,
            guild_id=_guild_id(interaction, for_server=for_server),
        )
        await interaction.response.send_modal(form)

    @app_commands.command(name="list", description="Show your stored keys")
    @app_commands.describe(for_server="For this server instead of for you (server managers)")
    async def list_keys(
        self,
        interaction: Interaction,
        for_server: bool = False,  # noqa: FBT001, FBT002 - an option of a command
    ) -> None:
        """Show the first page."""
        await _show_page(self._session, interaction, guild_id=_guild_id(interaction, for_server=for_server), after=None)

    @app_commands.command(name="replace", description="Replace the secret of a stored key")
    @app_commands.describe(label="Which key")
    async def replace(self, interaction: Interaction, label: app_commands.Range[str, 1, 100]) -> None:
        """Open the form; the key is looked up when the form is submitted."""
        await interaction.response.send_modal(ReplaceForm(self._session, interaction.locale, label))

    @app_commands.command(name="remove", description="Remove a key; it can be restored for 7 days")
    @app_commands.describe(label="Which key")
    async def remove(self, interaction: Interaction, label: app_commands.Range[str, 1, 100]) -> None:
        """Ask first."""
        actor = await self._session.admit(interaction)
        view = await self._session.services.credentials.get(actor, await _find(self._session, actor, label))
        await views.show(interaction, _removal_question(self._session, interaction.locale, view))

    @replace.autocomplete("label")
    @remove.autocomplete("label")
    async def suggest(self, interaction: Interaction, typed: str) -> list[app_commands.Choice[str]]:
        """Suggest labels of credentials that the member may reach; nothing of a secret is in them."""

        async def choices() -> list[app_commands.Choice[str]]:
            actor = await self._session.identify(interaction)
            found = await self._session.services.credentials.labels(actor, typed)
            return [app_commands.Choice(name=f"{each.label} · {each.provider}", value=each.id) for each in found]

        return await or_none(interaction, choices())


class AddForm(views.Form):
    """A new credential."""

    def __init__(
        self,
        session: BotSession,
        locale: discord.Locale,
        *,
        provider: str | None,
        label: str | None,
        guild_id: str | None,
    ) -> None:
        super().__init__(session, locale, "Store a key")
        self._guild_id = guild_id
        note = say(locale, _WHO_COULD_READ)
        if session.options.public_url is not None:
            address = f"{session.options.public_url}/credentials"
            note += "\n" + say(locale, "Or keep it away from Discord: add it on the web at {address}", address=address)
        self.note(note)
        self._secret = self.field("secret", "Secret", description="The key itself; it is never shown again")
        self._provider = self.field("provider", "Provider", default=provider, placeholder="openai", longest=32)
        self._label = self.field(
            "label", "Label", description="A name for the key, shown openly", default=label, longest=64
        )
        self._expires = self.field("expires", "Expires in days", description="Empty: never", required=False, longest=4)

    async def on_submit(self, interaction: Interaction, /) -> None:
        """Store it. The interaction's id makes a repeated delivery, to this or another process, store nothing twice."""
        actor = await self.session.admit(interaction)
        added = await self.session.services.credentials.add(
            actor,
            provider=self._provider.value,
            label=self._label.value,
            secret=self._secret.value,
            expires_at=_expiry(interaction, self._expires.value),
            guild_id=self._guild_id,
            idempotency_key=f"discord:{interaction.id}",
        )
        parts = layout.credential(self.locale, added.view, "Stored.")
        buttons = layout.web_link(self.locale, self.session.options.public_url)
        await views.show(interaction, views.AnswerView(self.session, *parts, buttons=buttons))


class ReplaceForm(views.Form):
    """A new secret for a stored credential."""

    def __init__(self, session: BotSession, locale: discord.Locale, key: str) -> None:
        super().__init__(session, locale, "Replace a key")
        self._key = key
        self._secret = self.field("secret", "Secret", description="The new key; the old one stays in the history")
        self._expires = self.field(
            "expires", "Expires in days", description="Empty: as before", required=False, longest=4
        )

    async def on_submit(self, interaction: Interaction, /) -> None:
        """Replace it."""
        actor = await self.session.admit(interaction)
        replaced = await self.session.services.credentials.replace(
            actor,
            await _find(self.session, actor, self._key),
            self._secret.value,
            expires_at=_expiry(interaction, self._expires.value) or UNSET,
        )
        headline = (
            "Replaced; the old secret is in the history."
            if replaced.new_secret
            else "That secret is in force already; its expiry is changed."
            if replaced.new_expiry
            else "Nothing changed: that secret is in force already."
        )
        await views.show(interaction, layout.Notice(*layout.credential(self.locale, replaced.view, headline)))


# ---------------------------------------------------------------------------------------------------------------------
# Pages and questions
# ---------------------------------------------------------------------------------------------------------------------


async def _show_page(session: BotSession, interaction: Interaction, *, guild_id: str | None, after: str | None) -> None:
    locale = interaction.locale
    actor = await session.admit(interaction)
    page = await session.services.credentials.page(actor, after=after, limit=_PAGE, guild_id=guild_id)

    async def first(pressed: Interaction) -> None:
        await _show_page(session, pressed, guild_id=guild_id, after=None)

    async def following(pressed: Interaction) -> None:
        await _show_page(session, pressed, guild_id=guild_id, after=page.next_cursor)

    buttons: list[discord.ui.Button[Any]] = []
    if after is not None:
        buttons.append(views.ActionButton("first", say(locale, "First page"), first))
    if page.next_cursor is not None:
        buttons.append(views.ActionButton("next", say(locale, "Next page"), following))
    if page.items:
        parts = layout.listing(locale, "Your keys" if guild_id is None else "This server's keys", page.items)
    else:
        parts = [say(locale, _nothing(guild_id, first_page=after is None))]
        buttons += layout.web_link(locale, session.options.public_url)
    await views.show(interaction, views.AnswerView(session, *parts, buttons=buttons))


def _nothing(guild_id: str | None, *, first_page: bool) -> str:
    if not first_page:
        return "No further keys."
    if guild_id is None:
        return "You have no stored keys. `/key add` stores one."
    return "This server has no stored keys that you may see."


def _removal_question(session: BotSession, locale: discord.Locale, view: CredentialView) -> views.AnswerView:
    async def keep(pressed: Interaction) -> None:
        await pressed.response.defer()
        await views.show(pressed, layout.Notice(*layout.credential(locale, view, "Kept.")))

    async def remove(pressed: Interaction) -> None:
        actor = await session.admit(pressed)
        await session.services.credentials.remove(actor, view.id, expected_version=view.version)
        undo = views.ActionButton("restore", say(locale, "Restore"), restore)
        headline = say(locale, "Removed. It can be restored for 7 days.")
        await views.show(pressed, views.AnswerView(session, headline, layout.name(view), buttons=[undo]))

    async def restore(pressed: Interaction) -> None:
        actor = await session.admit(pressed)
        restored = await session.services.credentials.restore(actor, view.id)
        await views.show(pressed, layout.Notice(*layout.credential(locale, restored, "Restored.")))

    question = "Remove this key? Everything that uses it stops working. It can be restored for 7 days."
    buttons = [
        views.ActionButton("keep", say(locale, "Keep"), keep),
        views.ActionButton("remove", say(locale, "Remove"), remove, danger=True),
    ]
    return views.AnswerView(session, *layout.credential(locale, view, question), buttons=buttons)


# ---------------------------------------------------------------------------------------------------------------------
# Parsing
# ---------------------------------------------------------------------------------------------------------------------


def _guild_id(interaction: Interaction, *, for_server: bool) -> str | None:
    """The guild of the event, if the command is for it. Raises OnlyInServers."""
    if not for_server:
        return None
    if interaction.guild_id is None:
        raise OnlyInServers
    return str(interaction.guild_id)


def _expiry(interaction: Interaction, days: str) -> datetime | None:
    """So many days after the form was sent; None for an empty text. Raises InvalidInput.

    The interaction's own time is the same at every delivery, so that a repeated one is recognised as the same request.
    """
    text = days.strip()
    if not text:
        return None
    number = whole_number(text)
    if number is None or not 1 <= number <= _LONGEST_EXPIRY:
        raise InvalidInput("expires", f"must be a whole number of days, 1 to {_LONGEST_EXPIRY}, or empty")
    return interaction.created_at + timedelta(days=number)


async def _find(session: BotSession, actor: Actor, key: str) -> str:
    """The id of a chosen suggestion, or of the one credential whose label was typed. Raises NotFound, InvalidInput."""
    try:
        return str(uuid.UUID(key))
    except ValueError:
        typed = key.strip().casefold()
    found: Sequence[LabelChoice] = await session.services.credentials.labels(actor, typed)
    match [each.id for each in found if each.label.casefold() == typed]:
        case [only]:
            return only
        case []:
            raise NotFound
        case _:
            raise InvalidInput("label", "fits several keys; choose one of the suggestions")
