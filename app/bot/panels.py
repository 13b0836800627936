"""The forms, lists and answers of `/key`. Nothing here acts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import discord
from discord import ui

from app.bot import layout, views
from app.bot.component_ids import LONGEST, ComponentId
from app.bot.layout import Notice
from app.bot.texts import inert, say
from app.domain.credentials import RECOVERABLE_FOR, CredentialView, OwnerKind
from app.localisation import mark
from app.services.credentials import Stretch

PAGE: Final = 8
"""Keys in a list."""
EXPIRY_LONGEST: Final = 3650
"""Days."""
_TITLE_LONGEST: Final = 45

_WHO_CAN_READ: Final = mark(
    "**Who can read it?** Discord carries what you type here, and the person who runs this Keyhall could technically "
    "read it. "
    "No member, moderator or server admin can. Afterwards even you see only its first and last characters.\n"
    "**Safer:** make a key just for this at the provider, with a spending limit."
)
_THE_SERVERS: Final = mark(
    "**This key will be the server's.** You and the people who manage this server can use it here, and nobody can read "
    "it. You stay its owner: your account at the provider is billed.\n"
    "**Who can read it?** Discord carries what you type here, and the person who runs this Keyhall could technically "
    "read it. "
    "No member or admin can."
)
_WHO_CAN_READ_SHORT: Final = mark(
    "-# Discord carries what you type here; the person who runs this Keyhall could technically read it."
)
_PASTE_ONLY_THE_KEY: Final = mark("Paste only the key: no quotes, no “Bearer”, no NAME=")


# ---------------------------------------------------------------------------------------------------------------------
# Forms
# ---------------------------------------------------------------------------------------------------------------------


def add_form(
    locale: discord.Locale, custom_id: ComponentId, *, provider: str | None, label: str | None, public_url: str | None
) -> views.Form:
    """The form for a new key; it says whose the key will be, and who could read it."""
    shared = custom_id.guild_id is not None
    title = say(locale, mark("Store a key for this server") if shared else mark("Store a key"))
    form = views.Form(locale, title, custom_id)
    note = say(locale, _THE_SERVERS if shared else _WHO_CAN_READ)
    if public_url is not None and not shared:
        elsewhere = mark("-# Rather not type it into Discord? [Add it on the web]({address})")
        address = f"{public_url}/credentials"
        note += "\n" + say(locale, elsewhere, address=address)
    form.note(note)
    form.field("secret", say(locale, "Key"), description=say(locale, _PASTE_ONLY_THE_KEY), paragraph=True)
    form.field(
        "provider",
        say(locale, "Provider"),
        description=say(locale, "Whose key is it?"),
        default=provider,
        placeholder="openai, anthropic, github …",
        longest=32,
    )
    form.field(
        "label",
        say(locale, "Label"),
        description=say(locale, "How you recognise it in lists; everybody who may use it sees this"),
        default=label or "main",
        longest=64,
    )
    form.field(
        "expires",
        say(locale, "Expires in days"),
        description=say(locale, "Empty: it does not expire"),
        placeholder="90",
        required=False,
        longest=4,
    )
    return form


def replace_form(locale: discord.Locale, custom_id: ComponentId, view: CredentialView, now: datetime) -> views.Form:
    """The form for a new secret; it names the key, and whose it is."""
    heading = mark("Replace “{label}” · {provider}")
    room = _TITLE_LONGEST - len(say(locale, heading, label="", provider=view.provider))
    title = say(locale, heading, label=layout.shortened(view.label, max(room, 8)), provider=view.provider)
    form = views.Form(locale, layout.shortened(title, _TITLE_LONGEST), custom_id)
    whose = (
        mark(
            "**This server's key:** {name}\n"
            "The old one stays in the history. Everything in this server that uses this key uses the new one from "
            "now on."
        )
        if view.owner.kind is OwnerKind.GUILD
        else mark(
            "**Your key:** {name}\n"
            "The old one stays in the history. Everything that uses this key uses the new one from now on."
        )
    )
    form.note(say(locale, whose, name=layout.name(locale, view)))
    form.note(
        say(
            locale, "-# Discord carries what you type here; the person who runs this Keyhall could technically read it."
        )
    )
    form.field("secret", say(locale, "New key"), description=say(locale, _PASTE_ONLY_THE_KEY), paragraph=True)
    if view.expires_at is not None and view.expires_at > now:
        as_before = say(locale, "Empty: as before (in {days} days)", days=(view.expires_at - now).days)
    else:
        as_before = say(locale, "Empty: it does not expire")
    form.field("expires", say(locale, "Expires in days"), description=as_before, required=False, longest=4)
    return form


# ---------------------------------------------------------------------------------------------------------------------
# Answers
# ---------------------------------------------------------------------------------------------------------------------


def stored(
    locale: discord.Locale,
    headline: str,
    view: CredentialView,
    list_command: str,
    *,
    undo: bool,
    payer: str | None = None,
) -> Notice:
    """A key that was stored or replaced a moment ago."""
    small = layout.facts(locale, view, payer)
    found = say(locale, "You find it in {list}.", list=list_command)
    text = f"{say(locale, headline)}\n{layout.name(locale, view)}\n{small}\n{found}"
    buttons = [all_keys(locale, _guild_of(view))]
    if undo:
        buttons.append(views.button(locale, "Undo", _named(view, "remove", number=view.version), danger=True))
    return Notice(text, ui.ActionRow(*buttons))


def one(locale: discord.Locale, view: CredentialView, headline: str = "", *, payer: str | None = None) -> Notice:
    """One key, and what can be done with it."""
    said = say(locale, headline) if headline else ""
    row: ui.ActionRow[Any] = ui.ActionRow(
        views.button(locale, "Replace", _named(view, "renew")),
        all_keys(locale, _guild_of(view)),
        views.button(locale, "Remove", _named(view, "ask"), danger=True),
    )
    return Notice(*layout.credential(locale, view, said, payer), row)


def listed(locale: discord.Locale, found: Stretch, guild_id: str | None, public_url: str | None) -> Notice:
    """Keys with their count, a menu to choose one, and the way back and on."""
    add = views.button(locale, "Add a key", ComponentId(action="add", guild_id=guild_id))
    if not found.total:
        nothing = (
            mark("**You have no keys yet.** Store one; nobody in this server will ever see it.")
            if guild_id is None
            else mark("**This server has no keys** that you may see.")
        )
        links = layout.web_link(locale, public_url) if guild_id is None else []
        return Notice(say(locale, nothing), ui.ActionRow(add, *links))
    title = say(
        locale,
        mark("Your keys · {first}\u2013{last} of {total}")
        if guild_id is None
        else mark("This server's keys · {first}\u2013{last} of {total}"),
        first=found.begin + 1,
        last=found.begin + len(found.items),
        total=found.total,
    )
    options = [
        discord.SelectOption(
            label=layout.choice(locale, view.label, view.provider, shared=guild_id is not None),
            value=view.id,
            description=layout.shortened(view.masked, 100),
        )
        for view in found.items
    ]
    choose = views.select(
        say(locale, "Replace or remove a key …"), ComponentId(action="pick", guild_id=guild_id), options
    )
    buttons = []
    if found.begin > 0:
        before = ComponentId(action="list", guild_id=guild_id, number=max(found.begin - PAGE, 0))
        buttons.append(views.button(locale, "Back", before))
    if found.begin + len(found.items) < found.total:
        after = ComponentId(action="list", guild_id=guild_id, number=found.begin + PAGE)
        buttons.append(views.button(locale, "Next", after))
    return Notice(*layout.listing(locale, title, found.items), ui.ActionRow(choose), ui.ActionRow(*buttons, add))


def removal_question(locale: discord.Locale, view: CredentialView, now: datetime) -> Notice:
    """Whether to remove it; the answer is about the version that is shown."""
    question = say(
        locale,
        "**Remove this key?** Everything that uses it stops at once. You can restore it until {day}.",
        day=discord.utils.format_dt(now + RECOVERABLE_FOR, "D"),
    )
    small = say(locale, "-# This does not cancel it at {provider}: revoke it there too.", provider=inert(view.provider))
    row: ui.ActionRow[Any] = ui.ActionRow(
        views.button(locale, "Keep", _named(view, "keep")),
        views.button(locale, "Remove", _named(view, "remove", number=view.version), danger=True),
    )
    return Notice(f"{question}\n{layout.name(locale, view)}\n{small}", row)


def removed(locale: discord.Locale, whose: ComponentId) -> Notice:
    """A key is gone; ``whose`` names it, and the version that was removed."""
    version = None if whose.number is None else whose.number + 1
    undo = ComponentId(action="restore", guild_id=whose.guild_id, credential_id=whose.credential_id, number=version)
    row: ui.ActionRow[Any] = ui.ActionRow(views.button(locale, "Restore", undo), all_keys(locale, whose.guild_id))
    return Notice(say(locale, "**Removed.** It can be restored for 7 days."), row)


# ---------------------------------------------------------------------------------------------------------------------
# After a failure
# ---------------------------------------------------------------------------------------------------------------------


def add_again(
    locale: discord.Locale, caption: str, guild_id: str | None, *, provider: str = "", label: str = ""
) -> ui.Button[Any]:
    """A button that opens the form once more, with the typed provider and label as far as an id can hold them."""
    named = ComponentId(action="add", guild_id=guild_id, text=f"{provider}:{label}")
    if len(str(named)) > LONGEST:
        named = ComponentId(action="add", guild_id=guild_id, text=f"{provider}:")
    return views.button(locale, caption, named)


def all_keys(locale: discord.Locale, guild_id: str | None) -> ui.Button[Any]:
    """A button that shows the list."""
    return views.button(locale, "All keys", ComponentId(action="list", guild_id=guild_id, number=0))


def replace_instead(locale: discord.Locale, label: str, guild_id: str | None, credential_id: str) -> ui.Button[Any]:
    """A button that opens the form for a new secret of the key that has the label already."""
    named = ComponentId(action="renew", guild_id=guild_id, credential_id=credential_id)
    return ui.Button(label=say(locale, "Replace “{label}”", label=label), custom_id=str(named))


def names(provider: str, label: str, guild_id: str | None) -> Mapping[str, object]:
    """The names in a refusal of the key that was to be stored."""
    return {"provider": inert(provider), "label": inert(label), "guild": guild_id}


def _guild_of(view: CredentialView) -> str | None:
    return view.owner.id if view.owner.kind is OwnerKind.GUILD else None


def _named(view: CredentialView, action: str, *, number: int | None = None) -> ComponentId:
    return ComponentId(action=action, guild_id=_guild_of(view), credential_id=view.id, number=number)
