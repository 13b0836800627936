"""How answers look."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import discord
import pytest
from discord import ui

from app.bot import layout, panels
from app.bot.component_ids import ComponentId
from app.domain.credentials import CredentialView, Owner, OwnerKind, Status
from app.services.credentials import Stretch
from tests.screenshots.panel import drawn
from tests.support.discord_wire.rules import COMPONENTS_V2, check_message, check_modal

ENGLISH = discord.Locale.american_english
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def view(**changes: Any) -> CredentialView:
    values: dict[str, Any] = {
        "id": "7c1f6e0e-3b1a-4b52-9a37-3a8f6b1f0a11",
        "owner": Owner(OwnerKind.USER, "u1"),
        "provider": "openai",
        "label": "work",
        "masked": "sk-proj-••••••••abcd",
        "version": 1,
        "status": Status.UNCHECKED,
        "fingerprint": "00204060a0c0e0ff",
        "created_at": NOW,
        "updated_at": NOW,
        "expires_at": None,
        "last_used_at": None,
        "last_verified_at": None,
        "deleted_at": None,
        "secret_age_days": 0,
        "concern": None,
        "sharer_id": None,
    }
    return CredentialView(**values | changes)


def credential(shown: CredentialView, headline: str = "") -> layout.Notice:
    return layout.Notice(*layout.credential(ENGLISH, shown, headline))


def bytes_of(answer: layout.Notice) -> int:
    """As Discord counts them: the texts, and 12 a component."""
    return len(text_of(answer).encode()) + 12 * sum(1 for _ in answer.walk_children())


def text_of(answer: layout.Notice) -> str:
    return "\n".join(item.content for item in answer.walk_children() if isinstance(item, discord.ui.TextDisplay))


async def test_an_answer_is_one_container_with_bitting_label_state_and_payer() -> None:
    answer = credential(view(), "Kept.")
    assert [type(child) for child in answer.children] == [discord.ui.Container]
    text = text_of(answer)
    assert "`▁▂▃▄▆▇██`" in text
    assert "**work** · openai" in text
    assert "Not checked with the provider yet." in text
    assert "Billed to you." in text
    assert "sk-proj-••••••••abcd" in text


@pytest.mark.parametrize("status", list(Status))
async def test_every_state_has_a_sentence(status: Status) -> None:
    assert layout.STATES[status] in text_of(credential(view(status=status)))


async def test_a_servers_key_says_so_and_who_pays() -> None:
    shared = view(owner=Owner(OwnerKind.GUILD, "1"))
    for payer, said in [(None, "to you"), ("1003", "to <@1003>"), ("", "to the one who added it")]:
        text = text_of(layout.Notice(*layout.credential(ENGLISH, shared, "", payer)))
        assert f"Billed {said}." in text
        assert "this server's" in text
        assert f"billed {said}" in layout.facts(ENGLISH, shared, payer)


async def test_a_secret_without_a_fingerprint_has_no_bitting() -> None:
    for text in (text_of(credential(view(fingerprint=None))), layout.facts(ENGLISH, view(fingerprint=None))):
        assert not set(text) & set("▁▂▃▄▅▆▇█")
    assert "too simple for a fingerprint" in layout.facts(ENGLISH, view(fingerprint=None))


async def test_an_expiry_is_shown_in_the_readers_time() -> None:
    at = NOW + timedelta(days=30)
    assert f"expires <t:{int(at.timestamp())}:R>" in text_of(credential(view(expires_at=at)))


async def test_a_hostile_label_and_mask_stay_text() -> None:
    hostile = view(label="**x** <@1> [a](b)", masked="`@here`••••••••")
    text = text_of(credential(hostile))
    assert "<@1>" not in text
    assert "](" not in text
    assert "`•@here•••••••••`" in text


async def test_a_full_page_of_the_longest_labels_fits_into_one_message() -> None:
    page = [view(label="*" * 64, provider="." * 32, masked="•" * 20, expires_at=NOW) for _ in range(8)]
    answer = panels.listed(discord.Locale.german, Stretch(items=page, begin=8, total=99), "1", None)
    assert answer.content_length() <= 4000
    assert bytes_of(answer) <= 10_170
    assert sum(1 for _ in answer.walk_children()) <= 40


async def test_labels_of_the_most_bytes_fit_into_one_message() -> None:
    page = [view(label="🔑" * 64, status=Status.REFUSED, masked="🔑" * 12, expires_at=NOW) for _ in range(8)]
    assert bytes_of(panels.listed(ENGLISH, Stretch(items=page, begin=8, total=99), "1", None)) <= 10_170


async def test_names_in_menus_and_suggestions_fit_and_say_whose() -> None:
    for locale in (ENGLISH, discord.Locale.german):
        assert len(layout.choice(locale, "x" * 64, "o" * 32, shared=True)) == 100
    assert layout.choice(ENGLISH, "main", "openai", shared=True) == "main · openai · this server's"
    assert layout.choice(ENGLISH, "main", "openai", shared=False) == "main · openai · yours"


@pytest.mark.parametrize("locale", [ENGLISH, discord.Locale.german], ids=str)
@pytest.mark.parametrize("owner", [Owner(OwnerKind.USER, "u1"), Owner(OwnerKind.GUILD, "1")], ids=str)
async def test_a_form_for_a_new_secret_says_whose_key_and_which(locale: discord.Locale, owner: Owner) -> None:
    for label in ("main", "x" * 64):
        shown = view(owner=owner, label=label, expires_at=NOW + timedelta(days=30))
        form = panels.replace_form(locale, ComponentId(action="replace"), shown, NOW)
        assert len(form.title) <= 45
        text = str(form.to_dict())
        assert f"**{label}**" in text
        assert "▁▂▃▄▆▇██" in text
        assert ("30 days" in text) or ("30 Tagen" in text)
        assert ("erver" in form.to_dict()["components"][0]["content"].split("\n")[0]) is (owner.kind is OwnerKind.GUILD)


@pytest.mark.parametrize("locale", [ENGLISH, discord.Locale.german], ids=str)
@pytest.mark.parametrize("guild_id", [None, "1"], ids=["own", "the server's"])
async def test_every_form_is_one_that_discord_accepts(locale: discord.Locale, guild_id: str | None) -> None:
    where = ComponentId(action="store", guild_id=guild_id, text="1")
    address = f"https://{'k' * 200}.example"
    owner = Owner(OwnerKind.USER, "u1") if guild_id is None else Owner(OwnerKind.GUILD, guild_id)
    longest = view(owner=owner, label="🔑" * 64, provider="p" * 32, expires_at=NOW + timedelta(days=3650))
    for form in (
        panels.add_form(locale, where, provider=None, label=None, public_url=None),
        panels.add_form(locale, where, provider="p" * 32, label="🔑" * 64, public_url=address),
        panels.replace_form(locale, where, view(), NOW),
        panels.replace_form(locale, where, longest, NOW),
    ):
        check_modal(form.to_dict())


@pytest.mark.parametrize("locale", [ENGLISH, discord.Locale.german], ids=str)
async def test_every_panel_is_one_that_discord_accepts(locale: discord.Locale) -> None:
    owner = Owner(OwnerKind.GUILD, str((1 << 64) - 1))
    long = view(owner=owner, label="x" * 64, provider="p" * 32, masked="•" * 20, version=10**9, expires_at=NOW)
    named = ComponentId(action="remove", guild_id=owner.id, credential_id=long.id, number=10**9)
    refused = ui.ActionRow[Any](
        panels.add_again(locale, "Another label", owner.id, provider="p" * 32, label="x" * 64),
        panels.replace_instead(locale, "x" * 64, owner.id, long.id),
    )
    for panel in (
        panels.stored(locale, "**Stored.**", long, "</key list:1>", undo=True, payer=str((1 << 64) - 1)),
        panels.one(locale, long, "Kept.", payer=""),
        panels.listed(locale, Stretch(items=[long] * 8, begin=8, total=99), owner.id, None),
        panels.listed(locale, Stretch(items=[], begin=0, total=0), None, "https://k.example"),
        panels.removal_question(locale, long, NOW),
        panels.removed(locale, named),
        layout.Notice("Refused", refused),
    ):
        components: list[dict[str, Any]] = panel.to_components()  # type: ignore[no-untyped-call]
        shown = {"content": "", "embeds": [], "attachments": [], "components": components, "flags": COMPONENTS_V2}
        check_message(shown, 0)


async def test_a_text_is_shown_to_the_letter_or_given_as_a_file() -> None:
    assert "```\nline one\nline *two*\n```" in text_of(
        layout.verbatim(ENGLISH, "Opened. Only you see this.", "line one\nline *two*")
    )
    for text in ("a ``` breaks out", "x" * 3851, "🔑" * 2500, ""):
        answer = layout.verbatim(ENGLISH, "Opened. Only you see this.", text)
        assert answer.file is not None
        assert answer.file.fp.read() == text.encode()
        assert "breaks" not in text_of(answer)


async def test_the_longest_text_that_is_shown_fits_into_one_message() -> None:
    longest = "x" * 3850
    answer = layout.verbatim(
        discord.Locale.german, "Encrypted. Members of this server can open it here, with `/decrypt`.", longest
    )
    assert longest in text_of(answer)
    assert answer.content_length() <= 4000


async def test_the_web_is_offered_only_where_others_can_reach_it() -> None:
    assert layout.web_link(ENGLISH, None) == []
    assert [button.url for button in layout.web_link(ENGLISH, "https://k.example")] == ["https://k.example/credentials"]


def test_the_picture_of_an_answer_has_its_words_and_no_mark_of_discord() -> None:
    """`make screenshots` draws answers as pages."""
    shown = view(label="1 < 2", expires_at=NOW + timedelta(days=400), last_used_at=NOW)
    found = Stretch(items=[shown], begin=0, total=9)
    page = drawn(panels.listed(ENGLISH, found, None, None))
    page += drawn(panels.stored(ENGLISH, "**Stored.**", shown, "</key list:1>", undo=True))
    for words in (
        "<h3>Your keys",
        "<b>1 &lt; 2</b>",
        "<b>Stored.</b>",
        "Replace or remove a key",
        ">Undo<",
        ">/key list<",
    ):
        assert words in page
    assert not re.search(r"&lt;t:|&lt;/|\*\*|-# |###|`", page)
