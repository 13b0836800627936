"""Signing in with Discord and linking it, as people meet the pages: wide and narrow, light and dark."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from app.domain.identity import Role
from app.services.identity import DiscordEvent
from tests.support.browsing import DESKTOP_LIGHT, LOOKS, fits, opened
from tests.support.discord_browsers import DiscordPlace, open_discord_place
from tests.support.samples import OTHER_SECRET, PASSWORD, SECRET

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DiscordPlace]:
    directory = tmp_path_factory.mktemp("place")
    url = f"sqlite+aiosqlite:///{directory / 'keyhall.db'}"
    async with open_discord_place(url, directory, REGISTRATION="open") as opened_place:
        yield opened_place


async def look_at(page: Page, name: str) -> None:
    """Check the page, and keep a picture of it where somebody wants to see them."""
    await fits(page)
    if pictures := os.environ.get("KEYHALL_PICTURES"):
        await page.screenshot(path=str(Path(pictures) / f"{name}.png"), full_page=True)


async def furnish(place: DiscordPlace, name: str, number: int) -> None:
    """A user of the web, and a Discord user with credentials, one of whose labels is taken."""

    async def known() -> bool:
        return True

    services = place.site.services
    await services.identity.create(await services.identity.operator(), name, PASSWORD, Role.MEMBER)
    event = DiscordEvent(discord_id=str(number), guild=None, member_of_known_guild=known)
    sender = await services.identity.from_discord(event)
    longest = "A label of the longest kind that fits into sixty-four characters"
    for label, secret in (("main", SECRET), (longest, OTHER_SECRET)):
        await services.credentials.add(sender, provider="openai", label=label, secret=secret)
    mine = await services.identity.operator_for(username=name)
    await services.credentials.add(mine, provider="openai", label="main", secret=OTHER_SECRET)


async def sign_in(page: Page, place: DiscordPlace, name: str) -> None:
    await page.goto(f"{place.site.url}/login")
    await page.get_by_label("Username").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page).to_have_url(f"{place.site.url}/")


@LOOKS
async def test_signing_in_with_discord(browser: Browser, place: DiscordPlace, look: Mapping[str, Any]) -> None:
    shape = "light" if look is DESKTOP_LIGHT else "dark-phone"
    async with opened(browser, look) as page:
        place.wire.consenting = None
        await page.goto(f"{place.site.url}/credentials")
        await look_at(page, f"login-{shape}")
        await page.get_by_role("link", name="Sign in with Discord").click()
        await expect(page.get_by_role("alert")).to_contain_text("You did not agree at Discord")
        assert "code=" not in page.url
        await look_at(page, f"failed-{shape}")
        place.wire.consenting = place.wire.user(3000 + len(shape))
        await page.goto(f"{place.site.url}/login?next=/credentials")
        await page.get_by_role("link", name="Sign in with Discord").click()
        await expect(page).to_have_url(f"{place.site.url}/credentials")
        await expect(page.locator(".who")).to_have_text(f"discord:{3000 + len(shape)}")


@LOOKS
async def test_linking_and_unlinking(browser: Browser, place: DiscordPlace, look: Mapping[str, Any]) -> None:
    shape = "light" if look is DESKTOP_LIGHT else "dark-phone"
    number, name = 4000 + len(shape), f"mia-{shape}"
    await furnish(place, name, number)
    async with opened(browser, look) as page:
        await sign_in(page, place, name)
        await page.goto(f"{place.site.url}/account")
        await page.get_by_role("button", name="Make a code for Discord").click()
        await expect(page.get_by_text("/link ")).to_be_visible()
        await look_at(page, f"code-{shape}")
        place.wire.consenting = place.wire.user(number)
        await page.get_by_role("link", name="Link Discord").click()
        await expect(page.locator("h1")).to_have_text("Link this Discord account?")
        await expect(page.get_by_text("called “main 2” here")).to_be_visible()
        await look_at(page, f"offer-{shape}")
        await page.get_by_role("button", name="Link them").click()
        await expect(page.get_by_role("status")).to_contain_text("2 credentials moved here.")
        await look_at(page, f"linked-{shape}")
        await page.get_by_role("button", name="Unlink it").click()
        await expect(page.get_by_role("status")).to_contain_text("is not linked any more")
        await page.goto(f"{place.site.url}/account/confirm")
        await look_at(page, f"confirm-{shape}")
