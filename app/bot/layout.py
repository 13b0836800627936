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
from app.domain.credentials import Concern, CredentialView, OwnerKind, Status
from app.localisation import mark

_BRASS: Final = 0x8A5A12
_NO_CUT: Final = "─" * 8
# A message of Components V2 shows at most 4,000 characters; the rest of them is for the sentence above.
_SHOWN_CHARACTERS: Final = 3_850
# Discord answers 500 to one whose texts have more than about 10,170 bytes, 12 per component included.
_SHOWN_BYTES: Final = 9_600

STATES: Final = {
    Status.UNCHECKED: mark("Not checked with the provider yet."),
    Status.VALID: mark("The provider accepts it."),
    Status.REFUSED: mark("The provider refuses it: replace it."),
    Status.COULD_NOT_CHECK: mark("The provider could not be asked."),
    Status.EXPIRED: mark("Expired: replace it."),
    Status.UNREADABLE: mark("Unreadable: replace it."),
}
"""The state of a credential where it stands alone."""

_SHORT_STATES: Final = {
    Status.VALID: mark("works"),
    Status.REFUSED: mark("✕ refused: replace it"),
    Status.EXPIRED: mark("✕ expired: replace it"),
    Status.UNREADABLE: mark("✕ unreadable: replace it"),
}
"""The state of a credential in a list, where there is something to say."""


class Notice(ui.LayoutView):
    """An answer that only its reader sees; ``file`` is sent with it where a text is too long to show."""

    def __init__(self, *parts: str | ui.Item[Any], file: discord.File | None = None) -> None:
        super().__init__(timeout=None)
        container: ui.Container[Any] = ui.Container(accent_colour=_BRASS)
        for part in parts:
            container.add_item(ui.TextDisplay(part) if isinstance(part, str) else part)
        self.add_item(container)
        self.file = file
        self.stop()  # it only shows, so the library need not remember it

    def put_first(self, text: str) -> None:
        """Say this before everything else."""
        parts = self.children
        self.clear_items()
        for part in (ui.TextDisplay(text), *parts):
            self.add_item(part)


def credential(locale: discord.Locale, view: CredentialView, headline: str = "", payer: str | None = None) -> list[str]:
    """One credential, under a sentence about what happened to it. ``payer`` is as for ``facts``."""
    billed = _billed(locale, payer)
    state = f"{say(locale, STATES[view.status])} {billed[0].upper()}{billed[1:]}."
    facts = [masked(view), say(locale, "added {when}", when=_ago(view.created_at)), *_times(locale, view)]
    return [*([headline] if headline else []), f"{name(locale, view)}\n{state}\n-# {' · '.join(facts)}"]


def listing(locale: discord.Locale, title: str, views: Sequence[CredentialView]) -> list[str]:
    """Several credentials under a title, two lines each."""
    return [f"### {title}", *(_row(locale, view) for view in views)]


def verbatim(locale: discord.Locale, headline: str, text: str) -> Notice:
    """A text to the letter, to be copied: as a code block, or as a file where a block would cut or change it."""
    shown_bytes = len(text.encode())
    if text and len(text) <= _SHOWN_CHARACTERS and shown_bytes <= _SHOWN_BYTES and "```" not in text:
        return Notice(say(locale, headline), f"```\n{text}\n```")
    file = discord.File(io.BytesIO(text.encode()), "keyhall.txt")
    return Notice(say(locale, headline), ui.File("attachment://keyhall.txt"), file=file)


def name(locale: discord.Locale, view: CredentialView) -> str:
    """Which credential is meant: bitting, label and provider, and that it is the server's if it is."""
    parts = [f"{_bitting(view)}  **{inert(view.label)}**", inert(view.provider)]
    if view.owner.kind is OwnerKind.GUILD:
        parts.append(say(locale, "this server's"))
    return " · ".join(parts)


def choice(locale: discord.Locale, label: str, provider: str, *, shared: bool) -> str:
    """The same in at most 100 plain characters, for suggestions and menus."""
    ending = f" · {provider} · " + say(locale, mark("this server's") if shared else mark("yours"))
    return shortened(label, 100 - len(ending)) + ending


def shortened(text: str, longest: int) -> str:
    """At most so many characters; an ellipsis says that there are more."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def masked(view: CredentialView) -> str:
    """The visible part of a secret, as code."""
    return f"`{view.masked.replace('`', '•')}`"


def web_link(locale: discord.Locale, public_url: str | None) -> list[ui.Button[Any]]:
    """The button that leads to the web, where it has an address that others can reach."""
    if public_url is None:
        return []
    return [ui.Button(label=say(locale, "Add on the web"), url=f"{public_url}/credentials")]


def facts(locale: discord.Locale, view: CredentialView, payer: str | None = None) -> str:
    """The small line under a credential that was just stored.

    ``payer`` is the Discord id of the sharer whose account is billed, "" for one without, None for the reader.
    """
    parts = [masked(view), _billed(locale, payer), *_times(locale, view, used=False)]
    if view.fingerprint is None:
        parts.append(say(locale, "too simple for a fingerprint"))
    return f"-# {' · '.join(parts)}"


def _row(locale: discord.Locale, view: CredentialView) -> str:
    first = [name(locale, view)]
    if (state := _SHORT_STATES.get(view.status)) is not None:
        first.append(say(locale, state))
    second = [masked(view), *_times(locale, view)]
    return f"{' · '.join(first)}\n-# {' · '.join(second)}"


def _times(locale: discord.Locale, view: CredentialView, *, used: bool = True) -> list[str]:
    times = []
    if used and view.last_used_at is not None:
        times.append(say(locale, "used {when}", when=_ago(view.last_used_at)))
    elif used:
        times.append(say(locale, "never used"))
    if view.expires_at is not None:
        soon = view.concern is Concern.EXPIRING
        times.append(
            say(locale, mark("⚠ expires {when}") if soon else mark("expires {when}"), when=_ago(view.expires_at))
        )
    return times


def _bitting(view: CredentialView) -> str:
    """The cut of the key. A secret without a fingerprint has none: two of them would look the same."""
    return f"`{_NO_CUT if view.fingerprint is None else cut(view.fingerprint)}`"


def _billed(locale: discord.Locale, payer: str | None) -> str:
    if payer is None:
        return say(locale, "billed to you")
    return say(locale, "billed to <@{payer}>", payer=payer) if payer else say(locale, "billed to the one who added it")


def _ago(at: datetime) -> str:
    return discord.utils.format_dt(at, "R")
