"""`/privacy` as members use it."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.errors import OutcomeUnknown, StorageError


async def delete(member: Any, channel: Any, name: str) -> Any:
    form = await member.slash(channel, "privacy delete")
    return await member.submit_modal(form, {"name": name})


async def test_the_export_comes_as_a_file_for_the_member_alone(community: Any, shown: Any) -> None:
    await community.add(provider="openai", label="main")
    answer = await community.alice.slash(community.channel, "privacy export")
    assert "without the secrets" in shown(answer)
    assert [each.filename for each in answer.response.attachments] == ["keyhall-export.json"]


async def test_an_export_that_discord_does_not_take_is_on_the_web(
    community: Any, shown: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.bot.cogs.privacy._LARGEST_FILE", 10)
    answer = await community.alice.slash(community.channel, "privacy export")
    assert "/privacy" in shown(answer)
    assert not answer.response.attachments


async def test_who_types_their_name_is_erased_and_comes_back_as_somebody_new(community: Any, shown: Any) -> None:
    await community.add(provider="openai", label="main")
    await community.add(community.bob, provider="openai", label="bobs")
    text = shown(await delete(community.alice, community.channel, "somebody"))
    assert "Nothing was erased" in text
    assert "not your name" in text
    assert "main" in shown(await community.alice.slash(community.channel, "key list"))
    assert "Erased." in shown(await delete(community.alice, community.channel, "alice"))
    assert "main" not in shown(await community.alice.slash(community.channel, "key list"))
    assert "bobs" in shown(await community.bob.slash(community.channel, "key list"))


@pytest.mark.parametrize(
    ("error", "said"),
    [(StorageError, "Nothing was erased"), (OutcomeUnknown, "not certain yet whether this was erased")],
)
async def test_a_failure_says_what_is_true(
    community: Any, shown: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception], said: str
) -> None:
    async def failing(*_: object, **__: object) -> None:
        raise error

    form = await community.alice.slash(community.channel, "privacy delete")
    monkeypatch.setattr(community.services.erasure, "on_discord", failing)
    assert said in shown(await community.alice.submit_modal(form, {"name": "alice"}))
