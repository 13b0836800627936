"""`/link`: one's Discord account becomes one with one's account on the web, by a code that the web shows."""

from __future__ import annotations

from typing import Any, Final

import discord
from discord import app_commands, ui
from discord.ext import commands

from app.bot import layout, views
from app.bot.component_ids import ComponentId
from app.bot.layout import Notice
from app.bot.progress import LINK, Change, Progress, progress_of
from app.bot.router import Handler
from app.bot.session import BotSession, Interaction
from app.bot.texts import inert, say
from app.localisation import mark
from app.services.credentials import Renamed
from app.services.discord_accounts import Linked, Moving, Offer

_SHOWN: Final = 10
"""Keys that are named; a message has room for that many with the longest labels."""
_CODE_LONGEST: Final = 32


class LinkCommand(commands.Cog):
    """The command, and the two buttons that it leads to."""

    def __init__(self, session: BotSession) -> None:
        self._session = session
        self._linking = session.services.discord_linking

    @property
    def handlers(self) -> dict[str, Handler]:
        """The handler of every button, by its action."""
        return {"link": self.confirm, "nolink": self.decline}

    @app_commands.command(name="link", description=mark("Link your Discord account with your account on the web"))
    @app_commands.describe(code=mark("The code that your account page on the web shows, for ten minutes"))
    async def link(self, interaction: Interaction, code: app_commands.Range[str, 1, _CODE_LONGEST]) -> None:
        """Show what moves, and ask. The sender needs no account here yet."""
        _begin(interaction, LINK)
        number = await self._session.sender(interaction)
        offer = await self._linking.offer_by_code(number, code)
        await views.show(interaction, question(interaction.locale, offer, code))

    async def confirm(self, interaction: Interaction, named: ComponentId) -> None:
        """Link them."""
        progress = _begin(interaction, LINK)
        number = await self._session.sender(interaction)
        progress.begun = True
        linked = await self._linking.link_by_code(number, named.text)
        progress.done = True
        await views.show(interaction, done(interaction.locale, linked))

    async def decline(self, interaction: Interaction, _: ComponentId) -> None:
        """Leave everything as it is."""
        await self._session.sender(interaction)
        await views.show(interaction, Notice(say(interaction.locale, "Nothing was linked.")))


def question(locale: discord.Locale, offer: Offer, code: str) -> Notice:
    """The accounts, the keys that move, and a warning for people who have the code from somebody else."""
    parts = [
        say(
            locale,
            "**Link this Discord account with the account “{username}” on the web?** Both are one from then on: the "
            "same keys here and there, and Discord signs you in on the web.",
            username=inert(offer.username),
        ),
        say(
            locale,
            "**Did somebody else give you this code?** Then choose Cancel. The account “{username}” gets your keys, "
            "and its owner can use them.",
            username=inert(offer.username),
        ),
        *_moving(locale, offer),
    ]
    row: ui.ActionRow[Any] = ui.ActionRow(
        views.button(locale, "Cancel", ComponentId(action="nolink")),
        views.button(locale, "Link them", ComponentId(action="link", text=code), danger=True),
    )
    return Notice(*parts, row)


def done(locale: discord.Locale, linked: Linked) -> Notice:
    """They are linked."""
    name, moved = inert(linked.username), linked.moved
    parts = [say(locale, "**Linked** with the account “{username}”.", username=name)]
    if moved.count:
        parts.append(say(locale, "Keys that moved: {count}.", count=moved.count))
    if moved.renamed:
        parts.append("\n".join(_renamed(locale, each) for each in moved.renamed[:_SHOWN]))
    return Notice(*parts)


def _moving(locale: discord.Locale, offer: Offer) -> list[str]:
    found = []
    if offer.credentials:
        lines = [say(locale, "Keys that move to that account: {count}.", count=len(offer.credentials))]
        lines += [_line(locale, each) for each in offer.credentials[:_SHOWN]]
        if len(offer.credentials) > _SHOWN:
            lines.append(say(locale, "… and {more} more.", more=len(offer.credentials) - _SHOWN))
        found.append("\n".join(lines))
    else:
        found.append(say(locale, "No keys are stored from this Discord account, so none move."))
    if offer.removed:
        found.append(say(locale, "Removed keys that can still be restored move along: {count}.", count=offer.removed))
    if offer.shares:
        count = sum(each for _, each in offer.shares)
        found.append(
            say(
                locale,
                "Keys that you gave to servers stay there; that account is billed for them from then on: {count} in "
                "{servers} servers.",
                count=count,
                servers=len(offer.shares),
            )
        )
    return found


def _line(locale: discord.Locale, moving: Moving) -> str:
    view = moving.view
    line = f"- **{inert(view.label)}** · {inert(view.provider)} · {layout.masked(view)}"
    if moving.label == view.label:
        return line
    return f"{line} · " + say(locale, "called “{label}” there, since its name is taken", label=inert(moving.label))


def _renamed(locale: discord.Locale, renamed: Renamed) -> str:
    return say(
        locale,
        "- “{label}” ({provider}) is called “{new}” now, since its name was taken.",
        label=inert(renamed.label),
        provider=inert(renamed.provider),
        new=inert(renamed.new_label),
    )


def _begin(interaction: Interaction, change: Change) -> Progress:
    """From here on, a failure says that nothing was linked, until it is done."""
    progress = progress_of(interaction)
    progress.change = change
    return progress
