"""Linking one's Discord account on the web: the pages, REST, and what they refuse."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
import time_machine

from app.domain.identity import Role
from app.services.identity import DiscordEvent
from tests.support.discord_browsers import Browser, DiscordPlace, open_discord_place, parameters
from tests.support.samples import OTHER_SECRET, PASSWORD, SECRET

pytestmark = pytest.mark.asyncio(loop_scope="module")

TICKET = "keyhall-discord"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DiscordPlace]:
    directory = tmp_path_factory.mktemp("place")
    url = f"sqlite+aiosqlite:///{directory / 'keyhall.db'}"
    async with open_discord_place(url, directory, REGISTRATION="open") as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def browser(place: DiscordPlace) -> AsyncIterator[Browser]:
    async with place.browser() as opened:
        yield opened


async def user(place: DiscordPlace, name: str) -> str:
    identity = place.site.services.identity
    return (await identity.create(await identity.operator(), name, PASSWORD, Role.MEMBER)).id


async def store(place: DiscordPlace, number: int, label: str, secret: str = SECRET) -> Any:
    """A credential that was stored from that Discord account."""

    async def known() -> bool:
        return True

    event = DiscordEvent(discord_id=str(number), guild=None, member_of_known_guild=known)
    actor = await place.site.services.identity.from_discord(event)
    added = await place.site.services.credentials.add(actor, provider="openai", label=label, secret=secret)
    return added.view


async def come_back(place: DiscordPlace, browser: Browser, number: int) -> Any:
    """Prove a Discord account, up to the page that asks."""
    address = await browser.agree(await browser.depart("/auth/discord/link"), place.wire.user(number))
    return await browser.come_back(address)


async def form_token(browser: Browser) -> str:
    return (await browser.open("/account")).form_token()


async def linked_with(browser: Browser) -> Any:
    return (await browser.open("/api/v1/auth/me")).json["discord_id"]


async def test_a_page_shows_what_moves_and_nothing_moves_before_its_button(
    place: DiscordPlace, browser: Browser
) -> None:
    mia = await user(place, "mia")
    view = await store(place, 1001, "main")
    await browser.sign_in_by_password("mia")
    assert "Link Discord" in (await browser.open("/account")).text
    back = await come_back(place, browser, 1001)
    assert (back.status, back.headers["Location"]) == (303, "/account/discord")
    page = await browser.open("/account/discord")
    assert page.status == 200
    assert "1 credential moves" in page.text
    assert view.masked in page.text
    assert SECRET not in page.text
    assert await linked_with(browser) is None
    answer = await browser.submit("/account/discord", form_token=page.form_token())
    assert answer.status == 200
    assert "1 credential moved here." in answer.text
    assert "Linked with the Discord account" in answer.text
    assert browser.cookie(TICKET) is None
    assert await linked_with(browser) == "1001"
    items = (await browser.open("/api/v1/credentials")).json["items"]
    assert [each["id"] for each in items] == [view.id]
    async with place.browser() as other:
        await other.sign_in(place.wire.user(1001))
        assert await other.who() == mia


async def test_a_label_that_is_taken_is_named_before_and_after(place: DiscordPlace, browser: Browser) -> None:
    await user(place, "tom")
    await store(place, 1002, "main")
    await browser.sign_in_by_password("tom")
    tom = await place.site.services.identity.operator_for(username="tom")
    await place.site.services.credentials.add(tom, provider="openai", label="Main", secret=OTHER_SECRET)
    await come_back(place, browser, 1002)
    page = await browser.open("/account/discord")
    assert "main 2" in page.text
    assert "is called “main 2” now" in (await browser.submit("/account/discord", form_token=page.form_token())).text


async def test_the_proof_is_of_one_session_and_of_one_use(place: DiscordPlace, browser: Browser) -> None:
    await user(place, "ann")
    await user(place, "eve")
    await browser.sign_in_by_password("ann")
    await come_back(place, browser, 1003)
    ticket, token = browser.cookie(TICKET) or "", await form_token(browser)
    async with place.browser() as thief:
        await thief.sign_in_by_password("eve")
        thief.client.cookie_jar.update_cookies({TICKET: ticket})
        stolen = await thief.submit("/account/discord", form_token=await form_token(thief))
        assert stolen.status == 403
        assert "another browser" in stolen.text
        assert await linked_with(thief) is None
    assert (await browser.submit("/account/discord", form_token=token)).status == 200
    assert (await browser.submit("/account/discord/unlink", form_token=token)).status == 303
    browser.client.cookie_jar.update_cookies({TICKET: ticket})
    assert (await browser.submit("/account/discord", form_token=token)).status == 403
    assert await linked_with(browser) is None


async def test_a_callback_of_an_attacker_links_nothing_to_the_victims_account(place: DiscordPlace) -> None:
    """Login CSRF turned to linking: the attacker's own callback, opened in the victim's browser."""
    await user(place, "victim")
    await user(place, "attacker")
    async with place.browser() as victim, place.browser() as attacker:
        await victim.sign_in_by_password("victim")
        await attacker.sign_in_by_password("attacker")
        theirs = await attacker.agree(await attacker.depart("/auth/discord/link"), place.wire.user(6666))
        assert (await victim.come_back(theirs)).headers["Location"] == "/auth/discord/failed?why=again"
        page = await victim.open("/account/discord")
        assert page.status == 403
        assert "Link them" not in page.text
        refused = await victim.open("/auth/discord/link", site="cross-site")
        assert (refused.status, "Set-Cookie" in refused.headers) == (403, False)


async def test_the_form_needs_its_token_and_the_page_its_proof(place: DiscordPlace, browser: Browser) -> None:
    await user(place, "ida")
    await browser.sign_in_by_password("ida")
    await come_back(place, browser, 1004)
    assert (await browser.submit("/account/discord", form_token="0" * 64)).status == 403
    assert await linked_with(browser) is None
    async with place.browser() as stranger:
        for path in ("/account/discord", "/auth/discord/link", "/account/confirm"):
            answer = await stranger.open(path)
            assert (answer.status, answer.headers["Location"].startswith("/login")) == (303, True)


async def test_an_account_that_is_linked_elsewhere_is_not_taken(place: DiscordPlace, browser: Browser) -> None:
    await user(place, "lea")
    await user(place, "max")
    await browser.sign_in_by_password("lea")
    await come_back(place, browser, 1005)
    await browser.submit("/account/discord", form_token=await form_token(browser))
    async with place.browser() as other:
        await other.sign_in_by_password("max")
        await come_back(place, other, 1005)
        page = await other.open("/account/discord")
        assert page.status == 409
        assert "linked to another user" in page.text


async def test_after_ten_minutes_the_password_is_asked_for_first(place: DiscordPlace, browser: Browser) -> None:
    await user(place, "zoe")
    await browser.sign_in_by_password("zoe")
    token = await form_token(browser)
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=11), tick=True):
        await place.site.services.instances.catch_up()
        assert (await browser.open("/auth/discord/link")).headers["Location"] == "/account/confirm"
        for path in ("/account/discord/code", "/account/discord/unlink"):
            assert (await browser.submit(path, form_token=token)).headers["Location"] == "/account/confirm"
        assert "Present password" not in (await browser.open("/account/confirm")).text
        wrong = await browser.submit("/account/confirm", form_token=token, password="not the password")
        assert wrong.status == 401
        right = await browser.submit("/account/confirm", form_token=token, password=PASSWORD)
        assert right.headers["Location"] == "/account?done=confirmed"
        assert (await browser.open("/auth/discord/link")).status == 303
        assert (await browser.submit("/account/discord/code", form_token=token)).status == 200
    await place.site.services.instances.catch_up()


async def test_a_code_is_shown_once_and_links_in_discord(place: DiscordPlace, browser: Browser) -> None:
    await user(place, "kim")
    await browser.sign_in_by_password("kim")
    answer = await browser.submit("/account/discord/code", form_token=await form_token(browser))
    found = re.search(r"/link ([0-9A-Z]{5}-[0-9A-Z]{5})", answer.text)
    assert found
    assert found[1] not in (await browser.open("/account")).text
    linked = await place.site.services.discord_linking.link_by_code("1006", found[1])
    assert linked.username == "kim"
    assert await linked_with(browser) == "1006"


async def test_rest_makes_codes_and_unlinks(place: DiscordPlace) -> None:
    await user(place, "rob")
    token = await place.site.log_in("rob")

    async def send(method: str, path: str, **more: Any) -> Any:
        return await place.site.request(method, f"/api/v1/auth/discord{path}", token=token, **more)

    made = await send("POST", "/link-code")
    assert made.status == 200
    assert set(made.json) == {"code", "expires_at"}
    until = datetime.fromisoformat(made.json["expires_at"])
    assert timedelta(minutes=9) < until - datetime.now(UTC) <= timedelta(minutes=10)
    assert (await send("DELETE", "")).code == "not_found"
    await place.site.services.discord_linking.link_by_code("1007", made.json["code"])
    assert (await send("DELETE", "")).status == 204
    assert (await place.site.request("GET", "/api/v1/auth/me", token=token)).json["discord_id"] is None
    assert (await place.site.request("POST", "/api/v1/auth/discord/link-code", token="")).code == "invalid_token"


async def test_who_has_only_discord_keeps_it(place: DiscordPlace, browser: Browser) -> None:
    await browser.sign_in(place.wire.user(1008))
    token = await form_token(browser)
    answer = await browser.submit("/account/discord/unlink", form_token=token)
    assert answer.status == 409
    assert "set a password first" in answer.text
    assert await linked_with(browser) == "1008"
    assert "Sign in with Discord again" in (await browser.open("/account/confirm")).text


async def test_the_code_and_the_state_stand_in_no_address_of_ours(place: DiscordPlace, browser: Browser) -> None:
    await user(place, "pia")
    await browser.sign_in_by_password("pia")
    address = await browser.agree(await browser.depart("/auth/discord/link"), place.wire.user(1009))
    found = parameters(address)
    answer = await browser.come_back(address)
    page = await browser.open(answer.headers["Location"])
    assert not {found["code"], found["state"]} & {answer.headers["Location"], *re.findall(r"[\w-]{16,}", page.text)}
    assert answer.headers["Referrer-Policy"] == page.headers["Referrer-Policy"] == "no-referrer"
