"""How answers and forms look: one container with bitting and label, one sentence of state, who pays, few buttons."""

from __future__ import annotations

import io
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import discord
from discord import ui

from app.bot.texts import inert, say
from app.domain.bitting import cut
from app.domain.credentials import CredentialView, OwnerKind, Status

if TYPE_CHECKING:
    from app.bot.client import KeyhallBot

    # The library's handlers take an Interaction of any client; ours is always a KeyhallBot, and named so where used.
    Interaction: TypeAlias = discord.Interaction[Any]

CUSTOM_ID: Final = "keyhall:"
"""How every button and form of ours is named, so that one which outlived its process can be told from others'."""

_BRASS: Final = 0x8A5A12
# The token of an interaction edits its answer for 15 minutes; a form may stay open while somebody fetches a key.
_BUTTONS_LAST: Final = 14 * 60.0
_FORM_LASTS: Final = 60 * 60.0
# A message of Components V2 shows at most 4,000 characters; the rest of them is for the sentence above.
_SHOWN_CHARACTERS: Final = 3_850

_STATES: Final = {
    Status.UNCHECKED: "Not checked with the provider yet.",
    Status.VALID: "The provider accepts it.",
    Status.REFUSED: "The provider refuses it: replace it.",
    Status.COULD_NOT_CHECK: "The provider could not be asked.",
    Status.EXPIRED: "Expired: replace it.",
    Status.UNREADABLE: "Unreadable: enter it again with `/key replace`.",
}


class AnswerView(ui.LayoutView):
    """An answer that only its reader sees; ``file`` goes with it where a text is too long to show."""

    def __init__(self, *parts: str | ui.Item[Any], buttons: Sequence[ui.Button[Any]] = ()) -> None:
        super().__init__(timeout=_BUTTONS_LAST)
        container: ui.Container[Any] = ui.Container(accent_colour=_BRASS)
        for part in parts:
            container.add_item(ui.TextDisplay(part) if isinstance(part, str) else part)
        if buttons:
            container.add_item(ui.ActionRow(*buttons))
        self.add_item(container)
        self.file: discord.File | None = None

    async def interaction_check(self, interaction: Interaction, /) -> bool:
        """Whether this press is to be served; Discord may deliver it twice."""
        bot: KeyhallBot = interaction.client
        return bot.first_time(interaction)

    async def on_error(self, interaction: Interaction, error: Exception, item: ui.Item[Any], /) -> None:  # noqa: ARG002
        """Whatever a button raised becomes a sentence."""
        bot: KeyhallBot = interaction.client
        await bot.explain(interaction, error)


class Form(ui.Modal):
    """A form. Its own id is random, so that nobody's form is taken for another's; the ids of its fields are fixed."""

    def __init__(self, locale: discord.Locale, title: str) -> None:
        super().__init__(title=say(locale, title), timeout=_FORM_LASTS)
        self.custom_id = CUSTOM_ID + self.custom_id
        self.locale = locale

    def note(self, text: str) -> None:
        """A paragraph of its own."""
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
        """A labelled text field. Never give a secret as its ``default``."""
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
        """Whether this form is to be served; Discord may deliver it twice."""
        bot: KeyhallBot = interaction.client
        return bot.first_time(interaction)

    async def on_error(self, interaction: Interaction, error: Exception, /) -> None:  # type: ignore[override]
        """Whatever the form led to becomes a sentence."""
        bot: KeyhallBot = interaction.client
        await bot.explain(interaction, error)


class ActionButton(ui.Button[Any]):
    """A button that does what it is given; ``name`` is its fixed id."""

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
        """Act, once pressed."""
        await self._act(interaction)


def web_link(locale: discord.Locale, public_url: str | None) -> list[ui.Button[Any]]:
    """The button that leads to the web, where it has an address that others can reach."""
    if public_url is None:
        return []
    return [ui.Button(label=say(locale, "Add on the web"), url=f"{public_url}/credentials")]


def credential(
    locale: discord.Locale, view: CredentialView, headline: str = "", buttons: Sequence[ui.Button[Any]] = ()
) -> AnswerView:
    """One credential, under a sentence about what happened to it."""
    parts = [say(locale, headline)] if headline else []
    return AnswerView(*parts, _portrait(locale, view), buttons=buttons)


def listing(
    locale: discord.Locale, title: str, views: Sequence[CredentialView], buttons: Sequence[ui.Button[Any]] = ()
) -> AnswerView:
    """Several credentials under a title."""
    return AnswerView(f"### {say(locale, title)}", *(_portrait(locale, view) for view in views), buttons=buttons)


def _portrait(locale: discord.Locale, view: CredentialView) -> str:
    payer = "This server's key: its sharer pays for its use." if _of_guild(view) else "You pay for its use."
    times = [say(locale, "changed {when}", when=_ago(view.updated_at))]
    if view.expires_at is not None:
        times.append(say(locale, "expires {when}", when=_ago(view.expires_at)))
    masked = view.masked.replace("`", "•")
    return (
        f"{name(view)}\n{say(locale, _STATES[view.status])} {say(locale, payer)}\n-# `{masked}` · {' · '.join(times)}"
    )


def name(view: CredentialView) -> str:
    """Bitting and label: which credential is meant."""
    return f"`{cut(view.fingerprint)}`  **{inert(view.label)}** · {inert(view.provider)}"


def _of_guild(view: CredentialView) -> bool:
    return view.owner.kind is OwnerKind.GUILD


def _ago(at: datetime) -> str:
    return discord.utils.format_dt(at, "R")


def verbatim(locale: discord.Locale, headline: str, text: str) -> AnswerView:
    """A text to the letter, to be copied: as a code block, or as a file where a block would cut or change it."""
    if text and len(text) <= _SHOWN_CHARACTERS and "```" not in text:
        return AnswerView(say(locale, headline), f"```\n{text}\n```")
    answer = AnswerView(say(locale, headline), ui.File("attachment://keyhall.txt"))
    answer.file = discord.File(io.BytesIO(text.encode()), "keyhall.txt")
    return answer


async def show(interaction: Interaction, answer: AnswerView) -> None:
    """Put the answer where the acknowledgement stands."""
    files = [answer.file] if answer.file else []
    await interaction.edit_original_response(view=answer, attachments=files)
