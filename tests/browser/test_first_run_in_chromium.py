"""From the address that a new server prints to the first stored credential."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.support.browsing import DESKTOP_LIGHT, LOOKS, fits, opened
from tests.support.samples import OWNER, PASSWORD, SECRET
from tests.support.web import Site

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


class Effort:
    """The pages on which somebody typed, and how many fields they filled in."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.pages: set[str] = set()
        self.fields = 0

    async def fill(self, label: str, text: str) -> None:
        await self._page.get_by_label(label).fill(text)
        self.pages.add(self._page.url)
        self.fields += 1


@LOOKS
async def test_the_first_credential_takes_two_pages_and_six_fields(
    browser: Browser, empty_site: Site, look: Mapping[str, Any]
) -> None:
    site = empty_site
    token = site.services.keys.setup_token().reveal()
    asked: list[str] = []
    async with opened(browser, look) as page:
        page.on("request", lambda request: asked.append(request.url))
        effort = Effort(page)
        await page.goto(f"{site.url}/setup#{token}")
        await expect(page.get_by_label("Setup token")).to_have_value(token)
        await expect(page.get_by_label("Username")).to_be_focused()
        assert page.url == f"{site.url}/setup"
        assert await page.evaluate("history.length") <= 2, "the address with the token is replaced, not left behind"
        await effort.fill("Username", OWNER)
        await effort.fill("Password", "password1234")
        await page.get_by_role("button", name="Create the owner").click()
        await expect(page.get_by_role("alert")).to_contain_text("too easy to guess")
        await expect(page.get_by_label("Setup token")).to_have_value(token)
        await expect(page.get_by_label("Username")).to_have_value(OWNER)
        await expect(page.get_by_label("Password")).to_have_value("")
        await expect(page.get_by_label("Password")).to_be_focused()
        await fits(page)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Create the owner").click()

        await expect(page).to_have_url(f"{site.url}/")
        await fits(page)
        steps = page.get_by_role("region", name="First run")
        await steps.get_by_role("link", name="Store a credential").click()
        await effort.fill("Provider", "openai")
        await effort.fill("Label", "Summer bot")
        await effort.fill("Secret", SECRET)
        await page.get_by_role("button", name="Store it").click()
        await expect(page.get_by_role("status")).to_contain_text("Stored.")
        assert len(effort.pages) <= 2
        assert effort.fields <= 6
        assert not any(token in url for url in asked), "the token is in no address that the server sees"

        await page.goto(site.url)
        await expect(steps.get_by_role("link", name="Store a credential")).to_have_count(0)
        await steps.get_by_text("1 step is done").click()
        await expect(steps.get_by_text("Store a credential")).to_be_visible()
        await steps.get_by_role("button", name="Hide this list").click()
        await expect(page.get_by_role("status").first).to_contain_text("not shown any more")
        await expect(steps).to_have_count(0)


async def test_the_setup_token_can_be_pasted_with_its_address_where_no_script_runs(
    browser: Browser, empty_site: Site
) -> None:
    site = empty_site
    async with opened(browser, DESKTOP_LIGHT, java_script_enabled=False) as page:
        printed = f"{site.url}/setup#{site.services.keys.setup_token().reveal()}"
        await page.goto(printed)
        await page.get_by_label("Setup token").fill(printed)
        await page.get_by_label("Username").fill(OWNER)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Create the owner").click()
        await expect(page).to_have_url(f"{site.url}/")
