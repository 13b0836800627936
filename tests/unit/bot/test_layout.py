"""How answers look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import discord
import pytest

from app.bot import layout
from app.domain.credentials import CredentialView, Owner, OwnerKind, Status

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
    }
    return CredentialView(**values | changes)


def credential(shown: CredentialView, headline: str = "") -> layout.Notice:
    return layout.Notice(*layout.credential(ENGLISH, shown, headline))


def text_of(answer: layout.Notice) -> str:
    return "\n".join(item.content for item in answer.walk_children() if isinstance(item, discord.ui.TextDisplay))


async def test_an_answer_is_one_container_with_bitting_label_state_and_payer() -> None:
    answer = credential(view(), "Stored.")
    assert [type(child) for child in answer.children] == [discord.ui.Container]
    text = text_of(answer)
    assert "`▁▂▃▄▆▇██`" in text
    assert "**work** · openai" in text
    assert "Not checked with the provider yet." in text
    assert "You pay for its use." in text
    assert "sk-proj-••••••••abcd" in text


@pytest.mark.parametrize("status", list(Status))
async def test_every_state_has_a_sentence(status: Status) -> None:
    assert layout.STATES[status] in text_of(credential(view(status=status)))


async def test_a_servers_key_says_that_its_sharer_pays() -> None:
    assert "its sharer pays" in text_of(credential(view(owner=Owner(OwnerKind.GUILD, "1"))))


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
    answer = layout.Notice(*layout.listing(discord.Locale.german, "Your keys", page))
    assert answer.content_length() <= 4000
    assert sum(1 for _ in answer.walk_children()) <= 40


async def test_a_text_is_shown_to_the_letter_or_given_as_a_file() -> None:
    assert "```\nline one\nline *two*\n```" in text_of(
        layout.verbatim(ENGLISH, "Opened. Only you see this.", "line one\nline *two*")
    )
    for text in ("a ``` breaks out", "x" * 3851, ""):
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
