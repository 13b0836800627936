"""`/link` as members use it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.domain.identity import Actor, Client, Registration, Role, Source
from tests.support.samples import OTHER_SECRET, PASSWORD, SECRET


async def mia(services: Any) -> Actor:
    """A user of the web, freshly signed in there."""
    await services.identity.create(await services.identity.operator(), "mia*", PASSWORD, Role.MEMBER)
    client = Client(source=Source.WEB)
    signed_in = await services.authentication.login("mia*", PASSWORD, client)
    actor: Actor = await services.requests.authenticate(signed_in.access_token.reveal(), client)
    return actor


async def code_of(services: Any, actor: Actor) -> str:
    return str((await services.discord_linking.issue_code(actor)).code.reveal())


async def test_a_member_sees_what_moves_and_then_it_moves(community: Any, shown: Any) -> None:
    services = community.services
    web = await mia(services)
    await community.add(label="work")
    await services.credentials.add(web, provider="openai", label="work", secret=OTHER_SECRET)
    code = await code_of(services, web)
    asked = await community.alice.slash(community.channel, "link", code=code)
    text = shown(asked)
    assert "mia\\*" in text
    assert "Did somebody else give you this code?" in text
    assert "called “work 2” there" in text
    assert SECRET not in text
    assert (await community.actor(community.alice)).user_id != web.user_id
    done = shown(await community.press(community.alice, asked, "link"))
    assert "**Linked** with the account “mia\\*”" in done
    assert "is called “work 2” now" in done
    assert (await community.actor(community.alice)).user_id == web.user_id
    assert {view.label for view in await community.views()} == {"work", "work 2"}


async def test_who_cancels_leaves_everything_as_it_was(community: Any, shown: Any) -> None:
    web = await mia(community.services)
    asked = await community.alice.slash(community.channel, "link", code=await code_of(community.services, web))
    assert "No keys are stored" in shown(asked)
    assert shown(await community.press(community.alice, asked, "nolink")) == "Nothing was linked."
    assert await community.services.identity.discord_id_of(web.user_id) is None


async def test_where_people_need_an_invitation_a_code_is_one(
    community: Any, shown: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = community.services
    monkeypatch.setattr(services.identity, "_registration", Registration.INVITE)
    web = await mia(services)
    assert "by invitation" in shown(await community.bob.slash(community.channel, "key list"))
    asked = await community.bob.slash(community.channel, "link", code=await code_of(services, web))
    assert "**Linked**" in shown(await community.press(community.bob, asked, "link"))
    assert (await community.actor(community.bob)).user_id == web.user_id


@pytest.mark.parametrize("code", ["0000000000", "nonsense", "**x**", "\u202e0000000000"])
async def test_a_code_that_is_none_is_refused_without_an_echo(community: Any, shown: Any, code: str) -> None:
    text = shown(await community.alice.slash(community.channel, "link", code=code))
    assert text == (
        "**Nothing was linked.** This code was used, has expired or never was: make another one on your account page."
    )


async def test_wrong_codes_are_limited(community: Any, shown: Any) -> None:
    web = await mia(community.services)
    for guess in range(10):
        await community.alice.slash(community.channel, "link", code=f"{guess:010}")
    code = await code_of(community.services, web)
    assert "Too many attempts" in shown(await community.alice.slash(community.channel, "link", code=code))
    assert "mia" in shown(await community.bob.slash(community.channel, "link", code=code))


async def test_what_is_linked_elsewhere_is_refused_with_the_remedy(community: Any, shown: Any) -> None:
    services = community.services
    web = await mia(services)
    await services.discord_linking.link_by_code("42", await code_of(services, web))
    code = await code_of(services, replace(web, discord_id="42"))
    text = shown(await community.alice.slash(community.channel, "link", code=code))
    assert "linked to another Discord account: unlink it first" in text
