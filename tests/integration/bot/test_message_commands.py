"""`/encrypt` and `/decrypt` as members use them."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.errors import StorageError

TEXT = "meet at *nine*, {0}, <@1>, \u202e and 🔑"


def token_of(answer: Any) -> str:
    """The token in the code block of an answer."""
    block: str = answer.response.components[0]["components"][1]["content"]
    return block.removeprefix("```\n").removesuffix("\n```")


async def encrypt(member: Any, channel: Any, text: str = TEXT, **options: Any) -> Any:
    form = await member.slash(channel, "encrypt", **options)
    return await member.submit_modal(form, {"text": text})


async def decrypt(member: Any, channel: Any, token: str) -> Any:
    form = await member.slash(channel, "decrypt")
    return await member.submit_modal(form, {"token": token})


async def test_a_member_opens_what_they_encrypted(community: Any, shown: Any) -> None:
    answer = await encrypt(community.alice, community.channel)
    assert "Only you can open it" in shown(answer)
    assert "nine" not in shown(answer)
    assert f"```\n{TEXT}\n```" in shown(await decrypt(community.alice, community.channel, f" {token_of(answer)}\n"))


async def test_nobody_else_opens_it(community: Any, shown: Any) -> None:
    token = token_of(await encrypt(community.alice, community.channel))
    text = shown(await decrypt(community.bob, community.channel, token))
    assert text.startswith("This token cannot be opened here")


async def test_a_servers_token_opens_for_its_members_and_there_only(community: Any, shown: Any) -> None:
    answer = await encrypt(community.alice, community.channel, for_server=True)
    assert "Members of this server" in shown(answer)
    token = token_of(answer)
    assert TEXT in shown(await decrypt(community.bob, community.channel, token))
    assert "cannot be opened here" in shown(await decrypt(community.otto, community.other_channel, token))


@pytest.mark.parametrize(
    "token",
    ["no token", "gAAAAAB" + "x" * 100, "{0.__class__}", "\u202e**x**", "nul\0", "\ud800"],
    ids=["no token", "forged", "format string", "markup", "NUL", "surrogate"],
)
async def test_what_is_no_token_is_refused_without_an_echo(community: Any, shown: Any, token: str) -> None:
    text = shown(await decrypt(community.alice, community.channel, token))
    assert "cannot be opened here" in text or text.startswith("“Token” has characters")
    assert token not in text


async def test_the_longest_text_makes_a_token_that_the_form_takes_back(community: Any, shown: Any) -> None:
    longest = "x" * 2800
    token = token_of(await encrypt(community.alice, community.channel, longest))
    assert len(token) <= 4000
    assert longest in shown(await decrypt(community.alice, community.channel, token))


async def test_a_text_of_too_many_bytes_is_refused(community: Any, shown: Any) -> None:
    assert shown(await encrypt(community.alice, community.channel, "🔑" * 701)).startswith("“Text” is too long")


async def test_a_text_that_would_break_out_of_its_block_comes_as_a_file(community: Any, shown: Any) -> None:
    text = "before ``` after"
    answer = await decrypt(
        community.alice, community.channel, token_of(await encrypt(community.alice, community.channel, text))
    )
    assert "before" not in shown(answer)
    assert [attachment.filename for attachment in answer.response.attachments] == ["keyhall.txt"]


@pytest.mark.parametrize("method", ["encrypt", "decrypt"])
async def test_a_database_that_does_not_answer_is_said(
    community: Any, shown: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    token = token_of(await encrypt(community.alice, community.channel))

    async def failing(*_: object, **__: object) -> None:
        raise StorageError

    monkeypatch.setattr(community.services.messages, method, failing)
    answer = await (
        encrypt(community.alice, community.channel)
        if method == "encrypt"
        else decrypt(community.alice, community.channel, token)
    )
    assert "Keyhall cannot reach its storage" in shown(answer)
