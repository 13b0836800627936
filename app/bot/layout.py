"""How answers look: one container with bitting and label, one sentence of state, who pays. Nothing here acts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import discord
from discord import ui

from app.bot.texts import inert, say
from app.domain.bitting import cut
from app.domain.credentials import CredentialView, OwnerKind, Status

CUSTOM_ID: Final = "keyhall:"
"""The prefix of the id of every button and form, by which one that outlived its process is recognised."""

_BRASS: Final = 0x8A5A12
# The token of an interaction edits its answer for 15 minutes.
_SHOWN_FOR: Final = 14 * 60.0
# A message of Components V2 shows at most 4,000 characters; the rest of them is for the sentence above.
_SHOWN_CHARACTERS: Final = 3_850

STATES: Final = {
    Status.UNCHECKED: "Not checked with the provider yet.",
    Status.VALID: "The provider accepts it.",
    Status.REFUSED: "The provider refuses it: replace it.",
    Status.COULD_NOT_CHECK: "The provider could not be asked.",
    Status.EXPIRED: "Expired: replace it.",
    Status.UNREADABLE: "Unreadable: enter it again with `/key replace`.",
}


class Notice(ui.LayoutView):
    """An answer that only its reader sees; ``file`` is sent with it where a text is too long to show."""

    def __init__(self, *parts: str | ui.Item[Any], file: discord.File | None = None) -> None:
        super().__init__(timeout=_SHOWN_FOR)
        container: ui.Container[Any] = ui.Container(accent_colour=_BRASS)
        for part in parts:
            container.add_item(ui.TextDisplay(part) if isinstance(part, str) else part)
        self.add_item(container)
        self.file = file


def credential(locale: discord.Locale, view: CredentialView, headline: str = "") -> list[str]:
    """One credential, under a sentence about what happened to it."""
    return [*([say(locale, headline)] if headline else []), _card(locale, view)]


def listing(locale: discord.Locale, title: str, views: Sequence[CredentialView]) -> list[str]:
    """Several credentials under a title."""
    return [f"### {say(locale, title)}", *(_card(locale, view) for view in views)]


def verbatim(locale: discord.Locale, headline: str, text: str) -> Notice:
    """A text to the letter, to be copied: as a code block, or as a file where a block would cut or change it."""
    if text and len(text) <= _SHOWN_CHARACTERS and "```" not in text:
        return Notice(say(locale, headline), f"```\n{text}\n```")
    file = discord.File(io.BytesIO(text.encode()), "keyhall.txt")
    return Notice(say(locale, headline), ui.File("attachment://keyhall.txt"), file=file)


def name(view: CredentialView) -> str:
    """Bitting and label: which credential is meant."""
    return f"`{cut(view.fingerprint)}`  **{inert(view.label)}** · {inert(view.provider)}"


def web_link(locale: discord.Locale, public_url: str | None) -> list[ui.Button[Any]]:
    """The button that leads to the web, where it has an address that others can reach."""
    if public_url is None:
        return []
    return [ui.Button(label=say(locale, "Add on the web"), url=f"{public_url}/credentials")]


def _card(locale: discord.Locale, view: CredentialView) -> str:
    of_guild = view.owner.kind is OwnerKind.GUILD
    payer = "This server's key: its sharer pays for its use." if of_guild else "You pay for its use."
    times = [say(locale, "changed {when}", when=_ago(view.updated_at))]
    if view.expires_at is not None:
        times.append(say(locale, "expires {when}", when=_ago(view.expires_at)))
    masked = view.masked.replace("`", "•")
    return f"{name(view)}\n{say(locale, STATES[view.status])} {say(locale, payer)}\n-# `{masked}` · {' · '.join(times)}"


def _ago(at: datetime) -> str:
    return discord.utils.format_dt(at, "R")
